"""Bytes of ``.params`` files, put together from MXNet's description and not by the code under test."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

CODES = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6, "bool": 7}


def array_bytes(array: np.ndarray, version: str = "V2", device: int = 1, code: int | None = None) -> bytes:
    """One dense array in the given format version."""
    code = CODES[str(array.dtype)] if code is None else code
    n, shape = array.ndim, array.shape
    head = {
        "V3": struct.pack(f"<Iii{n}q", 0xF993FACA, 0, n, *shape),
        "V2": struct.pack(f"<Iii{n}q", 0xF993FAC9, 0, n, *shape),
        "V1": struct.pack(f"<II{n}q", 0xF993FAC8, n, *shape),
        "V0": struct.pack(f"<I{n}I", n, *shape),
    }[version]
    return head + struct.pack("<iii", device, 0, code) + array.tobytes()


def list_bytes(arrays: Sequence[bytes], names: Sequence[str | bytes]) -> bytes:
    """A list file of packed arrays."""
    out = struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(arrays) + struct.pack("<Q", len(names))
    for name in names:
        raw = name if isinstance(name, bytes) else name.encode()
        out += struct.pack("<Q", len(raw)) + raw
    return out


ROW_SPARSE = struct.pack("<Ii i2q i2q iii i i1q", 0xF993FAC9, 1, 2, 1, 2, 2, 3, 2, 1, 0, 0, 6, 1, 1) + bytes(8 + 8)
"""A (3, 2) float32 array of which one row is stored, as MXNet 1.9.1 writes it."""


def small() -> bytes:
    """Five arrays, one per format version and one more dtype."""
    rng = np.random.default_rng(0)
    arrays = [
        array_bytes(rng.standard_normal((2, 3, 1, 1)).astype("f4"), "V2"),
        array_bytes(rng.standard_normal(4), "V1"),
        array_bytes(rng.integers(0, 9, (2, 2)).astype("i4"), "V0"),
        array_bytes(np.ones((1, 2), "f2"), "V3"),
        array_bytes(np.array(7, "i8"), "V3"),
    ]
    return list_bytes(arrays, ["arg:conv0_weight", "aux:bn0_running_mean", "arg:ids", "arg:half", "arg:scalar"])


@pytest.fixture(scope="session")
def packing() -> SimpleNamespace:
    """The functions of this module."""
    return SimpleNamespace(array=array_bytes, list=list_bytes, small=small, row_sparse=ROW_SPARSE, codes=CODES)


@pytest.fixture(scope="session")
def manifests(shared: Path) -> dict[str, dict[str, object]]:
    """Network name -> what GluonCV said about it: parameter names in both schemes, shapes, kinds."""
    folder = shared / "reference" / "manifests" / "gluoncv"
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
