"""``ssdconv diff``: two weight files of any formats, tensor by tensor."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ssdconv.commands.arguments import existing
from ssdconv.commands.output import print_json, working
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_OK, EXIT_PARITY
from ssdconv.text import console

if TYPE_CHECKING:
    from ssdconv.parity.diagnose.diff import DiffReport

NAME = "diff"
GROUP: Group = "prove"
HELP = "compare two weight files of any formats: every tensor, and every field of what is done with them"
EXAMPLES: tuple[str, ...] = (
    "ssdconv diff mine.pth out.pth",
    "ssdconv diff out.pth x.caffemodel --prototxt deploy.prototxt --json",
)
SHOWN = 40


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="a weight file: a checkpoint, a source file, or somebody's state dict")
    parser.add_argument("b", metavar="B", help="another one, which A is held against")
    parser.add_argument("--prototxt", metavar="FILE", help="network definition of a Caffe file among them")
    parser.add_argument(
        "--all", action="store_true", help=f"show every tensor that differs, not only the first {SHOWN}"
    )


def run(args: Namespace) -> int:
    a, b = existing(args.a), existing(args.b)
    prototxt = existing(args.prototxt) if args.prototxt else None
    with working(f"comparing {a.name} and {b.name}"):
        from ssdconv.parity.diagnose.diff import diff

        report = diff(a, b, prototxt=prototxt)
    if args.json:
        print_json(report.to_json())
    else:
        _show(report, every=args.all)
    return EXIT_OK if report else EXIT_PARITY


def _show(report: DiffReport, *, every: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    shown = report.rows if every else report.rows[:SHOWN]
    if shown:
        table = Table(box=None, pad_edge=False)
        for title, justify in (("tensor", "left"), ("largest", "right"), ("relative", "right"), ("how", "left")):
            table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in shown:
            figures = (f"{row.largest:.3g}", f"{row.relative:.1e}") if row.largest else ("", "")
            how = f"{row.kind}: {row.detail}" if row.detail else row.kind
            table.add_row(Text(row.name), *figures, Text(how))
        out.print(table)
        if len(report.rows) > len(shown):
            out.print(Text(f"… and {len(report.rows) - len(shown)} more (--all shows them)", "dim"))
    for found in report.fields:
        out.print(Text(f"{found.link}: {found.field} is {found.mine} in A, {found.theirs} in B", "red"))
    for note in report.notes:
        out.print(Text(f"note: {note}", "dim"))
    text = f"{report.network}: {report.equal} of {report.tensors} tensors are bit-identical"
    if report.fields:
        text += f", but the configs differ in {len(report.fields)} field{'s' * (len(report.fields) > 1)}"
    out.print(Text(text, "bold green" if report else "bold red"))
