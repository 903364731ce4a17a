"""An evaluation as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

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
from ssdconv.text import console as safe_console

_STYLE = {"reproduced": "bold green", "differs": "bold red", "not comparable": "yellow", "not published": "dim"}


def _outcome(outcome: str) -> Text:
    return Text(outcome, style=_STYLE[outcome])


def _classes(result: EvaluationResult) -> Table:
    published = published_per_class(result)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", no_wrap=True)
    for name in ("AP %", "95 %", "objects", "det.", "found"):
        table.add_column(name, justify="right", no_wrap=True)
    if published:
        table.add_column("publ.", justify="right", no_wrap=True)
        table.add_column("diff.", justify="right", no_wrap=True)
    for c in result.classes:
        cells = [
            c.name,
            percent(c.ap),
            spread(c.interval, 1),
            f"{c.objects:,}",
            f"{c.detections:,}",
            f"{c.true_positives:,}",
        ]
        if published:
            verdict = published.get(c.name)
            cells += [verdict.row.text, points(verdict.difference)] if verdict is not None else ["", ""]
        table.add_row(*cells)
    return table


def _numbers(result: EvaluationResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("number")
    table.add_column("%", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, value in result.numbers.items():
        style = "bold" if name == result.main else ""
        table.add_row(name, percent(value), spread(result.intervals.get(name)), style=style)
    return table


def _verdicts(result: EvaluationResult) -> RenderableType:
    found = headline(result)
    if not found:
        return Text("no published number for this network", style="dim")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("publ. %", "here %", "diff."):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("source and reason")
    for v in found:
        reason = Text(f"{source(v)}\n{v.why}", style="" if v.counts else "dim")
        table.add_row(v.row.text, percent(v.measured), points(v.difference), _outcome(v.outcome), reason)
    return table


def render(result: EvaluationResult) -> RenderableType:
    """Everything as one renderable."""
    title = Text.assemble((result.network or result.source, "bold"), " on ", (data_title(result), "bold"))
    counts = f"{result.objects:,} objects, {result.detections:,} detections; {result.evaluator}, {result.seconds:.2f} s"
    parts: list[RenderableType] = [
        title,
        Text(result.protocol),
        Text(counts, style="dim"),
        _classes(result),
        _numbers(result),
    ]
    parts.append(_verdicts(result))
    if result.problems:
        listed = ", ".join(f"{count} x {code}" for code, count in result.problems.items())
        parts.append(Text(f"left out: {listed}", style="yellow"))
    if result.network:
        parts.append(Text.assemble("verdict: ", _outcome(result.outcome)))
    return Group(*parts)


def show(result: EvaluationResult, console: Console | None = None) -> None:
    """Print one evaluation."""
    (console or safe_console()).print(render(result))


def overview(results: Sequence[EvaluationResult]) -> Table:
    """Many evaluations, one line each, with the first published row that counts."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("network")
    table.add_column("data set")
    for name in ("%", "95 %", "publ.", "diff."):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for r in results:
        counted = [v for v in headline(r) if v.counts]
        first = counted[0] if counted else None
        table.add_row(
            r.network or r.source,
            r.dataset,
            percent(r.numbers[r.main]),
            spread(r.intervals.get(r.main)),
            first.row.text if first is not None else "–",
            points(first.difference if first is not None else None),
            _outcome(r.outcome),
        )
    return table
