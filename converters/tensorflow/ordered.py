"""The key under which a slice of a tensor stands in a checkpoint table.

A key is ordered code (tensorflow/core/lib/strings/ordered_code.cc): the number 0, the tensor's name, its number
of dimensions, then start and length of each (length -1: all of it). Encoded keys sort as what they stand for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

FULL = -1
"""Length of a slice that covers its dimension."""


def slice_key(name: str, extents: Iterable[tuple[int, int]]) -> bytes:
    """The key of a slice given as (start, length) per dimension."""
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
