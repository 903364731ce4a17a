"""Checkpoints of TensorFlow: V2, a ``.index`` table and ``.data-00000-of-00001`` shards with the bytes, read and written; V1, one table, read.

V2: the table's first key, empty, holds a BundleHeaderProto; each other key is a tensor's name with its BundleEntryProto: dtype, shape, shard,
offset, size and masked CRC-32C. A partitioned variable's entry lists its slices instead, which have keys of their own
(``table.slice_key``); they are put together when it is loaded. ``write_bundle`` makes one shard, which ``tf.train.Saver.restore`` reads.

V1: the empty key holds the list of tensors (name, shape, dtype, slices); each other key one slice with its values as a TensorProto. Only the
list is read on opening. Messages: tensorflow/core/util/saved_tensor_slice.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ssdconv.converters.opened import OpenedFile
from ssdconv.converters.protobuf_wire import LEN, VARINT, Field, Wire, encode_varint
from ssdconv.converters.tensorflow import protos
from ssdconv.converters.tensorflow.protos import DTYPES
from ssdconv.converters.tensorflow.table import FOOTER, MAGIC, Table, crc32c, masked, slice_key
from ssdconv.converters.tensors import Array, LazyTensor
from ssdconv.errors import FormatError, MissingError, UsageError
from ssdconv.ssd_ref.files import atomic_path

Extents = tuple[tuple[int, int], ...]
MAX_SHARDS = 10_000
MAX_SLICES = 10_000
"""Slices of all partitioned variables together."""


@dataclass(frozen=True)
class BundleEntry:
    """A tensor as the index describes it."""

    code: int = 0
    shape: protos.Shape = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    slices: tuple[Extents, ...] = field(default=())


def entry(value: memoryview, where: str) -> BundleEntry:
    """Decode a BundleEntryProto."""
    wire = Wire(bytes(value), where)
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
    sides: protos.Shape = ()
    slices: list[Extents] = []
    for part in wire.fields(0, len(value)):
        if part.number in numbers:
            numbers[part.number] = protos.number(wire, part)
        elif part.number == 2:
            sides = protos.shape(wire, part)
        elif part.number == 7:
            slices.append(protos.extents(wire, part))
            if len(slices) > MAX_SLICES:
                raise wire.error("a tensor in too many slices", part.start)
    return BundleEntry(numbers[1], sides, numbers[3], numbers[4], numbers[5], numbers[6], tuple(slices))


class Bundle:
    """The tensors of a table and its shards; ``shard(i)`` opens one."""

    def __init__(self, table: Table, shard: Callable[[int, int], OpenedFile]) -> None:
        self.table = table
        self.entries: dict[str, BundleEntry] = {}
        self._hidden: dict[bytes, BundleEntry] = {}
        self._open = shard
        self._shards: dict[int, OpenedFile] = {}
        self.shards = 0
        self._read()

    def _read(self) -> None:
        for item in self.table:
            where = f"{self.table.where}, entry {item.key[:80]!r}"
            if not item.key:
                self._header(item.value, where)
            elif not self.shards:
                raise FormatError("the index has no header", where=self.table.where)
            elif item.key[0] == 0:
                self._hidden[item.key] = entry(item.value, where)
            else:
                try:
                    name = item.key.decode()
                except UnicodeDecodeError:
                    raise FormatError("a tensor's name is not text", where=where) from None
                self.entries[name] = entry(item.value, where)
        if not self.shards:
            raise FormatError("the index has no header", where=self.table.where)

    def _header(self, value: memoryview, where: str) -> None:
        wire = Wire(bytes(value), where)
        for part in wire.fields(0, len(value)):
            if part.number == 1:
                self.shards = protos.number(wire, part)
            if part.number == 2 and protos.number(wire, part):
                raise FormatError("a checkpoint of a big-endian machine is not read", where=where)
        if not 1 <= self.shards <= MAX_SHARDS:
            raise FormatError("unlikely number of shards", where=where, expected=f"1 to {MAX_SHARDS}", got=self.shards)

    def tensors(self) -> dict[str, LazyTensor]:
        """All tensors by name; sizes are checked against shape, dtype and shard, bytes are not read."""
        slices = sum(len(found.slices) for found in self.entries.values())
        if slices > MAX_SLICES:
            raise FormatError("too many slices", where=self.table.where, expected=f"at most {MAX_SLICES}", got=slices)
        return {name: self._lazy(name, found) for name, found in self.entries.items()}

    def _lazy(self, name: str, found: BundleEntry) -> LazyTensor:
        dtype = protos.dtype_of(found.code)
        where = f"{self.table.where}, tensor {name!r}"
        if dtype == protos.UNREADABLE:
            return LazyTensor(name, found.shape, dtype, partial(_refuse, name, where), where)
        if found.slices:
            pieces = self._pieces(name, found, where)
            return LazyTensor(name, found.shape, dtype, partial(self._join, found, pieces, where), where)
        self._check(found, where)
        return LazyTensor(name, found.shape, dtype, partial(self._load, found, where), where)

    def _check(self, found: BundleEntry, where: str) -> None:
        wanted = protos.count(found.shape) * protos.dtype_of(found.code).itemsize
        if found.size != wanted:
            raise FormatError(
                "the tensor has another size than its shape",
                where=where,
                expected=f"{wanted} bytes for {found.shape}",
                got=found.size,
            )
        data = self._shard(found.shard, where).data
        if found.offset + found.size > len(data):
            raise FormatError(
                f"the tensor reaches past the end of shard {found.shard}",
                where=where,
                expected=f"<= {len(data)} bytes",
                got=found.offset + found.size,
                hint="the .data file is cut short; copy or download it again",
            )

    def _shard(self, index: int, where: str) -> OpenedFile:
        if not 0 <= index < self.shards:
            raise FormatError("no such shard", where=where, expected=f"0 to {self.shards - 1}", got=index)
        if index not in self._shards:
            self._shards[index] = self._open(index, self.shards)
        return self._shards[index]

    def _load(self, found: BundleEntry, where: str) -> Array:
        file = self._shard(found.shard, where)
        file.unchanged()
        data = memoryview(file.data)[found.offset : found.offset + found.size]
        if (got := masked(crc32c(data))) != found.crc:
            raise FormatError(
                "the tensor's CRC-32C is wrong",
                where=f"{where}, shard {found.shard}, offset {found.offset}",
                expected=f"{found.crc:#010x}",
                got=f"{got:#010x}",
                hint="the .data file is damaged or of another checkpoint; copy or download it again",
            )
        return np.frombuffer(data, protos.dtype_of(found.code)).reshape(found.shape)

    def _pieces(self, name: str, found: BundleEntry, where: str) -> list[tuple[tuple[slice, ...], BundleEntry]]:
        """Places and entries of a partitioned tensor's slices, which must tile it."""
        pieces = []
        covered = 0
        for one in found.slices:
            place = place_of(one, found.shape, where)
            piece = self._hidden.get(slice_key(name, one))
            sides = tuple(s.stop - s.start for s in place)
            if piece is None or piece.shape != sides or piece.code != found.code or piece.slices:
                raise FormatError("a slice of the tensor is missing or of another shape", where=where, got=one)
            self._check(piece, where)
            pieces.append((place, piece))
            covered += protos.count(sides)
        check_tiling([place for place, _ in pieces], covered, found.shape, where)
        return pieces

    def _join(self, found: BundleEntry, pieces: list[tuple[tuple[slice, ...], BundleEntry]], where: str) -> Array:
        out = np.empty(found.shape, protos.dtype_of(found.code))
        for place, piece in pieces:
            out[place] = self._load(piece, where)
        return out

    def unchanged(self) -> None:
        """Raise when a shard was changed since it was opened."""
        for file in self._shards.values():
            file.unchanged()

    def close(self) -> None:
        """Let go of the shards."""
        for file in self._shards.values():
            file.close()


def place_of(one: Extents, shape: protos.Shape, where: str) -> tuple[slice, ...]:
    """A slice of a tensor as NumPy writes it.

    Raises:
        FormatError: it does not lie within the tensor.
    """
    place = []
    if len(one) == len(shape):
        for (start, length), side in zip(one, shape, strict=True):
            stop = side if length < 0 else start + length
            if 0 <= start < stop <= side:
                place.append(slice(start, stop))
    if len(place) != len(shape) or len(one) != len(shape):
        raise FormatError("a slice lies outside its tensor", where=where, expected=f"within {shape}", got=one)
    return tuple(place)


def check_tiling(places: list[tuple[slice, ...]], covered: int, shape: protos.Shape, where: str) -> None:
    """Raise unless the places cover the shape without overlap."""
    starts, stops = (
        np.array([[getattr(side, end) for side in place] for place in places], np.int64).reshape(
            len(places), len(shape)
        )
        for end in ("start", "stop")
    )
    overlap = any(
        bool(((starts[i] < stops[:i]) & (starts[:i] < stops[i])).all(axis=1).any()) for i in range(1, len(places))
    )
    if overlap or covered != protos.count(shape):
        raise FormatError("the slices of a tensor do not make it up", where=where, expected=shape)


def _refuse(name: str, where: str) -> Array:
    raise protos.unreadable(name, where)


def shard_path(prefix: Path, index: int, count: int) -> Path:
    """The file of a shard."""
    return prefix.with_name(f"{prefix.name}.data-{index:05d}-of-{count:05d}")


def open_shard(prefix: Path, index: int, count: int) -> OpenedFile:
    """Open a shard.

    Raises:
        MissingError: it is not beside the index.
    """
    path = shard_path(prefix, index, count)
    try:
        return OpenedFile(path)
    except MissingError:
        raise MissingError(
            "the checkpoint's data file is missing",
            where=str(path),
            hint="a checkpoint is a .index file and all its .data files in one folder",
        ) from None


@dataclass(frozen=True)
class Saved:
    """A tensor as the list describes it."""

    name: str
    shape: protos.Shape
    code: int
    slices: tuple[Extents, ...]


def saved_tensors(table: Table, file: OpenedFile | None = None) -> dict[str, LazyTensor]:
    """All tensors of a V1 checkpoint by name; only the list of tensors is read."""
    found = {}
    for saved in listed(table):
        where = f"{table.where}, tensor {saved.name!r}"
        if saved.name in found:
            raise FormatError("two tensors have one name", where=where)
        dtype = protos.dtype_of(saved.code)
        found[saved.name] = LazyTensor(saved.name, saved.shape, dtype, partial(_load, table, file, saved, where), where)
    return found


def listed(table: Table) -> list[Saved]:
    """The list of tensors under the empty key."""
    value = table.get(b"")
    if value is None:
        raise FormatError("the table has no list of tensors", where=table.where)
    wire = Wire(bytes(value), f"{table.where}, list of tensors")
    return [
        _saved(wire, one)
        for part in wire.fields(0, len(value))
        if part.number == 1
        for one in protos.messages(wire, part)
        if one.number == 1
    ]


def _saved(wire: Wire, field: Field) -> Saved:
    name, code = "", 0
    sides: protos.Shape = ()
    slices: list[Extents] = []
    for part in protos.messages(wire, field):
        if part.number == 1:
            name = protos.string(wire, part)
        elif part.number == 2:
            sides = protos.shape(wire, part)
        elif part.number == 3:
            code = protos.number(wire, part)
        elif part.number == 4:
            slices.append(protos.extents(wire, part))
            if len(slices) > MAX_SLICES:
                raise wire.error("a tensor in too many slices", part.start)
    return Saved(name, sides, code, tuple(slices))


def _load(table: Table, file: OpenedFile | None, saved: Saved, where: str) -> Array:
    if protos.dtype_of(saved.code) == protos.UNREADABLE:
        raise protos.unreadable(saved.name, where)
    if file is not None:
        file.unchanged()
    places = [place_of(one, saved.shape, where) for one in saved.slices]
    sides = [tuple(s.stop - s.start for s in place) for place in places]
    check_tiling(places, sum(protos.count(s) for s in sides), saved.shape, where)
    pieces = [_piece(table, saved, one, side, where) for one, side in zip(saved.slices, sides, strict=True)]
    if len(pieces) == 1:
        return pieces[0]
    out = np.empty(saved.shape, protos.dtype_of(saved.code))
    for place, piece in zip(places, pieces, strict=True):
        out[place] = piece
    return out


def _piece(table: Table, saved: Saved, one: Extents, sides: protos.Shape, where: str) -> Array:
    value = table.get(slice_key(saved.name, one))
    if value is None:
        raise FormatError("a slice of the tensor is missing", where=where, got=one)
    wire = Wire(value, where)  # type: ignore[arg-type]
    for part in wire.fields(0, len(value)):
        if part.number != 2:
            continue
        for inner in protos.messages(wire, part):
            if inner.number == 3 and inner.wire == LEN:
                return protos.tensor_values(wire, inner.begin, inner.end, saved.code, sides)
    raise FormatError("a slice of the tensor holds no values", where=where)


_CODES = {dtype: code for code, dtype in DTYPES.items()}
_BLOCK = 4096
_RESTART = 16
_HEADER = bytes([1 << 3 | VARINT, 1, 3 << 3 | LEN, 2, 1 << 3 | VARINT, 1])
"""BundleHeaderProto: one shard, little-endian, written for readers of version 1 and later."""


def write_bundle(prefix: Path, tensors: Mapping[str, Array]) -> list[Path]:
    """Write a checkpoint, atomically: the old index stands until the new data is complete.

    Args:
        prefix: what TensorFlow calls the checkpoint's path; ``.index`` and ``.data-00000-of-00001`` are added.
        tensors: by variable name without ":0".

    Returns:
        The index, then the shard.

    Raises:
        UsageError: no tensor, or one whose name or dtype TensorFlow cannot hold.
        OutputError: a file could not be written.
    """
    if not tensors:
        raise UsageError("no tensor to write", where=str(prefix))
    index, shard = prefix.with_name(prefix.name + ".index"), shard_path(prefix, 0, 1)
    with atomic_path(index) as table, atomic_path(shard) as data:
        entries = [(b"", _HEADER)]
        offset = 0
        with open(data, "wb") as stream:
            for name in sorted(tensors, key=str.encode):
                array = np.asarray(tensors[name], tensors[name].dtype.newbyteorder("<"), order="C")
                if array.dtype not in _CODES or not name or not name.isprintable():
                    raise UsageError(f"tensor {name[:80]!r} cannot be written to a checkpoint", got=array.dtype)
                raw = array.tobytes()
                stream.write(raw)
                entries.append((name.encode(), _entry(array, offset, crc32c(raw))))
                offset += array.nbytes
        table.write_bytes(table_bytes(entries))
    return [index, shard]


def _entry(array: Array, offset: int, crc: int) -> bytes:
    """BundleEntryProto."""
    sides = b"".join(_field(2, LEN, _field(1, VARINT, encode_varint(side))) for side in array.shape)
    return (
        _field(1, VARINT, encode_varint(_CODES[array.dtype]))
        + _field(2, LEN, sides)
        + (_field(4, VARINT, encode_varint(offset)) if offset else b"")
        + _field(5, VARINT, encode_varint(array.nbytes))
        + bytes([6 << 3 | 5])
        + struct.pack("<I", masked(crc))
    )


def _field(number: int, wire: int, body: bytes) -> bytes:
    return bytes([number << 3 | wire]) + (encode_varint(len(body)) if wire == LEN else b"") + body


def table_bytes(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A whole table file of sorted keys and values, uncompressed."""
    out = bytearray()
    index: list[tuple[bytes, bytes]] = []
    start = 0
    while start < len(entries):
        stop, size = start, 0
        while stop < len(entries) and size < _BLOCK:
            size += len(entries[stop][0]) + len(entries[stop][1]) + 6
            stop += 1
        index.append((entries[stop - 1][0], _append(out, _block(entries[start:stop]))))
        start = stop
    handles = _append(out, _block([])) + _append(out, _block(index))
    footer = handles.ljust(FOOTER - 8, b"\0") + MAGIC.to_bytes(8, "little")
    return bytes(out) + footer


def _append(out: bytearray, block: bytes) -> bytes:
    """Add a block and its trailer; returns its handle."""
    handle = encode_varint(len(out)) + encode_varint(len(block))
    stored = block + b"\0"
    out += stored + struct.pack("<I", masked(crc32c(stored)))
    return handle


def _block(entries: list[tuple[bytes, bytes]]) -> bytes:
    out, restarts, last = bytearray(), [0], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % _RESTART:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        elif number:
            restarts.append(len(out))
        out += (
            encode_varint(shared) + encode_varint(len(key) - shared) + encode_varint(len(value)) + key[shared:] + value
        )
        last = key
    return bytes(out) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
