"""``ssdconv verify``: activation parity of converted weights with their source, layer by layer."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ssdconv.commands.arguments import existing
from ssdconv.commands.output import following, print_json
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_OK, EXIT_PARITY

NAME = "verify"
GROUP: Group = "prove"
HELP = "prove that converted weights compute what their source computes, layer by layer"
EXAMPLES: tuple[str, ...] = (
    "ssdconv verify out.pth --source x.caffemodel",
    "ssdconv verify out.pth --source x.caffemodel --prototxt deploy.prototxt --image a.jpg b.jpg --json",
)


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", help="a checkpoint that ssdconv wrote")
    parser.add_argument("--source", required=True, metavar="FILE", help="the original weight file")
    parser.add_argument("--prototxt", metavar="FILE", help="the source network's deploy.prototxt (Caffe)")
    parser.add_argument(
        "--image", nargs="+", default=[], metavar="IMG", help="compare on these images besides seeded noise"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of the generated picture (default: 0)")


def run(args: Namespace) -> int:
    weights, source = existing(args.weights), existing(args.source)
    prototxt = existing(args.prototxt) if args.prototxt else None
    images = [existing(image) for image in args.image]
    from ssdconv.parity.verify import verify

    with following() as progress:
        report = verify(weights, source, prototxt=prototxt, images=images, seed=args.seed, progress=progress)
    if args.json:
        print_json(report.to_json())
    else:
        from ssdconv.parity.report.terminal import show

        show(report)
    return EXIT_OK if report.passed else EXIT_PARITY
