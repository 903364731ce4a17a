"""``ssdconv convert``: to or from any source, both ends recognised."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ssdconv.commands import sources
from ssdconv.commands.verb import Group
from ssdconv.converters.registry import SOURCES
from ssdconv.ssd_ref.files import CHECKPOINTS

NAME = "convert"
GROUP: Group = "convert"
HELP = "convert a file of any source to PyTorch, or a checkpoint back"
EXAMPLES: tuple[str, ...] = (
    "ssdconv convert x.caffemodel out.pth",
    "ssdconv convert out.pth y.caffemodel",
)


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("src", metavar="SRC", help="a weight file of any source, or a checkpoint that ssdconv wrote")
    parser.add_argument("dst", metavar="DST", help="file to write; its ending says what it shall be")
    sources.add_wishes(parser, sources.OPTIONS)


def run(args: Namespace) -> int:
    suffix = Path(args.dst).suffix
    for source in SOURCES.values():
        if suffix in source.suffixes and suffix not in CHECKPOINTS and Path(args.src).suffix in CHECKPOINTS:
            return sources.run_reverse(source.name, args)
    return sources.run_forward(None, args)
