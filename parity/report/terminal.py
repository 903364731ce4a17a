"""The parity report for a person at a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssdconv.parity.layers.results import ParityReport
from ssdconv.parity.layers.tolerance import MAX_RATIO, RMS_RATIO
from ssdconv.parity.report.summary import facts, failures, groups, verdict
from ssdconv.text import console as safe_console


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
    console.print(_table(report))
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
    colours = {"passed": "bold green", "failed": "bold red", "not compared": "bold yellow"}
    console.print(Text(verdict(report), colours[report.outcome]))


def _links(report: ParityReport) -> Table:
    table = Table(title=Text("who says so, link by link", "dim"), title_justify="left", box=None, pad_edge=False)
    for title in ("link", "who says so", "compared", "what"):
        table.add_column(title, overflow="fold")
    for row in report.links:
        style = "red" if row.differs else "yellow" if row.weak else ""
        told = "\n".join(row.differs) or row.text
        table.add_row(row.link, row.says, row.compared or "nothing", Text(told), style=style)
    return table


def _table(report: ParityReport) -> Table:
    title = f"error over the rounding floor, worst of {len(report.inputs)} inputs (limits: max {MAX_RATIO:g}, rms {RMS_RATIO:g})"
    table = Table(title=Text(title, "dim"), title_justify="left", box=None, pad_edge=False)
    table.add_column("layers", overflow="fold")
    table.add_column("probes", justify="right")
    table.add_column("max", justify="right")
    table.add_column("rms", justify="right")
    table.add_column("worst layer", overflow="fold")
    for group in groups(report):
        style = "red" if group.failed else ""
        mark = f"{group.failed} failed, {group.worst.source}" if group.failed else group.worst.source
        row = (group.name, str(group.probes), _ratio(group.ratio), _ratio(group.rms_ratio), mark)
        table.add_row(*row, style=style)
    return table


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else f"{value:.1e}"
