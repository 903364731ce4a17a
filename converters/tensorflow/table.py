"""TensorFlow's sorted table of keys and values, the container of checkpoints: LevelDB's format with own limits.

::

    file    = blocks, index block, footer (48 bytes)
    footer  = handle of an unused block, handle of the index block, zeros up to 40 bytes, u64 magic
    handle  = varint offset, varint size
    stored block = contents, u8 compression (0 none, 1 snappy), u32 masked CRC-32C of both
    contents     = entries, u32 per restart point, u32 number of restart points
    entry   = varint shared, varint unshared, varint value size, unshared key bytes, value

A key shares ``shared`` bytes with the one before it. In the index block a value is a block's handle, and its key is at or
behind the block's last one. Sources: leveldb doc/table_format.md, tensorflow/tsl/lib/io/format.h.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import google_crc32c

from ssdconv.converters.protobuf_wire import Wire
from ssdconv.errors import FormatError

MAGIC = 0xDB4775248B80FB57
FOOTER = 48
MAX_ENTRIES = 100_000
MAX_KEY = 4096


class Handle(NamedTuple):
    """Where a block lies in the file, without its 5-byte trailer."""

    offset: int
    size: int


class Item(NamedTuple):
    """A key and the bytes of its value."""

    key: bytes
    value: memoryview


def is_table(tail: bytes) -> bool:
    """Whether the last bytes of a file are a table's."""
    return len(tail) >= 8 and tail[-8:] == MAGIC.to_bytes(8, "little")


class Table:
    """An open table.

    Args:
        data: the whole file.
        where: its name for messages.

    Raises:
        FormatError: no table, or its index is damaged.
    """

    def __init__(self, data: Any, where: str) -> None:
        self._data = memoryview(data)
        self.where = where
        if len(self._data) < FOOTER or not is_table(bytes(self._data[-8:])):
            raise FormatError("not a TensorFlow table: its last 8 bytes are not the magic number", where=where)
        start = len(self._data) - FOOTER
        footer = Wire(bytes(self._data[start:]), f"{where}, footer")
        _, at = _handle(footer, 0, 40)
        index, _ = _handle(footer, at, 40)
        self._limit = start
        self.index: list[tuple[bytes, Handle]] = []
        for key, value in _entries(self._block(index), f"{where}, index block"):
            handle, used = _handle(Wire(bytes(value), f"{where}, index block"), 0, len(value))
            if used != len(value):
                raise FormatError("a block's handle has bytes left over", where=f"{where}, index block")
            if self.index and handle.offset < self.index[-1][1].offset + self.index[-1][1].size:
                raise FormatError("two blocks share bytes", where=f"{where}, index block", got=handle.offset)
            self.index.append((key, handle))
        if len(self.index) > MAX_ENTRIES:
            raise FormatError("the table has too many blocks", where=where, got=len(self.index))

    def _block(self, handle: Handle) -> memoryview:
        """The contents of a block, its CRC checked."""
        end = handle.offset + handle.size
        if end + 5 > self._limit:
            raise FormatError(
                "a block reaches past the end of the table",
                where=f"{self.where}, block at offset {handle.offset}",
                expected=f"end <= {self._limit - 5}",
                got=end,
                hint="the file is cut short; copy or download it again",
            )
        where = f"{self.where}, block at offset {handle.offset}"
        stored = int.from_bytes(self._data[end + 1 : end + 5], "little")
        found = masked(crc32c(self._data[handle.offset : end + 1]))
        if stored != found:
            raise FormatError(
                "a block's CRC-32C is wrong",
                where=where,
                expected=f"{stored:#010x}",
                got=f"{found:#010x}",
                hint="the file is damaged; copy or download it again",
            )
        kind = self._data[end]
        if kind == 0:
            return self._data[handle.offset : end]
        if kind == 1:
            return memoryview(unpack(self._data[handle.offset : end], where))
        raise FormatError("a block is compressed by an unknown method", where=where, expected="0 or 1", got=kind)

    def __iter__(self) -> Iterator[Item]:
        """All entries in the order of their keys."""
        count, last = 0, b""
        for _, handle in self.index:
            where = f"{self.where}, block at offset {handle.offset}"
            for item in _entries(self._block(handle), where):
                if count and item.key <= last:
                    raise FormatError("keys are not in order", where=where, got=repr(item.key[:60]))
                count, last = count + 1, item.key
                if count > MAX_ENTRIES:
                    raise FormatError("the table has too many entries", where=self.where, expected=MAX_ENTRIES)
                yield item

    def get(self, key: bytes) -> memoryview | None:
        """The value of a key; reads one block."""
        place = bisect_left(self.index, key, key=lambda entry: entry[0])
        if place == len(self.index):
            return None
        handle = self.index[place][1]
        for item in _entries(self._block(handle), f"{self.where}, block at offset {handle.offset}"):
            if item.key == key:
                return item.value
        return None


def _handle(wire: Wire, at: int, end: int) -> tuple[Handle, int]:
    offset, at = wire.varint(at, end)
    size, at = wire.varint(at, end)
    return Handle(offset, size), at


def _entries(block: memoryview, where: str) -> Iterator[Item]:
    """Entries of a block, keys completed."""
    if len(block) < 4:
        raise FormatError("a block is too short", where=where, got=f"{len(block)} bytes")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if restarts < 1 or end < 0:
        raise FormatError("a block's restart points do not fit into it", where=where, got=restarts)
    wire = Wire(block, where)  # type: ignore[arg-type]
    at, key = 0, b""
    while at < end:
        start = at
        shared, at = wire.varint(at, end)
        unshared, at = wire.varint(at, end)
        size, at = wire.varint(at, end)
        if shared > len(key) or shared + unshared > MAX_KEY or at + unshared + size > end:
            raise FormatError("an entry of a block is damaged", where=f"{where}, byte {start} of it")
        key = key[:shared] + bytes(block[at : at + unshared])
        at += unshared
        yield Item(key, block[at : at + size])
        at += size


def slice_key(name: str, extents: Iterable[tuple[int, int]]) -> bytes:
    """The key under which a slice, (start, length) per dimension, stands in a checkpoint's table.

    It is ordered code (tensorflow/core/lib/strings/ordered_code.cc): the number 0, the tensor's name, its number of dimensions, then
    start and length of each. Encoded keys sort as what they stand for.
    """
    pairs = list(extents)
    numbers = b"".join(signed(start) + signed(length) for start, length in pairs)
    return unsigned(0) + text(name.encode()) + unsigned(len(pairs)) + numbers


def unsigned(value: int) -> bytes:
    """A count of bytes, then the number's bytes, highest first, without leading zeros."""
    body = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([len(body)]) + body


_ESCAPED = re.compile(rb"[\0\xff]")


def _escape(found: re.Match[bytes]) -> bytes:
    return b"\0\xff" if found[0] == b"\0" else b"\xff\0"


def text(raw: bytes) -> bytes:
    """The bytes with 0 and 255 made two bytes, then an end mark."""
    return _ESCAPED.sub(_escape, raw) + b"\0\1"


def signed(value: int) -> bytes:
    """Big-endian two's complement of as few bytes as it needs; leading one bits tell their number, inverted where negative."""
    magnitude = ~value if value < 0 else value
    length = magnitude.bit_length() // 7 + 1
    body = bytearray(value.to_bytes(10, "big", signed=True)[-length:])
    header = ((1 << length) - 1) << (16 - length)
    body[0] ^= header >> 8
    if length > 1:
        body[1] ^= header & 0xFF
    return bytes(body)


_MASK_DELTA = 0xA282EAD8
_PIECE = 16 << 20
"""Bytes that are copied at a time: the library takes ``bytes`` alone."""


def masked(crc: int) -> int:
    """The form in which TensorFlow stores a CRC (tsl/lib/hash/crc32c.h: rotated by 15 bits, plus a constant)."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(data: Any, crc: int = 0) -> int:
    """CRC-32C of a bytes-like object, or of what was seen so far (its CRC is ``crc``) and ``data``."""
    view = memoryview(data).cast("B")
    for start in range(0, len(view), _PIECE):
        crc = google_crc32c.extend(crc, bytes(view[start : start + _PIECE]))
    return crc


MOST_EXPANSION = 22
"""A copy of 64 bytes takes 3: no honest block unpacks to more than this times its size."""


def unpack(data: Any, where: str) -> bytes:
    """The bytes that a Snappy block holds (google/snappy: format_description.txt).

    Written here, because a block of 4 KiB is all that is ever unpacked, and its declared size is not to be trusted.

    Raises:
        FormatError: damaged, or larger than it declares or than any block can be.
    """
    data = bytes(data)
    length, at = _length(data, where)
    if length > len(data) * MOST_EXPANSION + 64:
        raise FormatError(
            "a compressed block declares more than it can hold",
            where=where,
            expected=f"<= {len(data) * MOST_EXPANSION + 64} bytes",
            got=length,
        )
    out = bytearray()
    try:
        while at < len(data):
            tag = data[at]
            at += 1
            if tag & 3 == 0:
                size = tag >> 2
                if size >= 60:
                    extra = size - 59
                    size = int.from_bytes(data[at : at + extra], "little")
                    at += extra
                size += 1
                piece = data[at : at + size]
                if len(piece) != size:
                    raise _damaged(where, at)
                out += piece
                at += size
            else:
                if tag & 3 == 1:
                    size, offset = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | data[at]
                    at += 1
                else:
                    width = 2 if tag & 3 == 2 else 4
                    size, offset = (tag >> 2) + 1, int.from_bytes(data[at : at + width], "little")
                    at += width
                if at > len(data) or not 0 < offset <= len(out):
                    raise _damaged(where, at)
                start = len(out) - offset
                if offset >= size:
                    out += out[start : start + size]
                else:  # the copy reads what it writes
                    pattern = bytes(out[start:])
                    out += (pattern * (size // offset + 1))[:size]
            if len(out) > length:
                raise _damaged(where, at)
    except IndexError:
        raise _damaged(where, at) from None
    if len(out) != length:
        raise FormatError("a compressed block is cut short", where=where, expected=f"{length} bytes", got=len(out))
    return bytes(out)


def _length(data: bytes, where: str) -> tuple[int, int]:
    value = 0
    for at, byte in enumerate(data[:5]):
        value |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            return value, at + 1
    raise _damaged(where, 0)


def _damaged(where: str, at: int) -> FormatError:
    return FormatError("a compressed block is damaged", where=f"{where}, byte {at} of it")
