"""The user's lock file: what every fetched file was, so that the same name never means other bytes on this machine.

Where nobody published a checksum, the first download decides (trust on first use); afterwards the file is held to it.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import msgspec
from msgspec import Struct

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.files import atomic_path, locked


class Pin(Struct, frozen=True, forbid_unknown_fields=True):
    """One file.

    Attributes:
        sha256, size: what it is.
        trust: "published" where a published checksum was checked, "first use" where there is none.
        origin: the address that gave it.
        date: when.
    """

    sha256: str
    size: int
    trust: str
    origin: str
    date: str


class _Pins(Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    files: dict[str, Pin]


def read(path: Path) -> dict[str, Pin]:
    """Key -> pin; empty where there is no lock file.

    Raises:
        FormatError: it is damaged; trusting anything then would be guessing.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Pins).files
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, OSError, UnicodeDecodeError) as error:
        raise FormatError(
            f"the lock file of the zoo is damaged: {error}",
            where=str(path),
            hint="look at it, then repair or remove it",
        ) from None


def write(path: Path, key: str, sha256: str, size: int, *, trust: str, origin: str) -> Pin:
    """Record a file, keeping all others; safe beside other processes."""
    pin = Pin(sha256, size, trust, origin, datetime.date.today().isoformat())
    with locked(path.with_name(path.name + ".lock")):
        pins = read(path) | {key: pin}
        text = json.dumps({"version": 1, "files": {k: msgspec.to_builtins(pins[k]) for k in sorted(pins)}}, indent=1)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n")
    return pin
