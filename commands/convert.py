"""``ssdconv convert``, and the verbs of each source, ``ssdconv <source>2pt`` and ``ssdconv pt2<source>``, generated from the registry.

Where no file is named, ``gluon2pt`` looks for a network's weights in MXNet's model cache, then in the zoo; with ``--backbone`` it
writes a classification network's weights as a backbone file for training.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdconv.commands.arguments import add_network_options, existing
from ssdconv.commands.output import following, print_json, print_tail, table, working
from ssdconv.commands.verb import Verb
from ssdconv.converters.registry import SOURCES, Source
from ssdconv.errors import EXIT_OK, DownloadError, MissingError, UsageError
from ssdconv.ssd_ref.files import CHECKPOINTS

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
    "symbol": {
        "metavar": "FILE",
        "help": "MXNet's graph of SRC, whose layers, priors and rule are taken (default: NAME-symbol.json beside NAME-0000.params where no "
        "named network fits; --set layers=symbol takes it anyway)",
    },
    "preset": {"choices": ("evaluate", "visualize"), "help": "threshold preset of ChainerCV (default: evaluate)"},
    "style": {
        "choices": ("ssd.pytorch", "simple-ssd", "torchvision", "vgg16_reducedfc"),
        "help": "project to write for (default: the one that the network came from, else ssd.pytorch)",
    },
}

OF_ONE_SOURCE = ("backbone", "like", "preset", "style", "symbol")


def verbs() -> list[Verb]:
    """Two verbs per source, to and from the reference; ChainerCV's ``caffe2npz``; and ``convert``, which recognises both ends."""
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
    return [
        *listed,
        Verb(
            "caffe2npz",
            "convert",
            "convert a Caffe SSD300 or SSD512 to ChainerCV (.npz), as ChainerCV's example of that name did",
            ("ssdconv caffe2npz x.caffemodel y.npz", "ssdconv caffe2npz x.caffemodel y.npz --json"),
            _configure_caffe2npz,
            run_caffe2npz,
        ),
        Verb(
            "convert",
            "convert",
            "convert a file of any source to PyTorch, or a checkpoint back",
            ("ssdconv convert x.caffemodel out.pth", "ssdconv convert out.pth y.caffemodel"),
            _configure_either,
            run_either,
        ),
    ]


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


def _configure_either(parser: ArgumentParser) -> None:
    parser.add_argument("src", metavar="SRC", help="a weight file of any source, or a checkpoint that ssdconv wrote")
    parser.add_argument("dst", metavar="DST", help="file to write; its ending says what it shall be")
    add_wishes(parser, OPTIONS)


def _configure_caffe2npz(parser: ArgumentParser) -> None:
    parser.add_argument("src", metavar="SRC", help="the .caffemodel")
    parser.add_argument("dst", metavar="DST", help="the .npz file to write")
    parser.add_argument("--prototxt", metavar="FILE", help="definition of the network (default: the one inside SRC)")


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


def _wishes(args: Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the user asked for: fields of the request, and wishes that one source alone understands."""
    given = {field: getattr(args, field) for field in OPTIONS if getattr(args, field, None) is not None}
    return {k: v for k, v in given.items() if k not in OF_ONE_SOURCE}, {
        k: v for k, v in given.items() if k in OF_ONE_SOURCE
    }


def run_forward(name: str | None, args: Namespace) -> int:
    """Convert ``args.src``, a file of source ``name`` (None: recognise it), and print the report."""
    if name is not None and SOURCES[name].by_name:
        settle(args)
    if getattr(args, "backbone", None):
        return run_backbone(args)
    src = existing(args.src)
    wishes, options = _wishes(args)
    for field in ("prototxt", "like", "symbol"):
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


def run_either(args: Namespace) -> int:
    """To the source that DST's ending names where SRC is a checkpoint, to the reference otherwise."""
    suffix = Path(args.dst).suffix
    for source in SOURCES.values():
        if suffix in source.suffixes and suffix not in CHECKPOINTS and Path(args.src).suffix in CHECKPOINTS:
            return run_reverse(source.name, args)
    return run_forward(None, args)


def run_caffe2npz(args: Namespace) -> int:
    """A Caffe SSD straight to a file for ChainerCV."""
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


def run_backbone(args: Namespace) -> int:
    """Convert ``args.src``, the .params file of backbone ``args.backbone``, and print the report.

    Raises:
        UsageError: options of detectors were given, too.
    """
    if args.network or args.num_classes:
        raise UsageError("--backbone is for classification networks, --network and --num-classes are for detectors")
    from ssdconv.ssd_ref.networks.gluon import backbone

    backbone(args.backbone)
    src = existing(args.src)
    from ssdconv.converters.gluon.backbone import convert_backbone

    with working(f"converting {src.name}"):
        report = convert_backbone(src, args.backbone, args.dst, format=args.format)
    if args.json:
        print_json(report.to_json())
        return EXIT_OK
    print(f"{report.source}: backbone {report.name} of gluon, {len(report.rows)} tensors")
    print_tail(report)
    return EXIT_OK


def settle(args: Namespace) -> None:
    """Fill ``args.src`` and ``args.dst`` of a verb whose SRC may be left out.

    A single positional with a checkpoint's ending is DST. Without SRC, the file of ``args.network`` (or of
    ``args.backbone``) is looked up, and the default DST is called after it.

    Raises:
        UsageError: neither a file nor a name, or no such name.
        MissingError: the file is in neither place.
    """
    if args.dst is None and args.src is not None and Path(args.src).suffix in CHECKPOINTS:
        args.src, args.dst = None, args.src
    if args.src is not None:
        return
    name = getattr(args, "backbone", None) or args.network
    if name is None:
        raise UsageError(
            "gluon2pt needs a file, or --network NAME to look it up", hint="`ssdconv networks` lists names"
        )
    args.src = str(params_of(name, args) if name == args.network else _cached_backbone(name))
    args.dst = args.dst or name + (".safetensors" if args.format == "safetensors" else ".pth")


def params_of(name: str, args: Namespace) -> Path:
    """The .params file of a named network; what was found where is told on stderr.

    Raises:
        UsageError: GluonCV has no such network.
        FormatError: the cached file is damaged.
        MissingError: neither place has it; the message names both.
    """
    from ssdconv.converters.gluon.params import cached_params, folder
    from ssdconv.ssd_ref.networks.registry import network

    network(name, "gluon")
    path = cached_params(name)
    if path is None:
        path = _from_zoo(name, args, folder())
    print(f"note: {name} is {path}", file=sys.stderr)
    return path


def _from_zoo(name: str, args: Namespace, cache: Path) -> Path:
    from ssdconv.zoo import find, first_use, original

    try:
        entry = find(name)
        if entry.record.source != "gluon":
            raise DownloadError(f"the zoo's {name!r} is of {entry.record.source}")
        with following() as progress:
            file = original(entry, offline=args.offline, mirror=args.mirror, progress=progress)[0]
    except (DownloadError, UsageError) as error:
        raise MissingError(
            f"no weights of {name} on this machine, and none could be fetched",
            expected=f"{name}-<8 digits>.params in {cache}, or a download by the zoo",
            got=error.what,
            hint=f"give the file: `ssdconv gluon2pt --network {name} x.params out.pth`"
            + (f"; or {error.hint}" if error.hint else ""),
        ) from None
    if file.first_use:
        print(f"note: {first_use(file)}", file=sys.stderr)
    return file.path


def _cached_backbone(name: str) -> Path:
    from ssdconv.converters.gluon.params import cached_params, folder

    path = cached_params(name)
    if path is None:
        raise MissingError(
            f"no weights of the backbone {name} on this machine",
            expected=f"{name}-<8 digits>.params in {folder()}",
            hint=f"give the file: `ssdconv gluon2pt --backbone {name} x.params out.pth`",
        )
    print(f"note: {name} is {path}", file=sys.stderr)
    return path
