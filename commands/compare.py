"""``ssdconv compare``: two networks on the same images, side by side per class, with the interval of their difference."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ssdconv.commands.arguments import add_device, check_device
from ssdconv.commands.output import following, plain, print_json, table
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_OK, MissingError

NAME = "compare"
GROUP: Group = "prove"
HELP = "two networks, or their stored detections, side by side on one data set"
EXAMPLES: tuple[str, ...] = (
    "ssdconv compare converted.pth runs/x/best.pth --dataset voc07 --data-root VOCdevkit",
    "ssdconv compare a.pth b.pth --dataset coco-val2017 --data-root coco --report compare --device cuda",
    "ssdconv compare a_detections/ b_detections/ --dataset voc07 --data-root VOCdevkit --json",
    "ssdconv compare a.pth b.pth --dataset my.yaml --split val",
)


def configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "a", metavar="A", help="a checkpoint of ssdconv, or detections: comp4 folder, COCO results, stream"
    )
    parser.add_argument("b", metavar="B", help="likewise; differences are B minus A")
    data = parser.add_argument_group("data").add_argument
    data("--dataset", metavar="NAME", help="voc07, voc12, coco-val2017, …, a .yaml, or a VOC or COCO folder")
    data("--data-root", metavar="DIR", help="VOCdevkit, or the folder with COCO's annotations/ and images")
    data("--annotations", metavar="FILE", help="a COCO-form annotation file instead")
    data("--images", metavar="DIR", help="the images of --annotations")
    data("--split", metavar="NAME", help="part of a set of your own (default: val)")
    data("--limit", type=int, metavar="N", help="only the first N images")
    rule = parser.add_argument_group("scoring").add_argument
    rule(
        "--convention",
        metavar="NAME",
        help="VOC scoring of both: devkit (default), chainercv, gluoncv, ssd.pytorch, caffe",
    )
    rule("--coco-rule", metavar="NAME", default="coco", help="COCO scoring of both: coco (default), gluoncv")
    rule("--resamples", type=int, metavar="N", default=1000, help="bootstrap resamples (default: 1000; 0 for none)")
    rule("--seed", type=int, metavar="N", default=0, help="of the resamples (default: 0)")
    how = parser.add_argument_group("run")
    how.add_argument(
        "--batch-size", type=int, metavar="N", help="images per forward pass (default: 8 on CUDA, 1 on the CPU)"
    )
    how.add_argument("--workers", type=int, default=1, metavar="N", help="threads that load images (default: 1)")
    how.add_argument("--report", metavar="DIR", help="write comparison.md and comparison.json there")
    add_device(parser)


def run(args: Namespace) -> int:
    for name in (args.a, args.b):
        if not Path(name).exists():
            raise MissingError("no such file or folder", where=name)
    from ssdconv.data.catalog import DATASETS
    from ssdconv.parity.accuracy.compare import compare, is_checkpoint, side_of
    from ssdconv.parity.accuracy.evaluate import RunOptions
    from ssdconv.parity.report import accuracy
    from ssdconv.parity.report.page import write_files

    if any(is_checkpoint(Path(name)) for name in (args.a, args.b)):
        check_device(args.device)
    own = args.dataset is not None and args.dataset not in DATASETS
    options = RunOptions(
        dataset=args.dataset,
        data_root=args.data_root and Path(args.data_root),
        annotations=args.annotations and Path(args.annotations),
        images=args.images and Path(args.images),
        split=args.split or ("val" if own else None),
        limit=args.limit,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
    )
    whole, dataset = options.open()
    with following() as progress:
        a, b = (side_of(Path(name), whole, dataset, options, progress) for name in (args.a, args.b))
    result = compare(
        dataset,
        a,
        b,
        convention_name=args.convention,
        coco_rule=args.coco_rule,
        resamples=args.resamples,
        seed=args.seed,
        of_images=len(whole),
    )
    if args.report:
        texts = {
            "json": json.dumps(plain(result.to_json()), indent=1, ensure_ascii=False) + "\n",
            "md": accuracy.comparison_markdown(result),
        }
        write_files(Path(args.report), "comparison", texts)
    if args.json:
        print_json(result.to_json())
        return EXIT_OK
    print("\n".join(accuracy.comparison_lines(result)))
    print(table(accuracy.comparison_rows(result), accuracy.COMPARISON_HEAD, right=(1, 2, 3, 4, 5)))
    print(accuracy.comparison_headline(result))
    return EXIT_OK
