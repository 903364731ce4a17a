"""Write HDF5 files as ``save_weights`` of Keras writes them: ``.h5`` with names, ``.weights.h5`` with numbered layers."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ssdconv.converters.tensors import Array
from ssdconv.errors import UsageError
from ssdconv.ssd_ref.files import atomic_path

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
        file.attrs["layer_names"] = np.array([name.encode() for name in layers])
        file.attrs["backend"] = np.bytes_(b"tensorflow")
        file.attrs["keras_version"] = np.bytes_(KERAS_VERSION.encode())
        for layer, weights in layers.items():
            group = file.create_group(layer)
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
                    file.create_dataset(name, data=np.ascontiguousarray(array), track_times=False)
        with atomic_path(dst) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            about = json.dumps({"keras_version": version, "date_saved": ""})
            for name, data in (("metadata.json", about), ("config.json", text), ("model.weights.h5", held.getvalue())):
                archive.writestr(zipfile.ZipInfo(name), data)
        return
    with _whole(dst) as file:
        attributes = {"backend": backend, "keras_version": version, "model_config": text}
        for name, value in attributes.items():
            file.attrs[name] = np.bytes_(value.encode()) if len(value) < 60_000 else value
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = np.array([name.encode() for name in layers])
        for name in ("backend", "keras_version"):
            root.attrs[name] = np.bytes_(attributes[name].encode())
        for layer, weights in layers.items():
            group = root.create_group(layer)
            names = {path: path.removeprefix(f"model_weights/{layer}/") for path in weights}
            group.attrs["weight_names"] = np.array([name.encode() for name in names.values()])
            for path, array in weights.items():
                group.create_dataset(names[path], data=np.ascontiguousarray(array), track_times=False)


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
