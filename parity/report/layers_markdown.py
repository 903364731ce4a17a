"""A parity report with its diagnosis as Markdown, for a pull request or a model card."""

from __future__ import annotations

from collections.abc import Iterator

from ssdconv.parity.diagnose.result import Diagnosis
from ssdconv.parity.layers.results import ParityReport
from ssdconv.parity.report import layers_diagnosis
from ssdconv.parity.report import markdown as summary_markdown


def render(report: ParityReport, diagnosis: Diagnosis | None = None) -> str:
    """Verdict, figures per stage, the first divergent layer, the diagnosis, provenance, and every layer folded away."""
    return "\n".join(_lines(report, diagnosis)).rstrip() + "\n"


def _lines(report: ParityReport, diagnosis: Diagnosis | None) -> Iterator[str]:
    yield summary_markdown.render(report).rstrip()
    if diagnosis is not None:
        yield from layers_diagnosis.markdown(diagnosis)
    if report.tensors is not None and report.tensors.different:
        yield from ("", "### Stored tensors that differ", "")
        yield from (f"- {line}" for line in report.tensors.different[:20])
    yield from ("", "### Provenance", "", "| | sha256 |", "|---|---|")
    yield f"| weights | `{report.weights_sha256}` |"
    yield f"| source | `{report.source_sha256}` |"
    yield from ("", "<details><summary>Every layer</summary>", "")
    for result in report.inputs:
        yield from (f"**{result.name}**", "", "| layer | shape | error / floor | rms / floor |", "|---|---|--:|--:|")
        for p in result.probes:
            shape = "×".join(map(str, p.measured.shape))
            yield f"| `{p.source}`{'' if p else ' ❌'} | {shape} | {p.ratio:.2f} | {p.rms_ratio:.2f} |"
        yield ""
    yield "</details>"
