"""Open a Keras weight file as a tensor table; datasets are read when they are loaded."""

from __future__ import annotations

import io
from functools import cache, partial
from pathlib import Path
from typing import Any

import h5py

from ssdconv.converters.keras import h5
from ssdconv.converters.keras.flavours import flavour_of, layers_of
from ssdconv.converters.opened import OpenedFile, open_archive
from ssdconv.converters.tensors import LazyTensor, TensorTable
from ssdconv.errors import FormatError

WEIGHTS, CONFIG = "model.weights.h5", "config.json"
MAX_CONFIG = 32 << 20


def read_keras(path: Path) -> TensorTable:
    """Open ``.h5``, ``.weights.h5`` or ``.keras``; see ``flavours`` for what they hold.

    Returns:
        Tensors by their path in the HDF5 file. ``meta`` holds ``flavour``, ``layers`` (layer name -> tensor names),
        ``named`` (False where the names are only those of numbered groups), ``backend``, what wrote the file, ``version``,
        Keras' own, and ``model``, the text of the whole model (None in files of weights alone).

    Raises:
        MissingError: no such file.
        FormatError: damaged, or with names for some layers only.
        UnsafeFileError: something leads out of the file.
    """
    path = Path(path)
    file = OpenedFile(path)
    try:
        head = bytes(file.data[:8])
    except BaseException:
        file.close()
        raise
    if head[:4] == b"PK\3\4":
        file.close()
        return _archive(path)
    try:
        if head != h5.MAGIC:
            raise FormatError("no HDF5 file", where=str(path), expected=h5.MAGIC.hex(" "), got=head.hex(" "))
        with h5.naming(str(path)):
            opened = h5py.File(path, "r", locking=False)
        return _table(path, opened, file, file.data, None, "h5")
    except BaseException:
        file.close()
        raise


def _archive(path: Path) -> TensorTable:
    file, archive = open_archive(path)
    try:
        if WEIGHTS not in archive.members:
            raise FormatError(
                f"a zip archive without {WEIGHTS}",
                where=str(path),
                hint="a .npz of Chainer or a .pth is a zip archive too: `ssdconv inspect` tells",
            )
        config = archive.members.get(CONFIG)
        if config is not None and config.size > MAX_CONFIG:
            raise FormatError("config.json is too large", where=str(path), got=f"{config.size} bytes")
        told = bytes(archive.read(config)) if config is not None else None
        member = archive.members[WEIGHTS]
        if member.deflated:
            raise FormatError(
                f"{WEIGHTS} is compressed", where=str(path), hint="Keras stores it; pack the archive with `zip -0`"
            )
        with h5.naming(str(path)):
            held = bytes(archive.read(member))
            opened = h5py.File(io.BytesIO(held), "r")
        return _table(path, opened, file, held, told, "keras")
    except BaseException:
        file.close()
        raise


def _table(path: Path, opened: Any, file: OpenedFile, data: Any, config: bytes | None, kind: str) -> TensorTable:
    """The table of an open HDF5 file, whose bytes are ``data``."""
    where = str(path)
    heaps = cache(partial(h5.check_heaps, data, where))
    try:
        groups: dict[str, Any] = {}
        tensors: dict[str, LazyTensor] = {}
        for name, found in h5.walk(opened, where):
            if isinstance(found, h5py.h5g.GroupID):
                groups[name] = found
                continue
            place = f"{where}, /{name}"
            with h5.naming(place):
                tensors[name] = LazyTensor(
                    name,
                    tuple(int(side) for side in found.shape),
                    h5.dtype_of(found).newbyteorder("="),
                    partial(_load, found, file, place),
                    place,
                )
        told = config.decode(errors="replace") if config is not None else None
        root = groups.get("model_weights", opened.id)
        layers, named = layers_of(list(tensors), groups, config, where, heaps)
        meta = {
            "flavour": flavour_of(list(tensors)),
            "layers": layers,
            "named": named,
            "model": told or h5.text(opened.id, "model_config", where, heaps, MAX_CONFIG),
            "version": h5.text(root, "keras_version", where, heaps)
            or h5.text(opened.id, "keras_version", where, heaps),
            "backend": h5.text(root, "backend", where, heaps) or h5.text(opened.id, "backend", where, heaps),
            "unchanged": file.unchanged,
        }
    except BaseException:
        _close(opened, file)
        raise
    return TensorTable(path, kind, tensors, meta=meta, close=partial(_close, opened, file))


def _load(dataset: Any, file: OpenedFile, where: str) -> Any:
    file.unchanged()
    return h5.load(dataset, where)


def _close(opened: Any, file: OpenedFile) -> None:
    with h5.naming(str(file.path)):
        opened.close()
    file.close()
