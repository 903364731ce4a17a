"""``ssdconv <source>2pt`` and ``ssdconv pt2<source>``, generated from the registry of sources."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ssdconv.commands import source_files
from ssdconv.commands.arguments import existing
from ssdconv.commands.backbone import run_backbone
from ssdconv.commands.output import print_json, print_tail, table, working
from ssdconv.commands.verb import Verb
from ssdconv.commands.zoo import add_network_options
from ssdconv.converters.registry import SOURCES, Source
from ssdconv.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from ssdconv.converters.convert import ConversionReport

# Options that only some sources understand: the field of the conversion request -> arguments of add_argument.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "prototxt": {
        "metavar": "FILE",
        "help": "deploy or train definition of the network; wins over the layer list inside the weight file",
    },
    "channel_order": {
        "choices": ("RGB", "BGR"),
        "help": "channel order that the first layer expects, where the file cannot tell",
    },
    "like": {
        "metavar": "FILE",
        "help": "a file with the same first layer in a known channel order, which then decides it (PyTorch)",
    },
    "backbone": {
        "metavar": "NAME",
        "help": "SRC is this classification network of GluonCV: write its backbone for training (resnet50_v1s …)",
    },
    "preset": {"choices": ("evaluate", "visualize"), "help": "threshold preset of ChainerCV (default: evaluate)"},
    "style": {
        "choices": ("ssd.pytorch", "simple-ssd", "torchvision", "vgg16_reducedfc"),
        "help": "project to write for (default: the one that the network came from, else ssd.pytorch)",
    },
}
OF_ONE_SOURCE = ("backbone", "like", "preset", "style")


def verbs() -> list[Verb]:
    """Two verbs per source, to and from the reference."""
    listed = []
    for source in SOURCES.values():
        suffix = source.suffixes[0]
        forward = (source.example, f"ssdconv {source.verb} x{suffix} out.pth --format both --json")
        listed += [
            Verb(
                source.verb,
                "convert",
                f"convert {source.title} to PyTorch",
                forward,
                partial(_configure_forward, source),
                partial(run_forward, source.name),
            ),
            Verb(
                source.reverse,
                "convert",
                f"convert back to {source.title}, bit for bit",
                (f"ssdconv {source.reverse} out.pth y{suffix}",),
                partial(_configure_reverse, source),
                partial(run_reverse, source.name),
            ),
        ]
    return listed


def add_wishes(parser: ArgumentParser, fields: Iterable[str]) -> None:
    """The options of a conversion: the common ones, and those of ``OPTIONS`` named by ``fields``."""
    parser.add_argument("--network", metavar="NAME", help="the network that SRC holds (default: recognised)")
    parser.add_argument(
        "--num-classes", type=int, metavar="N", help="conf channels per prior, background included (default: from SRC)"
    )
    parser.add_argument(
        "--format", choices=("pth", "safetensors", "both"), help="what to write (default: what DST's ending says)"
    )
    parser.add_argument(
        "--set", dest="settings", action="append", metavar="KEY=VALUE", default=[],
        help="settle what the file does not say, e.g. heads.padding=valid; `inspect` lists the keys (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--classes", metavar="FILE|A,B,C",
        help="names of the object classes: a file with a name per line, the names, or voc or coco (default: by number, "
        "unless SRC names them)",
    )  # fmt: skip
    parser.add_argument(
        "--spec", metavar="FILE",
        help="YAML or JSON with what SRC does not say: input size, pixels, priors, detection rule, class names "
        "(docs/spec.md; `ssdconv inspect SRC --spec-template` writes one to fill in)",
    )  # fmt: skip
    for field in fields:
        parser.add_argument(f"--{field.replace('_', '-')}", **OPTIONS[field])


def settings_of(args: Namespace) -> dict[str, str]:
    """``--set KEY=VALUE`` options as a dict.

    Raises:
        UsageError: one without "=", or one key twice.
    """
    settings: dict[str, str] = {}
    for given in getattr(args, "settings", None) or ():
        key, equals, value = given.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"--set {given}: not KEY=VALUE", expected="for example --set heads.padding=valid")
        if settings.setdefault(key, value) != value:
            raise UsageError(f"--set {key}: given twice with different values")
    return settings


def run_forward(name: str | None, args: Namespace) -> int:
    """Convert ``args.src``, a file of source ``name`` (None: recognise it), and print the report."""
    if name is not None and SOURCES[name].by_name:
        source_files.settle(args)
    if getattr(args, "backbone", None):
        return run_backbone(args)
    src = existing(args.src)
    wishes, options = _wishes(args)
    for field in ("prototxt", "like"):
        if field in wishes | options:
            existing((wishes | options)[field])
    if options:
        wishes["options"] = options
    from ssdconv.converters.convert import convert

    if args.classes:
        wishes["classes"] = args.classes
    if args.spec:
        wishes["spec"] = args.spec

    with working(f"converting {src.name}"):
        report = convert(
            src,
            args.dst,
            source=name,
            network=args.network,
            num_classes=args.num_classes,
            format=args.format,
            settings=settings_of(args),
            **wishes,
        )
    if args.json:
        print_json(report.to_json())
    else:
        _print_conversion(report)
    return EXIT_OK


def run_reverse(name: str, args: Namespace) -> int:
    """Write the checkpoint ``args.src`` as a weight file of source ``name`` and print what was written."""
    src = existing(args.src)
    wishes, options = _wishes(args)
    from ssdconv.converters.convert import reverse
    from ssdconv.converters.plan import Request

    request = Request(channel_order=wishes.get("channel_order"), options=options)
    with working(f"writing {args.dst}"):
        report = reverse(src, args.dst, name, request)
    if args.json:
        print_json(report.to_json())
    else:
        print(f"{report.config.name}: {report.tensors} tensors back to {name}")
        print("\n".join(f"wrote {path}" for path in report.outputs))
    return EXIT_OK


def _wishes(args: Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the user asked for: fields of the request, and wishes that one source alone understands."""
    given = {field: getattr(args, field) for field in OPTIONS if getattr(args, field, None) is not None}
    return {k: v for k, v in given.items() if k not in OF_ONE_SOURCE}, {
        k: v for k, v in given.items() if k in OF_ONE_SOURCE
    }


def _configure_forward(source: Source, parser: ArgumentParser) -> None:
    optional: dict[str, Any] = {"nargs": "?"} if source.by_name else {}
    more = "; without it, that of --network in MXNet's model cache, else the zoo's" if source.by_name else ""
    parser.add_argument("src", metavar="SRC", help=f"weight file of {source.title}{more}", **optional)
    parser.add_argument(
        "dst", metavar="DST", nargs="?", help="checkpoint to write (default: SRC's name, in the current folder)"
    )
    add_wishes(parser, source.options)
    if source.by_name:
        add_network_options(parser)


def _configure_reverse(source: Source, parser: ArgumentParser) -> None:
    parser.add_argument("src", metavar="SRC", help="a checkpoint that ssdconv wrote")
    parser.add_argument("dst", metavar="DST", help=f"weight file to write ({source.suffixes[0]})")
    for field in source.reverse_options:
        parser.add_argument(f"--{field.replace('_', '-')}", **OPTIONS[field])


def _print_conversion(report: ConversionReport) -> None:
    from ssdconv.ssd_ref.evidence import lines

    config = report.config
    height, width = config.pixels.size
    print(
        f"{report.source}: {config.name} of {config.source}, input {width}x{height}, "
        f"{config.num_classes} classes, {config.num_priors} priors"
    )
    groups = [(part, tensors, f"{numbers:,}") for part, tensors, numbers in report.groups()]
    total = ("total", sum(row[1] for row in groups), f"{sum(n for _, _, n in report.groups()):,}")
    print(table([*groups, total], ("part", "tensors", "numbers"), right=(1, 2)))
    for link, said in lines(report.evidence):
        print(f"{link}: {said}")
    print_tail(report)
