"""Keras' weight files, read in all the ways in which Keras has written them, and written; datasets are read when they are loaded.

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

Written are the first flavour (``.h5`` with names), ``.weights.h5`` with numbered layers, and whole models in the form that they came in.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from ssdconv.converters import h5
from ssdconv.converters.opened import OpenedFile, open_archive
from ssdconv.converters.tensors import Array, LazyTensor, TensorTable
from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.files import atomic_path

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


KERAS_VERSION = "2.15.0"
"""The version whose form this is; Keras reads it to choose conversions, of which this one needs none."""


def write_weights(dst: Path, layers: Mapping[str, Mapping[str, Array]]) -> None:
    """Write layers with their weights, atomically; the same bytes for the same tensors.

    Args:
        dst: the file.
        layers: layer name -> weight name (``conv1_1/kernel:0``) -> array, in the order of the file.

    Raises:
        UsageError: nothing to write.
        OutputError: the file could not be written.
    """
    if not layers:
        raise UsageError("no tensor to write", where=str(dst))
    with _whole(dst) as file:
        _write_layers(file, layers, "tensorflow", KERAS_VERSION)


def _write_layers(root: Any, layers: Mapping[str, Mapping[str, Array]], backend: str, version: str) -> None:
    root.attrs["layer_names"] = np.array([name.encode() for name in layers])
    root.attrs["backend"], root.attrs["keras_version"] = np.bytes_(backend.encode()), np.bytes_(version.encode())
    for layer, weights in layers.items():
        group = root.create_group(layer)
        group.attrs["weight_names"] = np.array([name.encode() for name in weights])
        for name, array in weights.items():
            group.create_dataset(name, data=np.asarray(array, order="C"), track_times=False)


def write_numbered(dst: Path, layers: Sequence[tuple[str, str, Sequence[Array]]]) -> None:
    """Write ``.weights.h5`` as Keras 3 does, which Keras 2.15 reads too: layers are found by class and position.

    Args:
        dst: the file.
        layers: (group of the class, layer name, its weights in Keras' order) in the order of ``model.layers``; layers without weights
            need no place.

    Raises:
        UsageError: nothing to write.
        OutputError: the file could not be written.
    """
    if not layers:
        raise UsageError("no tensor to write", where=str(dst))
    counts: dict[str, int] = {}
    with _whole(dst) as file:
        file.create_group("vars")  # the model's own weights: Keras 2.15 looks for them
        for word, name, weights in layers:
            number = counts[word] = counts.get(word, -1) + 1
            group = file.create_group(f"layers/{word}{f'_{number}' if number else ''}/vars")
            group.attrs["name"] = np.bytes_(name.encode())
            for index, array in enumerate(weights):
                group.create_dataset(str(index), data=np.asarray(array, order="C"), track_times=False)


def write_whole(dst: Path, text: str, layers: Mapping[str, Mapping[str, Array]], facts: Mapping[str, str]) -> None:
    """Write a whole model as ``save`` of Keras does, atomically: ``.h5``, or ``.keras`` where weights stand under ``layers/…/vars``.

    Args:
        dst: the file.
        text: the model's description.
        layers: layer name -> the weight's path in the file -> array, in Keras' order.
        facts: ``version`` and ``backend``, where known.

    Raises:
        OutputError: the file could not be written.
    """
    version, backend = facts.get("version", KERAS_VERSION), facts.get("backend", "tensorflow")
    if dst.suffix == ".keras":
        held = io.BytesIO()
        with h5py.File(held, "w", track_order=False) as file:
            file.create_group("vars")
            for weights in layers.values():
                for name, array in weights.items():
                    file.create_dataset(name, data=np.asarray(array, order="C"), track_times=False)
        with atomic_path(dst) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            about = json.dumps({"keras_version": version, "date_saved": ""})
            for name, data in (("metadata.json", about), ("config.json", text), ("model.weights.h5", held.getvalue())):
                archive.writestr(zipfile.ZipInfo(name), data)
        return
    with _whole(dst) as file:
        attributes = {"backend": backend, "keras_version": version, "model_config": text}
        for name, value in attributes.items():
            file.attrs[name] = np.bytes_(value.encode()) if len(value) < 60_000 else value
        named = {
            layer: {path.removeprefix(f"model_weights/{layer}/"): array for path, array in weights.items()}
            for layer, weights in layers.items()
        }
        _write_layers(file.create_group("model_weights"), named, backend, version)


@contextmanager
def _whole(dst: Path) -> Iterator[Any]:
    """An HDF5 file in memory that is written to ``dst`` when the block ends well.

    The HDF5 library must not meet a full disk: it keeps the file open then, and tells of it from wherever it is closed at last.
    """
    held = io.BytesIO()
    with atomic_path(dst) as temporary:
        with h5py.File(held, "w", track_order=False) as file:
            yield file
        temporary.write_bytes(held.getbuffer())
