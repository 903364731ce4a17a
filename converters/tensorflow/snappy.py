"""Snappy's block format, unpacking only (google/snappy: format_description.txt)."""

from __future__ import annotations

from typing import Any

from ssdconv.errors import FormatError

MOST_EXPANSION = 22
"""A copy of 64 bytes takes 3: no honest block unpacks to more than this times its size."""


def unpack(data: Any, where: str) -> bytes:
    """The bytes that a Snappy block holds.

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
