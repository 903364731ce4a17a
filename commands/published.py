"""``ssdconv published``: the published accuracy tables, each row with its source."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ssdconv.commands.output import print_json, table
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_OK

NAME = "published"
GROUP: Group = "prove"
HELP = "show the published accuracy of the networks, with sources"
EXAMPLES: tuple[str, ...] = (
    "ssdconv published --network gluon/ssd_512_resnet50_v1_voc",
    "ssdconv published --dataset voc07 --json",
)


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("--network", metavar="NAME", help="only rows of this network, such as caffe/ssd300_voc")
    parser.add_argument("--dataset", metavar="NAME", help="only rows on this data set, such as voc07")


def run(args: Namespace) -> int:
    from ssdconv.parity.accuracy.published import rows

    found = rows(network=args.network, dataset=args.dataset)
    if args.json:
        print_json([row.to_json() for row in found])
        return EXIT_OK
    lines = [(r.network or "", r.dataset, r.metric, r.text, r.train_data, r.title) for r in found]
    print(table(lines, ("network", "data set", "metric", "value", "trained on", "source"), right=(3,)))
    return EXIT_OK
