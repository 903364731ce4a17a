"""Reports for a person at a terminal: the parity report, and evaluations on data sets."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ssdconv.parity.accuracy.result import EvaluationResult
from ssdconv.parity.layers.results import ParityReport
from ssdconv.parity.layers.tolerance import MAX_RATIO, RMS_RATIO
from ssdconv.parity.report.accuracy import cited, class_table, data_title, main_verdicts
from ssdconv.parity.report.page import percent, points, spread
from ssdconv.parity.report.summary import facts, failures, groups, verdict
from ssdconv.text import console as safe_console

_STYLE = {
    "passed": "bold green",
    "failed": "bold red",
    "not compared": "bold yellow",
    "reproduced": "bold green",
    "differs": "bold red",
    "not comparable": "yellow",
    "not published": "dim",
}


def show(report: ParityReport, console: Console | None = None) -> None:
    """Print a summary on stdout: facts, a line per stage of the network, failures, and the verdict last."""
    console = console or safe_console()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in facts(report):
        grid.add_row(label, Text(text))
    console.print(grid)
    console.print()
    if report.links:
        console.print(_links(report))
        console.print()
    console.print(_stages(report))
    for name, probe, more in failures(report):
        console.print(Text(f"\nfirst divergent layer: {probe.source} on {name}", "bold red"))
        behind = f"; {more} more behind it differ" if more else "; no other layer differs"
        console.print(Text(f"  {probe.reason}{behind}"))
    for result in report.inputs:
        rows = result.detections.one_sided if result.detections is not None else ()
        for row in [r for r in rows if not r.explained][:5]:
            text = f"\nonly the {row.side} has class {row.label}, score {row.score:.6f} on {result.name}"
            console.print(Text(text, "bold red"))
            console.print(Text(f"  {row.reason}"))
    console.print()
    console.print(Text(verdict(report), _STYLE[report.outcome]))


def _links(report: ParityReport) -> Table:
    table = Table(title=Text("who says so, link by link", "dim"), title_justify="left", box=None, pad_edge=False)
    for title in ("link", "who says so", "compared", "what"):
        table.add_column(title, overflow="fold")
    for row in report.links:
        style = "red" if row.differs else "yellow" if row.weak else ""
        told = "\n".join(row.differs) or row.text
        table.add_row(row.link, row.says, row.compared or "nothing", Text(told), style=style)
    return table


def _stages(report: ParityReport) -> Table:
    title = f"error over the rounding floor, worst of {len(report.inputs)} inputs (limits: max {MAX_RATIO:g}, rms {RMS_RATIO:g})"
    table = Table(title=Text(title, "dim"), title_justify="left", box=None, pad_edge=False)
    for name in ("layers", "probes", "max", "rms", "worst layer"):
        numeric = name in ("probes", "max", "rms")
        table.add_column(name, justify="right" if numeric else "left", overflow="ellipsis" if numeric else "fold")
    for group in groups(report):
        mark = f"{group.failed} failed, {group.worst.source}" if group.failed else group.worst.source
        row = (group.name, str(group.probes), _ratio(group.ratio), _ratio(group.rms_ratio), mark)
        table.add_row(*row, style="red" if group.failed else "")
    return table


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else f"{value:.1e}"


def show_evaluation(result: EvaluationResult, console: Console | None = None) -> None:
    """Print one evaluation: protocol, classes, numbers, verdicts against what is published."""
    title = Text.assemble((result.network or result.source, "bold"), " on ", (data_title(result), "bold"))
    counts = f"{result.objects:,} objects, {result.detections:,} detections; {result.evaluator}, {result.seconds:.2f} s"
    numbers = _table("number", right=("%", "95 % interval"))
    for name, value in result.numbers.items():
        style = "bold" if name == result.main else ""
        numbers.add_row(name, percent(value), spread(result.intervals.get(name)), style=style)
    parts: list[RenderableType] = [title, Text(result.protocol), Text(counts, "dim"), _classes(result), numbers]
    parts.append(_verdicts(result))
    if result.problems:
        listed = ", ".join(f"{count} x {code}" for code, count in result.problems.items())
        parts.append(Text(f"left out: {listed}", "yellow"))
    if result.network:
        parts.append(Text.assemble("verdict: ", _outcome(result.outcome)))
    (console or safe_console()).print(Group(*parts))


def overview(results: Sequence[EvaluationResult]) -> Table:
    """Many evaluations, one line each, with the first published row that counts."""
    table = _table("network", "data set", right=("%", "95 %", "publ.", "diff."))
    table.add_column("verdict", no_wrap=True)
    for r in results:
        first = next((v for v in main_verdicts(r) if v.counts), None)
        table.add_row(
            r.network or r.source,
            r.dataset,
            percent(r.numbers[r.main]),
            spread(r.intervals.get(r.main)),
            "–" if first is None else first.row.text,
            points(None if first is None else first.difference),
            _outcome(r.outcome),
        )
    return table


def _table(*left: str, right: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _outcome(outcome: str) -> Text:
    return Text(outcome, _STYLE[outcome])


def _classes(result: EvaluationResult) -> Table:
    short = {"95 % interval": "95 %", "detections": "det.", "published %": "publ.", "difference": "diff."}
    head, rows = class_table(result)
    table = _table(right=[short.get(name, name) for name in head])
    table.columns[0].justify = "left"
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _verdicts(result: EvaluationResult) -> RenderableType:
    found = main_verdicts(result)
    if not found:
        return Text("no published number for this network", "dim")
    table = _table(right=("publ. %", "here %", "diff."))
    table.add_column("verdict", no_wrap=True)
    table.add_column("source and reason")
    for v in found:
        reason = Text(f"{cited(v)}\n{v.why}", "" if v.counts else "dim")
        table.add_row(v.row.text, percent(v.measured), points(v.difference), _outcome(v.outcome), reason)
    return table
