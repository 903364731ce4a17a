"""A diagnosis as a section of the parity report: causes, before and after, what was tried. HTML and Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from ssdconv.parity.diagnose.result import Agreement, Diagnosis
from ssdconv.text import markdown_code, markdown_text

TITLES = {
    "explained": "the cause was found",
    "partly explained": "causes were found, but something is left",
    "unexplained": "no known mistake explains the difference",
    "no difference": "nothing differs",
}
KINDS = {"explained": "passed", "partly explained": "unsure", "unexplained": "failed", "no difference": "passed"}
SHOWN_TRIALS = 40


def comparison(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    """(what, before, after) of the figures that a reader wants to see fall."""
    a, b = diagnosis.before, diagnosis.after
    rows = [
        ("first difference", a.first_divergent or "none", b.first_divergent or "none"),
        ("layers that differ", _of(a.failed, a.probes), _of(b.failed, b.probes)),
        ("largest error over its limit", f"{a.excess:.3g}", f"{b.excess:.3g}"),
        ("stored tensors that differ", _of(a.tensors_different, a.tensors), _of(b.tensors_different, b.tensors)),
        ("the truth's detections found", _found(a), _found(b)),
    ]
    return [row for row in rows if row[1:] != ("–", "–")]


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,}" if total else "–"


def _found(state: Agreement) -> str:
    return "–" if state.detections is None else _of(state.detections_matched or 0, state.detections)


def html(diagnosis: Diagnosis) -> str:
    """The section, inside of its frame."""
    head = f'<span class="badge {KINDS[diagnosis.verdict]}">{escape(TITLES[diagnosis.verdict])}</span>'
    causes = "".join(
        f'<div class="cause"><b>{escape(c.title)}</b>{_detail(c.detail)}<p>{escape(c.explanation)}</p>'
        f'<p class="soft small">{_linked(c.where)}</p>'
        + (f'<p class="fix">{escape(c.fix)}</p>' if c.fix else "")
        + "</div>"
        for c in diagnosis.causes
    )
    left = ""
    if diagnosis.verdict in ("unexplained", "partly explained") and diagnosis.after.first_divergent:
        left = f"<p>What is left starts at <code>{escape(diagnosis.after.first_divergent)}</code>.</p>"
    rows = "".join(
        f"<tr><td>{escape(a)}</td><td>{escape(b)}</td><td>{escape(c)}</td></tr>" for a, b, c in comparison(diagnosis)
    )
    table = (
        '<div class="scroll"><table class="compare"><tr><th></th><th>as it is</th><th>with the causes undone</th></tr>'
        f"{rows}</table></div>"
        if diagnosis.causes
        else ""
    )
    notes = "".join(f'<p class="soft small">{escape(note)}</p>' for note in diagnosis.notes)
    return f'{head}<div class="causes">{causes}</div>{left}{table}{notes}{_trials(diagnosis)}'


def _detail(text: str) -> str:
    return f": <code>{escape(text)}</code>" if text else ""


def _linked(where: str) -> str:
    """Text with its web addresses as links."""
    parts = re.split(r"(https?://[^\s,;)]+)", where)
    return "".join(f'<a href="{escape(p)}">{escape(p)}</a>' if i % 2 else escape(p) for i, p in enumerate(parts))


def _trials(diagnosis: Diagnosis) -> str:
    if not diagnosis.trials:
        return ""
    best = sorted(diagnosis.trials, key=lambda t: (not t.passed, t.excess_after))[:SHOWN_TRIALS]
    rows = "".join(
        f"<tr><td>{escape(' + '.join(t.causes))}</td><td>{escape(t.probe)}</td>"
        f"<td>{t.excess_before:.3g}</td><td>{t.excess_after:.3g}</td><td>{'yes' if t.passed else 'no'}</td></tr>"
        for t in best
    )
    head = "<tr><th>undone</th><th>to explain</th><th>error over limit, before</th><th>after</th><th>helps</th></tr>"
    count = f"{len(diagnosis.trials)} trials in {diagnosis.seconds:.1f} s"
    more = f", the best {len(best)}" if len(best) < len(diagnosis.trials) else ""
    return (
        f"<details><summary>What was tried: {count}{more}</summary>"
        f'<div class="scroll"><table>{head}{rows}</table></div></details>'
    )


def markdown(diagnosis: Diagnosis) -> Iterator[str]:
    """The section as lines of Markdown."""
    yield from ("", f"### Diagnosis: {TITLES[diagnosis.verdict]}", "")
    for cause in diagnosis.causes:
        detail = f" ({markdown_code(cause.detail)})" if cause.detail else ""
        yield f"- **{cause.title}**{detail}: {markdown_text(cause.explanation)} {markdown_text(cause.where)}"
        if cause.fix:
            yield f"  - next: {markdown_text(cause.fix)}"
    if diagnosis.causes:
        yield from ("", "| | as it is | with the causes undone |", "|---|--:|--:|")
        yield from (f"| {a} | {markdown_text(b)} | {markdown_text(c)} |" for a, b, c in comparison(diagnosis))
    if diagnosis.verdict in ("unexplained", "partly explained") and diagnosis.after.first_divergent:
        yield from ("", f"What is left starts at {markdown_code(diagnosis.after.first_divergent)}.")
    tried = f"{len(diagnosis.trials)} trials in {diagnosis.seconds:.1f} s"
    yield from ("", f"{tried}; " + "; ".join(map(markdown_text, diagnosis.notes)) if diagnosis.notes else tried)
