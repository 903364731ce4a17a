"""CRC-32C against published values and a bit-by-bit loop."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ssdconv.converters.tensorflow.table import crc32c, masked


def test_published_values() -> None:
    """RFC 3720, B.4: 32 bytes of zeros, of ones, rising; and the usual check value."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0


@pytest.mark.parametrize("length", [1, 3, 255, 256, 257, 511, 512, 513, 768, 1023, 4096 + 77])
def test_against_a_plain_loop(length: int, packing: SimpleNamespace) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == packing.crc(data)
    assert crc32c(data[100:], crc32c(data[:100])) == packing.crc(data)


def test_pieces_join_over_the_step_of_sixteen_megabytes() -> None:
    data = np.random.default_rng(0).bytes((16 << 20) + 12_345)
    parts = 0
    for start in range(0, len(data), 999_991):
        parts = crc32c(data[start : start + 999_991], parts)
    assert crc32c(data) == parts


def test_mask(packing: SimpleNamespace) -> None:
    assert masked(0xE3069283).to_bytes(4, "little") == packing.masked(0xE3069283)
