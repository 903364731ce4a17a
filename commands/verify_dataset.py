"""``ssdconv verify --dataset``: detect over a data set, or read stored detections, then score and judge."""

from __future__ import annotations

import argparse
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from ssdconv.commands.arguments import existing
from ssdconv.commands.output import following, print_json
from ssdconv.commands.zoo import add_network_options, zoo_path, zoo_weights
from ssdconv.errors import EXIT_OK, EXIT_PARITY, UsageError
from ssdconv.text import console


def configure(group: argparse._ArgumentGroup) -> None:
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


def wanted(args: Namespace) -> bool:
    """Whether the arguments ask for a data set run."""
    return bool(args.dataset or args.annotations or args.detections or args.data_root)


def run(args: Namespace) -> int:
    """Run and print; exit code 1 when a published number is not reproduced."""
    if args.detections:
        return _stored(args)
    results = []
    for weights in _weights(args):
        result = _one(args, weights)
        if result is not None:
            results.append(result)
    if not results:
        return EXIT_OK
    if len(results) > 1 and not args.json:
        from ssdconv.parity.report.map_terminal import overview

        console().print(overview([result for result, _ in results]))
    elif args.json:
        documents = [{**json.loads(result.to_json()), "run": run} for result, run in results]
        print_json(documents[0] if len(documents) == 1 else documents)
    return EXIT_OK if all(results_ for results_, _ in results) else EXIT_PARITY


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


def _one(args: Namespace, weights: Path) -> tuple[Any, dict[str, Any]] | None:
    from ssdconv.parity.accuracy.run import RunOptions, verify_dataset
    from ssdconv.parity.report.map_terminal import show

    wish = RunOptions(
        dataset=args.dataset,
        data_root=_path(args.data_root),
        annotations=_path(args.annotations),
        images=_path(args.images),
        convention=args.convention,
        evaluator=args.evaluator,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
        limit=args.limit,
        work=_path(args.work),
        resume=not args.fresh,
        keep_going=args.keep_going,
        report=_path(args.report),
        resamples=args.resamples,
    )
    with following() as progress:
        outcome = verify_dataset(weights, wish, progress)
    if outcome is None:
        return None
    result, stats, problems = outcome
    if not args.json:
        show(result)
        rate = stats.images / stats.seconds if stats.seconds else 0.0
        share = stats.waiting / stats.seconds if stats.seconds else 0.0
        print(
            f"ran {stats.images} images ({stats.resumed} from an earlier run): {rate:.1f} images/s, "
            f"{share:.0%} of the time waiting for images; detections in {stats.stream}"
        )
        _problems(problems)
    return result, {
        "images": stats.images,
        "resumed": stats.resumed,
        "seconds": stats.seconds,
        "waiting": stats.waiting,
        "stream": str(stats.stream),
    }


def _stored(args: Namespace) -> int:
    from ssdconv.parity.accuracy.evaluate import evaluate_detections
    from ssdconv.parity.report.map_terminal import show

    result, problems = evaluate_detections(
        args.dataset,
        _path(args.data_root),
        Path(args.detections),
        annotations=_path(args.annotations),
        images=_path(args.images),
        limit=args.limit,
        keep_going=args.keep_going,
        report=_path(args.report),
        network=args.network,
        convention_name=args.convention,
        evaluator=args.evaluator,
        resamples=args.resamples,
    )
    if args.json:
        print(result.to_json())
    else:
        show(result)
        _problems(problems)
    return EXIT_OK if result else EXIT_PARITY


def _problems(problems: Any) -> None:
    if len(problems):
        print(f"{len(problems)} problems were passed over:")
        for error in problems.errors[:20]:
            print(f"  {str(error).splitlines()[0]}")


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
