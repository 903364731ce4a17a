"""Keras' weight files, in all the ways in which Keras has written them; datasets are read when they are loaded.

==================  ==============================================================================================================
flavour             datasets
==================  ==============================================================================================================
``weights``         ``<layer>/<anything>/kernel:0``: ``save_weights`` of Keras 1 and 2
``model``           the same below ``model_weights/``, the optimizer's below ``optimizer_weights/``: ``model.save("x.h5")``
``v3``              ``layers/<class>_<k>/vars/<i>``, the optimizer's below ``optimizer/``: ``.weights.h5``, and ``.keras`` archives
==================  ==============================================================================================================

A v3 file does not use layer names; they stand in an attribute ``name`` (Keras 3), or in the archive's ``config.json``, whose layers count
up per class. A v3 file with neither (Keras 2.15's ``.weights.h5``) keeps the groups' own names here; ``rows.layers_in_order`` finds out what
it can.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import h5py

from ssdconv.converters import h5
from ssdconv.converters.opened import OpenedFile, open_archive
from ssdconv.converters.tensors import LazyTensor, TensorTable
from ssdconv.errors import FormatError

Flavour = Literal["weights", "model", "v3"]
TRAINING = ("optimizer_weights", "optimizer", "compile_metrics", "metrics", "loss_tracker")
"""Top-level groups that hold the state of the training."""

_VARS = re.compile(r"(?:layers|_layer_checkpoint_dependencies)/(?P<key>[^/]+)/vars/(?P<index>\d{1,4})")
MAX_LAYERS = 20_000


def flavour_of(paths: list[str]) -> Flavour:
    """The flavour of a file with these datasets."""
    if any(_VARS.fullmatch(path) for path in paths):
        return "v3"
    return "model" if any(path.startswith("model_weights/") for path in paths) else "weights"


def is_training(path: str) -> bool:
    """Whether a dataset is the training's and not the network's."""
    return path.split("/")[0] in TRAINING or "/seed_generator/" in path


def layers_of(
    paths: list[str], groups: Mapping[str, Any], config: bytes | None, where: str, heaps: Callable[[], None]
) -> tuple[dict[str, list[str]], bool]:
    """Layer name -> its datasets, in file order (by number for v3); and whether those are names of layers, not of groups.

    Args:
        paths: of all datasets.
        groups: path of each group -> its identifier.
        config: the ``config.json`` of a ``.keras`` archive.
        where: the file's name for messages.
        heaps: see ``h5.text``.

    Raises:
        FormatError: a v3 file that names some of its layers only, or one twice.
    """
    kind = flavour_of(paths)
    found: dict[str, list[str]] = {}
    if kind != "v3":
        start = len("model_weights/") if kind == "model" else 0
        for path in paths:
            if not is_training(path) and (kind == "weights" or path.startswith("model_weights/")):
                found.setdefault(path[start:].split("/")[0], []).append(path)
        return found, True
    names = names_in_config(config, where) if config is not None else {}
    numbered: dict[str, list[tuple[int, str]]] = {}
    unnamed: dict[str, list[tuple[int, str]]] = {}
    for path in paths:
        match = _VARS.fullmatch(path)
        if match is None:
            continue
        parent = path.rsplit("/", 1)[0]
        told = h5.text(groups[parent], "name", f"{where}, /{parent}", heaps)
        name = names.get(match["key"], told)
        if told is not None and told != name:
            raise FormatError(
                "the file tells two names of one layer",
                where=f"{where}, /{parent}",
                got=f"{told!r} and {name!r}",
                hint="save the model again",
            )
        place = unnamed.setdefault(match["key"], []) if name is None else numbered.setdefault(name, [])
        place.append((int(match["index"]), path))
    if unnamed and (numbered or config is not None):
        raise FormatError(
            "the file names some of its layers only",
            where=f"{where}, /layers/{next(iter(unnamed))}",
            hint="save the whole model as .keras, or the weights with save_weights(path, save_format='h5') in Keras 2",
        )
    return {n: [path for _, path in sorted(rows)] for n, rows in (numbered or unnamed).items()}, not unnamed


def names_in_config(config: bytes, where: str) -> dict[str, str]:
    """Group in a v3 file -> layer name, from the layer list of a functional or sequential model.

    Groups are called like the layer's class in snake case; the second of a class gets ``_1``.

    Raises:
        FormatError: not such a list.
    """
    try:
        listed = json.loads(config)["config"]["layers"]
        rows = [(str(layer["class_name"]), str(layer.get("name") or layer["config"]["name"])) for layer in listed]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FormatError("config.json holds no list of layers", where=where) from None
    if len(rows) > MAX_LAYERS:
        raise FormatError("config.json lists too many layers", where=where, got=len(rows))
    counts: dict[str, int] = {}
    names = {}
    for class_name, name in rows:
        key = snake_case(class_name.rsplit(">", 1)[-1])
        number = counts[key] = counts.get(key, -1) + 1
        names[f"{key}_{number}" if number else key] = name
    return names


def snake_case(name: str) -> str:
    """Keras' ``to_snake_case``: BatchNormalization -> batch_normalization, Conv2D -> conv2d."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


WEIGHTS, CONFIG = "model.weights.h5", "config.json"
MAX_CONFIG = 32 << 20


@dataclass(frozen=True)
class KerasFile:
    """What opening a Keras file finds.

    Attributes:
        flavour: see the module's table.
        layers: layer name -> names of its tensors.
        named: False where ``layers`` has only names of numbered groups.
        model: text of the whole model, "" in files of weights alone.
        version: Keras' own, where it is told.
        backend: what wrote the file, where it is told.
    """

    flavour: Flavour
    layers: dict[str, list[str]]
    named: bool = True
    model: str = ""
    version: str = ""
    backend: str = ""


def read_keras(path: Path) -> TensorTable:
    """Open ``.h5``, ``.weights.h5`` or ``.keras``; see above for what they hold.

    Returns:
        Tensors by their path in the HDF5 file, and a ``KerasFile``.

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
        about = KerasFile(
            flavour_of(list(tensors)),
            layers,
            named,
            told or h5.text(opened.id, "model_config", where, heaps, MAX_CONFIG) or "",
            h5.text(root, "keras_version", where, heaps) or h5.text(opened.id, "keras_version", where, heaps) or "",
            h5.text(root, "backend", where, heaps) or h5.text(opened.id, "backend", where, heaps) or "",
        )
    except BaseException:
        _close(opened, file)
        raise
    close = partial(_close, opened, file)
    return TensorTable(path, kind, tensors, found=about, unchanged=file.unchanged, close=close)


def _load(dataset: Any, file: OpenedFile, where: str) -> Any:
    file.unchanged()
    return h5.load(dataset, where)


def _close(opened: Any, file: OpenedFile) -> None:
    with h5.naming(str(file.path)):
        opened.close()
    file.close()
