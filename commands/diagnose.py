"""``ssdconv diagnose``: why converted weights do not compute what they should."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ssdconv.commands.arguments import existing
from ssdconv.commands.output import following, print_json
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_OK, EXIT_PARITY

NAME = "diagnose"
GROUP: Group = "prove"
HELP = "find out why converted weights are wrong: known mistakes are tried and the one behind the difference named"
EXAMPLES: tuple[str, ...] = (
    "ssdconv diagnose mine.pth --reference out.pth",
    "ssdconv diagnose mine.pth --source x.caffemodel --prototxt deploy.prototxt",
    "ssdconv diagnose mine.pth --source x.params --image street.jpg --json",
)


def configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "weights", metavar="WEIGHTS", help="weights under suspicion: a checkpoint, or somebody's state dict"
    )
    against = parser.add_mutually_exclusive_group(required=True)
    against.add_argument("--source", metavar="FILE", help="the original weight file, run by its own framework")
    against.add_argument("--reference", metavar="FILE", help="converted weights that are right")
    parser.add_argument("--prototxt", metavar="FILE", help="the source network's deploy.prototxt (Caffe)")
    parser.add_argument(
        "--image", nargs="+", default=[], metavar="IMG", help="compare on these images besides seeded noise"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of the generated picture (default: 0)")
    parser.add_argument(
        "--seconds", type=float, default=55.0, metavar="S", help="begin no new trial after this time (default: 55)"
    )


def run(args: Namespace) -> int:
    weights = existing(args.weights)
    source, reference, prototxt = (existing(p) if p else None for p in (args.source, args.reference, args.prototxt))
    images = [existing(image) for image in args.image]
    from ssdconv.parity.diagnose.search import diagnose

    with following() as progress:
        found = diagnose(
            weights,
            source=source,
            reference=reference,
            prototxt=prototxt,
            images=images,
            seed=args.seed,
            seconds=args.seconds,
            progress=progress,
        )
    if args.json:
        print_json(found.to_json())
    else:
        from ssdconv.parity.diagnose.result import show

        show(found)
    return EXIT_OK if found.passed else EXIT_PARITY
