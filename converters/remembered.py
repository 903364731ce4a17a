"""What a conversion was asked for, kept in the checkpoint: so that its proof plans the network anew from the file in the same way.

``provenance["request"]`` holds the plain wishes, ``provenance["prototxt"]`` the definition itself: name, SHA-256, and its text, packed where
that is shorter. No path is kept: the same network gives the same bytes, wherever its files lie.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssdconv.converters.plan import Request
from ssdconv.converters.spec import spec_of
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import SSDConfig

MAX_BYTES = 8 << 20
"""Largest definition that is kept, and unpacked again: the largest published ones have some 60 kB."""
PACKED = 2_000
"""From how many bytes on a definition is packed."""


def remember(request: Request, config: SSDConfig) -> dict[str, Any]:
    """Entries of a checkpoint's provenance for what the user asked for.

    Args:
        request: the wishes.
        config: what came of them: a channel order that was found by ``like``, another file, is kept as the order itself.
    """
    options = {k: v for k, v in request.options.items() if k not in ("like", "backbone")}
    order = request.channel_order or (config.pixels.order if "like" in request.options else None)
    wishes = {
        "network": request.network,
        "num_classes": request.num_classes,
        "channel_order": order,
        "options": options,
        "classes": list(request.classes),
        "spec": request.spec.to_plain() if request.spec is not None else None,
    }
    kept: dict[str, Any] = {"request": {k: v for k, v in wishes.items() if v}}
    if request.prototxt is not None:
        kept["prototxt"] = _packed(request.prototxt)
    return kept


def _packed(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    told = {"name": path.name, "sha256": hashlib.sha256(data).hexdigest()}
    if len(data) > MAX_BYTES:
        return told
    if len(data) > PACKED:
        return told | {"zlib": base64.b85encode(zlib.compress(data, 9)).decode()}
    return told | {"base85": base64.b85encode(data).decode()}


def definition(provenance: Mapping[str, Any], where: str = "") -> bytes | None:
    """The definition that a checkpoint remembers; None where it was converted without one.

    Raises:
        FormatError: it is damaged.
    """
    held = provenance.get("prototxt")
    if not isinstance(held, Mapping):
        return None
    try:
        if "zlib" in held:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(base64.b85decode(held["zlib"]), MAX_BYTES)
        elif "base85" in held:
            data = base64.b85decode(held["base85"])
        else:
            return None
        if hashlib.sha256(data).hexdigest() != held["sha256"]:
            raise ValueError("its SHA-256 is another one")
    except (ValueError, TypeError, KeyError, zlib.error) as error:
        raise FormatError(
            f"the prototxt that the checkpoint remembers is damaged: {error}", where=where or None
        ) from None
    return data


def wishes(provenance: Mapping[str, Any], prototxt: Path | None = None) -> Request | None:
    """The request that a checkpoint was converted by; None for one of a version that did not keep it.

    Args:
        provenance: of the checkpoint.
        prototxt: the definition to plan with.

    Raises:
        FormatError: it is damaged.
    """
    held = provenance.get("request")
    if held is None:
        return None
    settings = provenance.get("settings") or {}
    if not isinstance(held, Mapping) or not isinstance(settings, Mapping):
        raise FormatError("what the checkpoint remembers of its conversion is damaged")
    network, count, order = (held.get(key) for key in ("network", "num_classes", "channel_order"))
    return Request(
        str(network) if network else None,
        int(count) if isinstance(count, int) else None,
        prototxt,
        str(order) if order else None,
        dict(held.get("options") or {}),
        {str(k): str(v) for k, v in settings.items()},
        tuple(map(str, held.get("classes") or ())),
        spec=spec_of(held["spec"], "the spec that the checkpoint remembers") if held.get("spec") else None,
    )


@contextmanager
def recalled(
    provenance: Mapping[str, Any], given: Path | None, source: Path, where: str = ""
) -> Iterator[tuple[Path | None, tuple[str, ...]]]:
    """The definition to prove a checkpoint with, as a file, and what a reader should know about it.

    Args:
        provenance: of the checkpoint.
        given: what the user named now; wins.
        source: the weight file: a definition of the remembered name beside it is compared.
        where: the checkpoint, for messages.

    Raises:
        FormatError: what the checkpoint remembers is damaged.
    """
    data = definition(provenance, where)
    held = provenance.get("prototxt") or {}
    if given is not None:
        same = not held or hashlib.sha256(given.read_bytes()).hexdigest() == held.get("sha256")
        yield given, () if same else (f"{given.name} is not the prototxt that the checkpoint was converted with",)
        return
    if data is None:
        notes = (
            (f"the checkpoint was converted with {held['name']}, which it does not hold (--prototxt)",) if held else ()
        )
        yield None, notes
        return
    told = [f"the layers are those of {held['name']}, which the checkpoint remembers"]
    beside = Path(source).parent / Path(str(held["name"])).name
    if beside.is_file() and beside.read_bytes() != data:
        told.append(f"{beside.name} beside the source file was changed since the conversion")
    with tempfile.TemporaryDirectory(prefix="ssdconv-") as folder:
        path = Path(folder) / (beside.name or "remembered.prototxt")  # what claims call it
        path.write_bytes(data)
        yield path, tuple(told)
