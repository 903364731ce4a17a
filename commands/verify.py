"""``ssdconv verify``: activation parity with the source file, or accuracy over a data set against the published tables."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssdconv.commands import verify_dataset
from ssdconv.commands.arguments import add_device, existing
from ssdconv.commands.output import following, print_json
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_NOT_COMPARED, EXIT_OK, EXIT_PARITY, UsageError

if TYPE_CHECKING:
    from ssdconv.parity.diagnose.result import Diagnosis
    from ssdconv.parity.layers.results import ParityReport

NAME = "verify"
GROUP: Group = "prove"
HELP = "prove that converted weights compute what their source computes: every layer, or mAP over a data set"
EXAMPLES: tuple[str, ...] = (
    "ssdconv verify out.pth --source x.caffemodel",
    "ssdconv verify out.pth --source x.caffemodel --prototxt deploy.prototxt --image a.jpg b.jpg --json",
    "ssdconv verify out.pth --source x.caffemodel --oracle opencv",
    "ssdconv verify out.pth --source x.caffemodel --diagnose --report report",
    "ssdconv verify out.pth --source ssd300_mAP_77.43_v2.pth --oracle original",
    "ssdconv verify out.pth --source x.caffemodel --strict",
    "ssdconv verify out.pth --source ssd-0000.params --symbol ssd-symbol.json",
    "ssdconv verify --dataset voc07 --data-root VOCdevkit --weights out.pth --report report",
    "ssdconv verify --dataset voc07 --data-root VOCdevkit --detections results/",
    "ssdconv verify --annotations mine.json --images photos --weights out.pth",
)


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("positional", nargs="?", metavar="WEIGHTS", help="a checkpoint that ssdconv wrote")
    layers = parser.add_argument_group("layer by layer, against the source file")
    layers.add_argument("--source", metavar="FILE", help="the original weight file")
    layers.add_argument("--prototxt", metavar="FILE", help="the source network's deploy.prototxt (Caffe)")
    layers.add_argument(
        "--symbol",
        metavar="FILE",
        help="MXNet's own graph of the source file, which is run instead of GluonCV's network (default: NAME-symbol.json beside "
        "NAME-0000.params)",
    )
    layers.add_argument(
        "--image", nargs="+", default=[], metavar="IMG", help="compare on these images besides seeded noise"
    )
    layers.add_argument("--seed", type=int, default=0, help="of the noise and of the generated picture (default: 0)")
    layers.add_argument(
        "--strict",
        action="store_true",
        help="exit 1 unless every link is vouched for by somebody else than this converter, or given by you: nothing assumed, "
        "nothing rebuilt here",
    )
    layers.add_argument(
        "--oracle",
        choices=("source", "caffe", "opencv", "original"),
        default="source",
        help="who runs the source file: the source framework (default; for Caffe the original where `ssdconv oracle install caffe` "
        "made it, else OpenCV), one of these two, or the project's own code, added with `ssdconv oracle add-original`",
    )
    layers.add_argument("--diagnose", action="store_true", help="where a layer differs, find out why (about a minute)")
    verify_dataset.configure(parser.add_argument_group("accuracy over a data set, against the published tables"))
    add_device(parser)


def run(args: Namespace) -> int:
    if verify_dataset.wanted(args):
        if args.source or args.prototxt or args.symbol or args.image or args.diagnose or args.strict:
            raise UsageError("--source is for the layers and --dataset for accuracy; run them one after the other")
        return verify_dataset.run(args)
    if not args.source:
        raise UsageError(
            "verify needs something to hold the weights against",
            hint="--source FILE compares every layer, --dataset NAME --data-root DIR measures mAP",
        )
    weights = args.positional or args.weights
    if not weights:
        raise UsageError("verify needs WEIGHTS", hint="ssdconv verify out.pth --source x.caffemodel")
    return _layers(args, weights)


def _layers(args: Namespace, weights: str) -> int:
    checkpoint, source = existing(weights), existing(args.source)
    prototxt = existing(args.prototxt) if args.prototxt else None
    symbol = existing(args.symbol) if args.symbol else None
    images = [existing(image) for image in args.image]
    from ssdconv.parity.verify import verify

    with following() as progress:
        chosen = None if args.oracle == "source" else args.oracle
        report = verify(
            checkpoint,
            source,
            prototxt=prototxt,
            images=images,
            seed=args.seed,
            oracle=chosen,
            symbol=symbol,
            progress=progress,
        )
        found = None
        if args.diagnose and report.outcome == "failed":
            from ssdconv.parity.diagnose.search import diagnose

            found = diagnose(
                checkpoint, source=source, prototxt=prototxt, images=images, seed=args.seed, progress=progress
            )
    written: list[Path] = []
    if args.report:
        from ssdconv.parity.report.layers import write_report

        written = write_report(Path(args.report), report, diagnosis=found, pictures=images)
    if args.json:
        print_json(report.to_json() | ({"diagnosis": found.to_json() if found else None} if args.diagnose else {}))
    else:
        _show(report, found, written)
    if args.strict and report.weak:
        told = ", ".join(f"{link.link} ({link.says})" for link in report.weak)
        print(f"strict: not vouched for by anybody else: {told}", file=sys.stderr)
        return EXIT_PARITY
    return {"passed": EXIT_OK, "failed": EXIT_PARITY, "not compared": EXIT_NOT_COMPARED}[report.outcome]


def _show(report: ParityReport, found: Diagnosis | None, written: Sequence[Path]) -> None:
    from ssdconv.parity.diagnose.result import show as show_diagnosis
    from ssdconv.parity.report.terminal import show

    show(report)
    if found is not None:
        print()
        show_diagnosis(found)
    for path in written:
        print(f"wrote {path}")
