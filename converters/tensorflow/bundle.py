"""Checkpoints of TensorFlow's V2 format: a ``.index`` table and ``.data-00000-of-00001`` shards with the bytes.

The table's first key, empty, holds a BundleHeaderProto; each other key is a tensor's name with its BundleEntryProto: dtype,
shape, shard, offset, size and masked CRC-32C. A partitioned variable's entry lists its slices instead, which have keys of
their own (``ordered.slice_key``); they are put together when it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ssdconv.converters.opened import OpenedFile
from ssdconv.converters.protobuf_wire import Wire
from ssdconv.converters.tensorflow import protos
from ssdconv.converters.tensorflow.crc32c import crc32c, masked
from ssdconv.converters.tensorflow.ordered import slice_key
from ssdconv.converters.tensorflow.table import Table
from ssdconv.converters.tensors import Array, LazyTensor
from ssdconv.errors import FormatError, MissingError

Extents = tuple[tuple[int, int], ...]
MAX_SHARDS = 10_000
MAX_SLICES = 10_000
"""Slices of all partitioned variables together."""


@dataclass(frozen=True)
class Entry:
    """A tensor as the index describes it."""

    code: int = 0
    shape: protos.Shape = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    slices: tuple[Extents, ...] = field(default=())


def entry(value: memoryview, where: str) -> Entry:
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
    return Entry(numbers[1], sides, numbers[3], numbers[4], numbers[5], numbers[6], tuple(slices))


class Bundle:
    """The tensors of a table and its shards; ``shard(i)`` opens one."""

    def __init__(self, table: Table, shard: Callable[[int, int], OpenedFile]) -> None:
        self.table = table
        self.entries: dict[str, Entry] = {}
        self._hidden: dict[bytes, Entry] = {}
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

    def _lazy(self, name: str, found: Entry) -> LazyTensor:
        dtype = protos.dtype_of(found.code)
        where = f"{self.table.where}, tensor {name!r}"
        if dtype == protos.UNREADABLE:
            return LazyTensor(name, found.shape, dtype, partial(_refuse, name, where), where)
        if found.slices:
            pieces = self._pieces(name, found, where)
            return LazyTensor(name, found.shape, dtype, partial(self._join, found, pieces, where), where)
        self._check(found, where)
        return LazyTensor(name, found.shape, dtype, partial(self._load, found, where), where)

    def _check(self, found: Entry, where: str) -> None:
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

    def _load(self, found: Entry, where: str) -> Array:
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

    def _pieces(self, name: str, found: Entry, where: str) -> list[tuple[tuple[slice, ...], Entry]]:
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

    def _join(self, found: Entry, pieces: list[tuple[tuple[slice, ...], Entry]], where: str) -> Array:
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
