"""``ssdconv inspect``: what a weight file holds, without torch and without the source framework."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ssdconv.commands.arguments import existing
from ssdconv.commands.output import print_json
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_OK

NAME = "inspect"
GROUP: Group = "convert"
HELP = "list the tensors and layers of a weight file and guess its network"
EXAMPLES: tuple[str, ...] = (
    "ssdconv inspect VGG_VOC0712_SSD_300x300.caffemodel",
    "ssdconv inspect out.pth --json",
)


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a weight file of any supported format")


def run(args: Namespace) -> int:
    path = existing(args.file)
    from ssdconv.converters.inspect import inspect

    summary = inspect(path)
    if args.json:
        print_json(summary.to_json())
    else:
        print(summary.text())
    return EXIT_OK
