"""Arguments that several verbs share, and the checks that come before any heavy import."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from pathlib import Path

from ssdconv.commands.output import following
from ssdconv.converters.registry import located
from ssdconv.errors import FormatError, MissingError, UsageError


def fraction(text: str) -> float:
    """A number from 0 to 1, for ``--threshold``."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``, as torch names devices."""
    parser.add_argument("--device", default="cpu", help="where the network runs: cpu, cuda, cuda:1 (default: cpu)")


def check_device(name: str) -> str:
    """``name`` if torch knows such a device on this machine.

    Raises:
        UsageError: not a device name.
        MissingError: no such device here.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"{name!r} is not a device", expected="cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MissingError(f"no device {name!r} on this machine", got=f"{torch.cuda.device_count()} CUDA devices")
    return name


def existing(path: str | Path) -> Path:
    """``path`` if there is a file of that name, the index of the TensorFlow checkpoint that it names, or a hub folder's weights.

    Raises:
        MissingError: there is none.
        FormatError: it is a folder.
    """
    path = located(Path(path))
    if (path / "model.safetensors").is_file():  # a folder as model hubs want it
        return path / "model.safetensors"
    if path.is_dir():
        raise FormatError("this is a folder, a file is needed", where=str(path))
    if not path.exists():
        raise MissingError("no such file", where=str(path))
    return path


def refuse_special(args: argparse.Namespace) -> None:
    """Look at every argument that names something here, whatever it is for, before anything is opened or imported.

    Raises:
        FormatError: it is a pipe, a device or a socket; reading one may never end, and writing would replace it.
    """
    for value in vars(args).values():
        for text in value if isinstance(value, list | tuple) else (value,):
            if not isinstance(text, str):
                continue
            try:
                mode = os.stat(text).st_mode  # noqa: PTH116 - any text, also one that no path can be
            except (OSError, ValueError):
                continue
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise FormatError("this is a pipe, device or socket, not a regular file", where=text)


def add_network_options(parser: argparse._ActionsContainer) -> None:
    """``--offline`` and ``--mirror``, as every command that takes weights by name has them."""
    parser.add_argument("--offline", action="store_true", help="touch no network; use what is cached")
    parser.add_argument(
        "--mirror", metavar="URL", help="address of a folder, or a folder here, that has the files; asked first"
    )


def zoo_path(args: argparse.Namespace) -> Path | None:
    """The zoo file named by ``--zoo``."""
    return Path(args.zoo) if args.zoo else None


def zoo_weights(args: argparse.Namespace) -> Path:
    """The checkpoint of ``args.network``, with the wishes of ``add_network_options``; news go to stderr."""
    from ssdconv.zoo import weights

    with following() as progress:
        return weights(
            args.network,
            zoo=zoo_path(args),
            offline=args.offline,
            mirror=args.mirror,
            progress=progress,
            say=lambda text: print(f"note: {text}", file=sys.stderr),
        )
