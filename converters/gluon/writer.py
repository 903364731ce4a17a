"""Write MXNet's ``.params`` files without MXNet: the bytes that ``nd.save`` of MXNet 1.9.1 writes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ssdconv.converters.gluon.layout import DTYPES, LIST_MAGIC, MAX_DIMS, MAX_NAME, V2
from ssdconv.converters.tensors import Array
from ssdconv.errors import UsageError
from ssdconv.ssd_ref.files import atomic_path

_CODES = {dtype: code for code, dtype in DTYPES.items()}


def write_params(path: str | os.PathLike[str], tensors: Mapping[str, Array] | Iterable[tuple[str, Array]]) -> None:
    """Write named tensors as one ``.params`` list, atomically, one tensor in memory at a time.

    Args:
        path: destination; what stood there before stays until the new file is complete.
        tensors: names and arrays in the order of the file; names are written as they are (``arg:``/``aux:`` included).

    Raises:
        UsageError: no tensor at all, a name twice or empty, a scalar (which MXNet's V2 arrays cannot hold), or a dtype
            that MXNet lacks; nothing is written then.
        OutputError: the file could not be written.
    """
    names: dict[str, None] = {}
    with atomic_path(Path(path)) as temporary, open(temporary, "wb") as stream:
        stream.write(struct.pack("<QQQ", LIST_MAGIC, 0, 0))
        for name, array in tensors.items() if isinstance(tensors, Mapping) else tensors:
            _check(name, array, names)
            names[name] = None
            stream.write(_header(array))
            stream.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
        if not names:
            raise UsageError("no tensor to write", where=str(path))
        stream.write(struct.pack("<Q", len(names)))
        for name in names:
            raw = name.encode()
            stream.write(struct.pack("<Q", len(raw)) + raw)
        stream.seek(16)
        stream.write(struct.pack("<Q", len(names)))


def _check(name: str, array: Array, names: Mapping[str, None]) -> None:
    if name in names:
        raise UsageError(f"two tensors are named {name!r}")
    if not 1 <= len(name.encode()) <= MAX_NAME or not name.isprintable():
        raise UsageError(f"{name[:80]!r} cannot name a tensor", expected=f"1 to {MAX_NAME} printable bytes")
    if not 1 <= array.ndim <= MAX_DIMS:
        raise UsageError(
            f"tensor {name!r} cannot be written to .params", expected=f"1 to {MAX_DIMS} dimensions", got=array.shape
        )
    if array.dtype.newbyteorder("<") not in _CODES:
        known = ", ".join(str(dtype) for dtype in _CODES)
        raise UsageError(f"tensor {name!r} has a dtype that MXNet lacks", expected=known, got=array.dtype)


def _header(array: Array) -> bytes:
    """V2, dense, shape, cpu(0), dtype."""
    shape = array.shape
    code = _CODES[array.dtype.newbyteorder("<")]
    return struct.pack(f"<Iii{len(shape)}qiii", V2, 0, len(shape), *shape, 1, 0, code)
