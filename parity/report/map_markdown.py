"""An evaluation as Markdown, for a README or a model card."""

from __future__ import annotations

from collections.abc import Iterable

from ssdconv.parity.accuracy.result import EvaluationResult
from ssdconv.parity.report.map_text import (
    data_title,
    headline,
    percent,
    points,
    published_per_class,
    source,
    spread,
)
from ssdconv.text import markdown_code, markdown_text


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(markdown_text(c) for c in cells) + " |"


def _table(head: list[str], rows: Iterable[Iterable[object]], left: int = 1) -> list[str]:
    rule = _row(["---"] * left + ["---:"] * (len(head) - left))
    return [_row(head), rule, *(_row(r) for r in rows), ""]


def markdown(result: EvaluationResult) -> str:
    """The whole evaluation as one Markdown document."""
    lines = [f"# {markdown_text(result.network or result.source)} on {markdown_text(data_title(result))}", ""]
    lines += [
        f"- protocol: {result.protocol}",
        f"- detections: {result.detections:,} from {markdown_code(result.source)}",
    ]
    lines += [f"- objects: {result.objects:,}", f"- evaluator: {result.evaluator}"]
    lines += [f"- left out: {count} x {code}" for code, count in result.problems.items()]
    lines += [f"- verdict: **{result.outcome}**"] if result.network else []
    lines += ["", "## Numbers (%)", ""]
    numbers = ((n, percent(v), spread(result.intervals.get(n))) for n, v in result.numbers.items())
    lines += _table(["number", "measured", "95 % interval"], numbers)
    verdicts = headline(result)
    if verdicts:
        lines += ["## Against published numbers", ""]
        rows = ((source(v), v.row.text, points(v.difference), v.outcome, v.why) for v in verdicts)
        lines += _table(["source", "published", "difference", "verdict", "why"], rows)
    published = published_per_class(result)
    head = ["class", "AP", "95 % interval", "objects", "detections", "found"]
    body = []
    for c in result.classes:
        cells: list[object] = [c.name, percent(c.ap), spread(c.interval, 1), c.objects, c.detections, c.true_positives]
        if published:
            verdict = published.get(c.name)
            cells += [verdict.row.text, points(verdict.difference)] if verdict is not None else ["", ""]
        body.append(cells)
    lines += ["## Classes (%)", "", *_table(head + (["published", "difference"] if published else []), body)]
    return "\n".join(lines).rstrip() + "\n"
