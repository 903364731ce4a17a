"""Snappy blocks, among them one that Google's own library packed."""

from __future__ import annotations

import base64
import contextlib
import random

import pytest

from ssdconv.converters.tensorflow.table import unpack
from ssdconv.errors import FormatError, SsdconvError

PACKED = base64.b64decode(
    "xhQsc3NkMzAwL2NvbnYxCQZEXzEva2VybmVsL01vbWVudHVt/iQA/iQA/iQA/iQA/iQA/iQA/iQA/iQA/iQA/iQA/iQA/iQA/iQA/iQA/iQA/i"
    "QA/iQA/iQA/iQA/iQA/iQA7iQAAAD+AQD+AQD+AQD+AQD+AQD+AQD+AQD+AQD+AQD+AQDqAQDwYYK3Du5/GlA5vvB+wjR/Bm7Qj13HUSRH40BD"
    "AAJrblRVlKBlaF1kxJgLuNRUSochqZoBrSGetZz2oV728Vodgwu3zgnWu8AE5xdcZDx97LC1gOw3vJcS3S5qrmFiYWJhYmFi/gYA/gYA/gYA/g"
    "YA/gYA/gYAEQY="
)
"""The bytes of ``plain`` as the Rust port of Google's library (cramjam 2) packs them."""


def plain() -> bytes:
    rng = random.Random()
    rng.seed(5)
    noise = bytes(rng.randrange(256) for _ in range(90))
    return b"ssd300/conv1/conv1_1/kernel/Momentum" * 40 + bytes(700) + noise + b"ab" * 200


def test_a_foreign_block() -> None:
    assert unpack(PACKED, "x") == plain()


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        (b"\x00", b""),
        (b"\x03\x08abc", b"abc"),  # literal
        (b"\x0b\x00a\x19\x01", b"a" * 11),  # copy of 10 from 1 back
        (b"\x06\x08xyz\x0b\x03\x00\x00\x00", b"xyzxyz"),  # copy with a 4-byte offset
    ],
)
def test_elements(packed: bytes, expected: bytes) -> None:
    assert unpack(packed, "x") == expected


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xff\xff\xff\xff\xff",
        b"\x03\x08ab",
        b"\x04\x08abc",
        b"\x05\x00a\x01\x02",
        b"\x02\x0cabcd",
        b"\x05\x00a\x01\x00",
    ],
)
def test_damage(packed: bytes) -> None:
    with pytest.raises(FormatError):
        unpack(packed, "x")


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(FormatError, match="declares more"):
        unpack(b"\xff\xff\xff\xff\x0f" + b"\x00a" + b"\xfe\x01\x00" * 50, "x")


def test_mutants() -> None:
    rng = random.Random(2)
    for _ in range(3_000):
        mutant = bytearray(PACKED)
        for _ in range(rng.randint(1, 3)):
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
        with contextlib.suppress(SsdconvError):
            assert len(unpack(mutant, "x")) < 25 * len(mutant)
