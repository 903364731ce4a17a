"""Tensors without axes through every writer that may meet one: each keeps shape and value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssdconv.converters.chainer.npz import read_npz, write_npz
from ssdconv.converters.keras.files import read_keras, write_numbered, write_weights
from ssdconv.converters.pytorch.reader import read_pth
from ssdconv.converters.pytorch.source import write_state_dict
from ssdconv.converters.tensorflow.bundle import write_bundle
from ssdconv.converters.tensorflow.reader import read_checkpoint
from ssdconv.converters.tensors import Array, TensorTable

Case = tuple[str, Callable[[Path, Array], object], Callable[[Path], TensorTable]]
CASES: list[Case] = [
    ("x.npz", lambda path, one: write_npz(path, {"a/one": one}), read_npz),
    ("x.pth", lambda path, one: write_state_dict(path, {"one": one}), read_pth),
    ("x.ckpt.index", lambda path, one: write_bundle(path.with_suffix(""), {"one": one}), read_checkpoint),
    ("x.h5", lambda path, one: write_weights(path, {"a": {"a/one:0": one}}), read_keras),
    ("x.weights.h5", lambda path, one: write_numbered(path, [("conv2d", "a", [one])]), read_keras),
]


@pytest.mark.parametrize(("name", "write", "read"), CASES, ids=[case[0] for case in CASES])
def test_a_tensor_without_axes_keeps_having_none(
    name: str, write: Callable[[Path, Array], object], read: Callable[[Path], TensorTable], tmp_path: Path
) -> None:
    write(tmp_path / name, np.array(2.5, np.float32))
    with read(tmp_path / name) as table:
        (tensor,) = [t for t in table.values() if t.dtype.kind == "f"]
        value = tensor.load()
    assert tensor.shape == value.shape == () and float(value) == 2.5
