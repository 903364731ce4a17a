"""Where ``gluon2pt`` gets a network's weights when no file is named: MXNet's model cache, then the zoo."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from ssdconv.commands.output import following
from ssdconv.errors import DownloadError, MissingError, UsageError
from ssdconv.ssd_ref.files import CHECKPOINTS


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
    from ssdconv.converters.gluon.cache import cached_params, folder
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
    from ssdconv.converters.gluon.cache import cached_params, folder

    path = cached_params(name)
    if path is None:
        raise MissingError(
            f"no weights of the backbone {name} on this machine",
            expected=f"{name}-<8 digits>.params in {folder()}",
            hint=f"give the file: `ssdconv gluon2pt --backbone {name} x.params out.pth`",
        )
    print(f"note: {name} is {path}", file=sys.stderr)
    return path
