"""``ssdconv caffe2npz``: a Caffe SSD straight to a file for ChainerCV."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from ssdconv.commands.arguments import existing
from ssdconv.commands.output import print_json
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_OK

NAME = "caffe2npz"
GROUP: Group = "convert"
HELP = "convert a Caffe SSD300 or SSD512 to ChainerCV (.npz), as ChainerCV's example of that name did"
EXAMPLES: tuple[str, ...] = ("ssdconv caffe2npz x.caffemodel y.npz", "ssdconv caffe2npz x.caffemodel y.npz --json")


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("src", metavar="SRC", help="the .caffemodel")
    parser.add_argument("dst", metavar="DST", help="the .npz file to write")
    parser.add_argument("--prototxt", metavar="FILE", help="definition of the network (default: the one inside SRC)")


def run(args: Namespace) -> int:
    src = existing(args.src)
    prototxt = existing(args.prototxt) if args.prototxt else None
    from ssdconv.converters.chainer.caffe2npz import caffe2npz

    done = caffe2npz(src, args.dst, prototxt)
    if args.json:
        print_json(done.to_json())
        return EXIT_OK
    print(f"{done.config.name}: {done.tensors} tensors\nwrote {done.output}")
    for warning in done.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return EXIT_OK
