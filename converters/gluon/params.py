"""MXNet's ``.params`` files (``save_parameters``, ``nd.save``, ``export``), read and written without MXNet.

The list is walked once, headers only; tensor bytes are touched when a tensor is loaded, as views of a memory map. What is written are
the bytes that ``nd.save`` of MXNet 1.9.1 writes. All integers are little-endian (src/ndarray/ndarray.cc and dmlc's stream)::

    u64 0x112, u64 reserved, u64 number of arrays, the arrays, u64 number of names (0 or as many), then u64 length + bytes each

An array is one of these; data is in C order::

    V2, V3:  u32 magic, i32 storage, i32 ndim, i64 x ndim, i32 device type, i32 device id, i32 dtype, data
    V1:      u32 magic,              u32 ndim, i64 x ndim, i32 device type, i32 device id, i32 dtype, data
    oldest:                          u32 ndim, u32 x ndim, i32 device type, i32 device id, i32 dtype, data

Sparse storage, which is refused, has more shapes in between. V3 is V2 under numpy shape semantics: no dimensions then means a scalar.

GluonCV's ``pretrained=True`` leaves downloaded files, called ``<name>-<first 8 digits of their SHA-1>.params``, in ``$MXNET_HOME/models``, by default ``~/.mxnet/models`` (gluoncv/model_zoo/model_store.py).
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.gluon.mapping import dialect_of, prefix_counts
from ssdconv.converters.opened import OpenedFile
from ssdconv.converters.tensors import Array, LazyTensor, TensorTable
from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.ssd_ref.gate import open_input

LIST_MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
VERSIONS = {V1: "V1", V2: "V2", V3: "V3"}

DTYPES: dict[int, np.dtype[np.generic]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f8"),
    2: np.dtype("<f2"),
    3: np.dtype("u1"),
    4: np.dtype("<i4"),
    5: np.dtype("i1"),
    6: np.dtype("<i8"),
    7: np.dtype("?"),
}
"""mshadow's type codes that have a numpy dtype and occur in files."""

OTHER_DTYPES = {8: ("int16", 2), 9: ("uint16", 2), 10: ("uint32", 4), 11: ("uint64", 8), 12: ("bfloat16", 2)}
"""Codes that are refused, with name and size in bytes."""

STORAGE = {0: "dense", 1: "row_sparse", 2: "csr"}
"""Storage code -> name."""

MAX_DIMS = 32
MAX_TENSORS = 20_000
"""Far above the largest known network (806), far below what would make the tensor table itself a burden."""
MAX_NAME = 1024


@dataclass(frozen=True)
class ParamsFile:
    """What opening a ``.params`` file finds.

    Attributes:
        dialect: which of Gluon's naming rules the names follow, see ``mapping.dialect_of``.
        prefixes: number of names with ``arg:``, with ``aux:``, and ("") with neither.
        versions: arrays per format version.
    """

    dialect: str
    prefixes: dict[str, int]
    versions: dict[str, int]


_NO_PARAMS = "is this an MXNet .params file?"


def read_params(path: str | os.PathLike[str], *, use_mmap: bool = True) -> TensorTable:
    """Open a ``.params`` file.

    Args:
        path: the file.
        use_mmap: map the file and read tensors when they are loaded; False reads the whole file first.

    Returns:
        Tensors in file order under the names of the file (``arg:``/``aux:`` included; ``"0"``, ``"1"``, … for a list
        without names), and a ``ParamsFile``.

    Raises:
        FormatError: damaged, truncated, or hostile file, two tensors of one name, sparse storage, or a dtype that has no
            place in a network; the message holds the byte offset.
        MissingError: there is no such file.
    """
    path = Path(path)
    file = OpenedFile(path, use_mmap=use_mmap)
    try:
        return parse(memoryview(file.data), path, file)
    except BaseException:
        file.close()
        raise


@dataclass(frozen=True)
class _Header:
    """One array as its header describes it; ``refused`` says why it cannot be served."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    version: str
    start: int
    data: int
    refused: str = ""


def parse(buffer: memoryview, path: Path, file: OpenedFile | None = None) -> TensorTable:
    """Walk a ``.params`` list in memory. See ``read_params``; ``file`` serves the tensors' bytes on load."""

    def view() -> memoryview:
        if file is None:
            return buffer
        file.unchanged()
        return memoryview(file.data)

    cursor = _Cursor(buffer, path)
    magic, _reserved, count = cursor.numbers("<QQQ", "list header")
    if magic != LIST_MAGIC:
        raise cursor.error("not an MXNet list", 0, expected=hex(LIST_MAGIC), got=hex(magic), hint=_NO_PARAMS)
    if not 1 <= count <= MAX_TENSORS:
        raise cursor.error("unlikely number of arrays", 16, expected=f"1 to {MAX_TENSORS}", got=count)
    headers = [_array(cursor, index) for index in range(count)]
    names = _names(cursor, count)
    if cursor.offset != len(buffer):
        raise cursor.error("bytes left over behind the last name", cursor.offset, got=len(buffer) - cursor.offset)
    tensors: dict[str, LazyTensor] = {}
    for index, header in enumerate(headers):
        name = names[index] if names else str(index)
        if header.refused:
            raise cursor.error(f"tensor {name!r} {header.refused}", header.start)
        if name in tensors:
            raise cursor.error(f"two tensors are named {name!r}", header.start)
        where = f"array {index}, offset {header.data}"
        tensors[name] = LazyTensor(name, header.shape, header.dtype, _loader(view, header), where)
    versions = [header.version for header in headers]
    found = ParamsFile(dialect_of(names), prefix_counts(names), {v: versions.count(v) for v in dict.fromkeys(versions)})
    if file is None:
        return TensorTable(path, "params", tensors, found=found)
    return TensorTable(path, "params", tensors, found=found, unchanged=file.unchanged, close=file.close)


def _loader(view: Callable[[], memoryview], header: _Header) -> Callable[[], Array]:
    def load() -> Array:
        return np.frombuffer(view(), header.dtype, prod(header.shape), header.data).reshape(header.shape)

    return load


def _array(cursor: _Cursor, index: int) -> _Header:
    what, start = f"array {index}", cursor.offset
    (word,) = cursor.numbers("<I", what)
    if word in (V2, V3):
        (code,) = cursor.numbers("<i", what)
        if code not in STORAGE:
            raise cursor.error(f"{what}: unknown storage type", start + 4, expected="0, 1 or 2", got=code)
        if code:
            # Not read further: MXNet writes shapes here that do not fit the data that follows.
            raise cursor.error(f"{what} is stored as {STORAGE[code]}; only dense arrays are read", start + 4)
    if word in VERSIONS:
        shape = _shape(cursor, what, scalar=word == V3)
    elif word <= MAX_DIMS:
        shape = _sides(cursor, what, word, "I")
    else:
        raise cursor.error(f"{what}: neither a known magic nor a number of dimensions", start, got=hex(word))
    _device_type, _device_id, type_code = cursor.numbers("<iii", what)
    dtype, refused = DTYPES.get(type_code), ""
    if dtype is None:
        if type_code not in OTHER_DTYPES:
            raise cursor.error(f"{what}: unknown dtype code", cursor.offset - 4, got=type_code)
        name, size = OTHER_DTYPES[type_code]
        dtype, refused = np.dtype(f"V{size}"), f"has dtype {name}, which is not read"
    data = cursor.skip(dtype.itemsize * prod(shape), f"data of {what}, {shape} {dtype}")
    return _Header(shape, dtype, VERSIONS.get(word, "V0"), start, data, refused)


def _shape(cursor: _Cursor, what: str, scalar: bool = False) -> tuple[int, ...]:
    (ndim,) = cursor.numbers("<i", what)
    if not (0 if scalar else 1) <= ndim <= MAX_DIMS:
        expected = f"{0 if scalar else 1} to {MAX_DIMS}"
        raise cursor.error(f"{what}: impossible number of dimensions", cursor.offset - 4, expected=expected, got=ndim)
    return _sides(cursor, what, ndim, "q")


def _sides(cursor: _Cursor, what: str, ndim: int, kind: str) -> tuple[int, ...]:
    if ndim == 0 and kind == "I":
        raise cursor.error(f"{what}: no dimensions", cursor.offset - 4)
    start = cursor.offset
    sides = cursor.numbers(f"<{ndim}{kind}", what)
    if any(side < 0 for side in sides):
        raise cursor.error(f"{what}: negative dimension", start, got=sides)
    if prod(max(side, 1) for side in sides) >= 1 << 56:  # NumPy makes no such array, also where another side is 0
        raise cursor.error(f"{what}: larger than any memory", start, got=sides)
    return sides


def _names(cursor: _Cursor, arrays: int) -> list[str]:
    start = cursor.offset
    (count,) = cursor.numbers("<Q", "number of names")
    if count not in (0, arrays):
        raise cursor.error("number of names differs from number of arrays", start, expected=f"0 or {arrays}", got=count)
    names = []
    for index in range(count):
        start = cursor.offset
        (length,) = cursor.numbers("<Q", f"name {index}")
        if not 1 <= length <= MAX_NAME:
            raise cursor.error(f"name {index}: unlikely length", start, expected=f"1 to {MAX_NAME}", got=length)
        raw = cursor.bytes(length, f"name {index}")
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise cursor.error(f"name {index} is not UTF-8", start + 8, got=raw[:40]) from None
        if not name.isprintable():
            raise cursor.error(f"name {index} holds control characters", start + 8, got=raw[:40])
        names.append(name)
    return names


class _Cursor:
    """A place in the file; every step checks that the file goes on that far."""

    def __init__(self, buffer: memoryview, path: Path) -> None:
        self._buffer = buffer
        self._path = path
        self.offset = 0

    def error(self, what: str, offset: int, **facts: Any) -> FormatError:
        """A FormatError at ``offset`` of this file."""
        return FormatError(what, where=f"{self._path} at offset {offset}", **facts)

    def skip(self, count: int, what: str) -> int:
        """Step over ``count`` bytes and return where they began."""
        start, left = self.offset, len(self._buffer) - self.offset
        if count > left:
            raise self.error(f"the file ends inside {what}", start, expected=f"{count} bytes", got=f"{left} left")
        self.offset += count
        return start

    def numbers(self, form: str, what: str) -> tuple[int, ...]:
        """Integers of a ``struct`` format."""
        return struct.unpack_from(form, self._buffer, self.skip(struct.calcsize(form), what))

    def bytes(self, count: int, what: str) -> bytes:
        """``count`` bytes, copied."""
        start = self.skip(count, what)
        return bytes(self._buffer[start : start + count])


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


def folder() -> Path:
    """The cache folder, whether it exists or not."""
    home = os.environ.get("MXNET_HOME")
    return (Path(home) if home else Path("~/.mxnet")).expanduser() / "models"


def cached_params(name: str) -> Path | None:
    """The file of a network or backbone; None where the cache has none.

    Raises:
        FormatError: there is one, but its bytes are not those that its name promises.
        UsageError: there are several whole ones.
    """
    pattern = re.compile(re.escape(name) + r"-([0-9a-f]{8})\.params")
    places = sorted(folder().iterdir()) if folder().is_dir() else []
    found = [(path, match[1]) for path in places if (match := pattern.fullmatch(path.name)) and path.is_file()]
    damaged = [path for path, digits in found if not _sha1(path).startswith(digits)]
    whole = [path for path, _ in found if path not in damaged]
    if len(whole) > 1:
        raise UsageError(
            f"several files of {name!r}",
            where=str(folder()),
            got=", ".join(path.name for path in whole),
            hint="give the file that you mean",
        )
    if damaged and not whole:
        raise FormatError(
            "the file's SHA-1 does not begin as its name says: the download broke off, or the file was changed",
            where=str(damaged[0]),
            hint="delete it, or give the file by its path if you changed it yourself",
        )
    return whole[0] if whole else None


def _sha1(path: Path) -> str:
    with open_input(path, "weights") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()
