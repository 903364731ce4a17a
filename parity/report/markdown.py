"""The parity report as Markdown, for a pull request or a model card."""

from __future__ import annotations

from collections.abc import Iterator

from ssdconv.parity.layers.results import ParityReport
from ssdconv.parity.layers.tolerance import MAX_RATIO, RMS_RATIO
from ssdconv.parity.report.summary import facts, failures, groups, verdict
from ssdconv.text import markdown_code, markdown_text


def render(report: ParityReport, *, every_probe: bool = False) -> str:
    """The report as Markdown text.

    Args:
        report: what ``verify`` returned.
        every_probe: a row per probe and input instead of a row per stage.
    """
    return "\n".join(_lines(report, every_probe)) + "\n"


def _lines(report: ParityReport, every_probe: bool) -> Iterator[str]:
    yield f"## Parity: {'FAILED' if report.outcome == 'failed' else report.outcome}"
    yield ""
    yield f"**{markdown_text(verdict(report))}**"
    yield ""
    yield from (f"- {markdown_text(label)}: {markdown_text(text)}" for label, text in facts(report))
    yield f"- versions: {', '.join(f'{k} {v}' for k, v in report.versions.items())}"
    if report.links:
        yield from ("", "| link | who says so | compared | what |", "|---|---|---|---|")
        for row in report.links:
            told = "; ".join(row.differs) or row.text
            mark = " ❌" if row.differs else ""
            yield f"| {row.link}{mark} | {row.says} | {markdown_text(row.compared or 'nothing')} | {markdown_text(told)} |"
    head = f"| {{}} | max error / floor (≤ {MAX_RATIO:g}) | rms / floor (≤ {RMS_RATIO:g}) | smallest rtol |"
    if every_probe:
        for result in report.inputs:
            yield from ("", f"### {markdown_text(result.name)}", "", head.format("layer"), "|---|--:|--:|--:|")
            for p in result.probes:
                yield f"| {markdown_code(p.source)}{'' if p else ' ❌'} | {p.ratio:.2f} | {p.rms_ratio:.2f} | {p.needed:.1e} |"
    else:
        yield from ("", head.format("layers | probes"), "|---|--:|--:|--:|--:|")
        for g in groups(report):
            mark = f" ❌ {g.failed}" if g.failed else ""
            yield f"| {markdown_code(g.name)}{mark} | {g.probes} | {g.ratio:.2f} | {g.rms_ratio:.2f} | {g.worst.needed:.1e} |"
    found = list(failures(report))
    if found:
        yield from ("", "### First divergent layer", "")
        for name, probe, more in found:
            yield f"- {markdown_code(probe.source)} on {markdown_text(name)}: {markdown_text(probe.reason)} ({more} more differ behind it)"
