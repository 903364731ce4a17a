"""``ssdconv inspect``: what a weight file holds, without torch and without the source framework."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ssdconv.commands.arguments import existing
from ssdconv.commands.output import print_json
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_OK, UsageError

NAME = "inspect"
GROUP: Group = "convert"
HELP = "list the tensors and layers of a weight file and guess its network"
EXAMPLES: tuple[str, ...] = (
    "ssdconv inspect VGG_VOC0712_SSD_300x300.caffemodel",
    "ssdconv inspect out.pth --json",
    "ssdconv inspect slim-320.caffemodel --prototxt slim-320.prototxt --spec-template",
)


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a weight file of any supported format")
    parser.add_argument(
        "--spec-template",
        action="store_true",
        help="print a spec to fill in: what FILE does not say about its network (for --spec of the converting verbs)",
    )
    parser.add_argument("--prototxt", metavar="FILE", help="network definition of a Caffe file, for --spec-template")


def run(args: Namespace) -> int:
    path = existing(args.file)
    if args.prototxt and not args.spec_template:
        raise UsageError("--prototxt is for --spec-template only", hint="inspect the prototxt by itself")
    if args.spec_template:
        return _template(path, existing(args.prototxt) if args.prototxt else None, args.json)
    from ssdconv.converters.inspect import inspect

    summary = inspect(path)
    if args.json:
        print_json(summary.to_json())
    else:
        print(summary.text())
    return EXIT_OK


def _template(path: Path, prototxt: Path | None, json: bool) -> int:
    from ssdconv.converters.inspect import template

    text = template(path, prototxt)
    if json:
        print_json({"file": str(path), "template": text})
    else:
        print(text, end="")
    return EXIT_OK
