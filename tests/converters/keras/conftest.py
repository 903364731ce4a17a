"""Small Keras files, put together with h5py from their description and not by the code under test."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from ssdconv.converters.keras.rows import rows_of
from ssdconv.converters.tensors import apply_all, inverse
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.keras import jedol, ssd7

VGG = jedol("jedol_ssd300_vgg16_voc", 5, width=2)
SEVEN = ssd7("ssd7", 4, width=4)
CLASSES = {"kernel": "Conv2D", "gamma": "BatchNormalization", "scale": "Normalize2D"}
SNAKE = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization", "Normalize2D": "normalize2d"}

Layers = dict[str, dict[str, np.ndarray]]


def layers_of(config: SSDConfig, seed: int = 0) -> tuple[Layers, dict[str, np.ndarray]]:
    """Layer -> weight -> array as Keras keeps it, and the reference's tensors."""
    tensors = seeded_tensors(config, seed)
    found: Layers = {}
    for row in rows_of(config):
        array = apply_all(inverse(row.ops, row.shape), tensors[row.target])
        found.setdefault(row.layer, {})[row.kind] = np.ascontiguousarray(array)
    return found, tensors


def save_weights(
    group: h5py.Group, layers: Layers, *, inner: str = "{layer}/{kind}:0", backend: str = "tensorflow"
) -> None:
    """``save_weights`` of Keras 2: groups per layer, lists of names in attributes."""
    group.attrs["layer_names"] = np.array([n.encode() for n in [*layers, "input_1"]])
    group.attrs["backend"] = backend.encode()
    for layer, weights in layers.items():
        one = group.create_group(layer)
        names = [inner.format(layer=layer, kind=kind) for kind in weights]
        one.attrs["weight_names"] = np.array([n.encode() for n in names])
        for name, array in zip(names, weights.values(), strict=True):
            one.create_dataset(name, data=array)
    group.create_group("input_1").attrs["weight_names"] = np.array([], "S1")
    group.create_group("top_level_model_weights")


def save_v3(file: h5py.Group, layers: Layers, *, names: bool = True) -> list[tuple[str, str]]:
    """``.weights.h5``: numbered per class; returns (class, layer name) in order."""
    counts: dict[str, int] = {}
    order = []
    for layer, weights in layers.items():
        kind = CLASSES[next(iter(weights))]
        order.append((kind, layer))
        number = counts[kind] = counts.get(kind, -1) + 1
        group = file.create_group(f"layers/{SNAKE[kind]}{f'_{number}' if number else ''}/vars")
        if names:
            group.attrs["name"] = layer
        for index, array in enumerate(weights.values()):
            group.create_dataset(str(index), data=array)
    file.create_dataset("optimizer/vars/0", data=np.int64(3))
    return order


def save_keras(path: Path, layers: Layers, *, names: bool = False, compression: int = zipfile.ZIP_STORED) -> None:
    """A ``.keras`` archive."""
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        order = save_v3(file, layers, names=names)
    listed: list[Mapping[str, object]] = [{"class_name": "InputLayer", "config": {"name": "input_1"}}]
    listed += [{"class_name": c, "registered_name": c, "config": {"name": n}} for c, n in order]
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": listed}}))
        archive.writestr("model.weights.h5", held.getvalue())


@pytest.fixture(scope="session")
def packing() -> SimpleNamespace:
    """The functions of this module."""
    return SimpleNamespace(
        layers=layers_of, save_weights=save_weights, save_v3=save_v3, save_keras=save_keras, vgg=VGG, seven=SEVEN
    )
