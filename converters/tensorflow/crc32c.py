"""CRC-32C (Castagnoli, RFC 3720 appendix B.4) with NumPy, and the masked form that TensorFlow stores.

A CRC without its first and last inversion is linear over GF(2). So the data is cut into many short pieces, all pieces are
worked on side by side, 32 bits a step, and neighbours are then joined pair by pair: ``crc(a + b) = shift(crc(a), len(b)) ^ crc(b)``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78
_PIECE = 64
"""Words of a piece, a power of two."""
_MASK_DELTA = 0xA282EAD8


def masked(crc: int) -> int:
    """The form in which TensorFlow stores a CRC (tsl/lib/hash/crc32c.h: rotated by 15 bits, plus a constant)."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(data: Any, crc: int = 0) -> int:
    """CRC-32C of a bytes-like object, or of what was seen so far (its CRC is ``crc``) and ``data``."""
    view = np.frombuffer(data, np.uint8)
    state = _shift(crc ^ 0xFFFFFFFF, len(view))
    return state ^ _raw(view) ^ 0xFFFFFFFF


def _raw(view: npt.NDArray[np.uint8]) -> int:
    """The CRC that starts at 0 and is not inverted at the end."""
    block = _PIECE * 4
    whole = len(view) // block * block
    state = 0
    step = 1 << 22
    for start in range(0, whole, step):
        part = view[start : min(start + step, whole)]
        state = _shift(state, len(part)) ^ _pieces(part)
    table = _bytes_table()
    for byte in view[whole:].tolist():
        state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state


def _pieces(part: npt.NDArray[np.uint8]) -> int:
    """``_raw`` of a multiple of the piece length."""
    words = np.ascontiguousarray(np.frombuffer(part.tobytes(), "<u4").astype(np.uint32).reshape(-1, _PIECE).T)
    tables = _halves(4)
    state = np.zeros(words.shape[1], np.uint32)
    for row in words:
        state = _apply(tables, state ^ row)
    length = _PIECE * 4
    while len(state) > 1:
        if len(state) % 2:  # a piece of zeros in front changes nothing
            state = np.concatenate([np.zeros(1, np.uint32), state])
        state = _apply(_halves(length), state[0::2]) ^ state[1::2]
        length *= 2
    return int(state[0])


def _shift(state: int, length: int) -> int:
    """The CRC's state after ``length`` zero bytes."""
    power = 1
    while length and state:
        if length & 1:
            state = int(_apply(_halves(power), np.array([state], np.uint32))[0])
        length >>= 1
        power *= 2
    return state


def _apply(tables: tuple[Words, Words], state: Words) -> Words:
    low, high = tables
    shifted: Words = low[state & 0xFFFF] ^ high[state >> 16]
    return shifted


@cache
def _bytes_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


@cache
def _columns(length: int) -> tuple[int, ...]:
    """Images of the 32 bits under ``length`` zero bytes; ``length`` is a power of two."""
    if length == 1:
        table = _bytes_table()
        return tuple(table[(1 << bit) & 0xFF] ^ ((1 << bit) >> 8) for bit in range(32))
    half = _columns(length // 2)
    return tuple(_image(half, column) for column in half)


def _image(columns: tuple[int, ...], value: int) -> int:
    out = 0
    for bit, column in enumerate(columns):
        if value >> bit & 1:
            out ^= column
    return out


@cache
def _halves(length: int) -> tuple[Words, Words]:
    """The map "``length`` zero bytes" as tables of its low and its high 16 bits."""
    columns = _columns(length)
    tables = []
    for first in (0, 16):
        table = np.zeros(1 << 16, np.uint32)
        for bit in range(16):
            table[1 << bit : 2 << bit] = table[: 1 << bit] ^ np.uint32(columns[first + bit])
        tables.append(table)
    return tables[0], tables[1]
