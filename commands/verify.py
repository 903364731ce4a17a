"""``ssdconv verify``: activation parity with the source file, or accuracy over a data set against the published tables.

For accuracy it detects over the data set, or reads stored detections, then scores and judges.
"""

from __future__ import annotations

import argparse
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdconv.commands.arguments import add_device, add_network_options, existing, zoo_path, zoo_weights
from ssdconv.commands.output import following, print_json
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_NOT_COMPARED, EXIT_OK, EXIT_PARITY, UsageError
from ssdconv.text import console

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
    add_dataset_options(parser.add_argument_group("accuracy over a data set, against the published tables"))
    add_device(parser)


def add_dataset_options(group: argparse._ArgumentGroup) -> None:
    """Add the options of a data set run."""
    add = group.add_argument
    add("--dataset", metavar="NAME", help="voc07, voc12, coco-val2017, coco-minival, …")
    add("--data-root", metavar="DIR", help="VOCdevkit, or the folder with COCO's annotations/ and images")
    add("--annotations", metavar="FILE", help="any COCO-form annotation file instead of a named data set")
    add("--images", metavar="DIR", help="the images of --annotations")
    add("--weights", metavar="FILE", help="a checkpoint that ssdconv wrote (the same as WEIGHTS)")
    add("--network", metavar="NAME", help="a network of the zoo; with --detections: whose detections they are")
    add("--zoo", metavar="FILE", help="look --network up in this zoo file instead of the built-in one")
    add_network_options(group)
    add("--detections", metavar="PATH", help="score these instead: VOC comp4 folder, COCO results json, or our stream")
    add(
        "--convention",
        metavar="NAME",
        help="VOC scoring: devkit, chainercv, gluoncv, ssd.pytorch, caffe (default: the published row's)",
    )
    add(
        "--evaluator", choices=("hotcoco", "pycocotools"), default="hotcoco", help="COCO scoring (default: %(default)s)"
    )
    add("--batch-size", type=int, metavar="N", help="images per forward pass (default: 8 on CUDA, 1 on the CPU)")
    add("--workers", type=int, default=1, metavar="N", help="threads that load images (default: 1)")
    add("--limit", type=int, metavar="N", help="only the first N images")
    add("--work", metavar="DIR", help="folder for the detections of a run that may be continued (default: the cache)")
    add("--fresh", action="store_true", help="refuse to continue an earlier run's detections")
    add("--keep-going", action="store_true", help="count and list bad images and annotations instead of stopping")
    add("--report", metavar="DIR", help="write the report there as HTML, Markdown and JSON")
    add("--resamples", type=int, metavar="N", help="bootstrap resamples (default: 1000 for VOC, 200 for COCO)")


def run(args: Namespace) -> int:
    if over_dataset(args):
        if args.source or args.prototxt or args.symbol or args.image or args.diagnose or args.strict:
            raise UsageError("--source is for the layers and --dataset for accuracy; run them one after the other")
        return run_dataset(args)
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


def over_dataset(args: Namespace) -> bool:
    """Whether the arguments ask for a data set run."""
    return bool(args.dataset or args.annotations or args.detections or args.data_root)


def run_dataset(args: Namespace) -> int:
    """Run, or read what is stored, and print; exit code 1 when a published number is not reproduced."""
    stored = bool(args.detections)
    runs = [_one(args, weights) for weights in ([None] if stored else _weights(args))]
    results = [run for run in runs if run is not None]
    if not results:
        return EXIT_OK
    if args.json:
        documents = [json.loads(result.to_json()) | ({} if stored else {"run": run}) for result, run in results]
        print_json(documents[0] if len(documents) == 1 else documents)
    elif len(results) > 1:
        from ssdconv.parity.report.terminal import overview

        console().print(overview([result for result, _ in results]))
    return EXIT_OK if all(result for result, _ in results) else EXIT_PARITY


def _weights(args: Namespace) -> list[Path]:
    given = args.positional or args.weights
    if given and args.network:
        raise UsageError("give weights or --network, not both")
    if given:
        return [existing(given)]
    if args.network:
        return [zoo_weights(args)]
    from ssdconv import zoo

    names = zoo.local(zoo_path(args))
    if not names:
        raise UsageError(
            "no weights given, and none of the zoo's are on this machine",
            hint="--weights out.pth, or `ssdconv zoo download NAME`",
        )
    return [zoo.weights(name, zoo=zoo_path(args), offline=True) for name in names]


def _one(args: Namespace, weights: Path | None) -> tuple[Any, dict[str, Any]] | None:
    from ssdconv.parity.accuracy.evaluate import RunOptions, verify_dataset
    from ssdconv.parity.report.accuracy import write_report
    from ssdconv.parity.report.terminal import show_evaluation

    options = RunOptions(
        dataset=args.dataset,
        data_root=_path(args.data_root),
        annotations=_path(args.annotations),
        images=_path(args.images),
        detections=_path(args.detections),
        network=args.network,
        convention=args.convention,
        evaluator=args.evaluator,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
        limit=args.limit,
        work=_path(args.work),
        resume=not args.fresh,
        keep_going=args.keep_going,
        resamples=args.resamples,
    )
    with following() as progress:
        outcome = verify_dataset(weights, options, progress)
    if outcome is None:
        return None
    result, stats, problems = outcome
    if args.report:
        write_report(result, Path(args.report))
    if not args.json:
        show_evaluation(result)
        if stats is not None:
            rate, share = ((n / stats.seconds if stats.seconds else 0.0) for n in (stats.images, stats.waiting))
            print(
                f"ran {stats.images} images ({stats.resumed} from an earlier run): {rate:.1f} images/s, "
                f"{share:.0%} of the time waiting for images; detections in {stats.stream}"
            )
        if len(problems):
            print(f"{len(problems)} problems were passed over:")
            for error in problems.errors[:20]:
                print(f"  {str(error).splitlines()[0]}")
    return result, {} if stats is None else asdict(stats) | {"stream": str(stats.stream)}


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
