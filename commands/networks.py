"""``ssdconv networks``: every named network with its source, input size, classes and priors."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ssdconv.commands.output import print_json, table
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_OK

NAME = "networks"
GROUP: Group = "housekeeping"
HELP = "list the named networks: source, input size, classes, priors"
EXAMPLES: tuple[str, ...] = ("ssdconv networks", "ssdconv networks --source caffe --json")


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("--source", help="only the networks of one source, such as caffe")


def run(args: Namespace) -> int:
    from ssdconv.ssd_ref.networks.registry import networks

    listed = networks(args.source)
    if args.json:
        print_json([network.to_json() for network in listed])
        return EXIT_OK
    rows = [(n.source, n.name, f"{n.width}x{n.height}", n.num_classes, n.priors, n.backbone) for n in listed]
    print(table(rows, ("source", "network", "input", "classes", "priors", "backbone"), right=(3, 4)))
    print("\nclasses: conf channels per prior, the background included where the network has one")
    return EXIT_OK
