"""Keys of slices: numbers and texts sort as what they stand for, and as TensorFlow writes them."""

from __future__ import annotations

from ssdconv.converters.tensorflow.table import signed, slice_key, text, unsigned


def test_numbers_sort() -> None:
    numbers = [-(1 << 40), -70_000, -8193, -8192, -65, -64, -1, 0, 1, 63, 64, 8191, 8192, 1 << 20, (1 << 62) + 1]
    assert sorted(numbers, key=signed) == numbers
    assert sorted([0, 1, 255, 256, 1 << 40], key=unsigned) == [0, 1, 255, 256, 1 << 40]
    assert len({len(signed(n)) for n in numbers}) > 4


def test_known_forms() -> None:
    """tensorflow/core/lib/strings/ordered_code_test.cc: one byte up to 63, then two."""
    assert signed(0) == b"\x80" and signed(-1) == b"\x7f" and signed(63) == b"\xbf"
    assert signed(64) == b"\xc0\x40" and signed(-65) == b"\x3f\xbf"
    assert unsigned(0) == b"\0" and unsigned(300) == b"\x02\x01\x2c"
    assert text(b"a\0b\xffc") == b"a\0\xffb\xff\0c\0\1"


def test_key_of_a_whole_matrix() -> None:
    assert slice_key("w", [(0, -1), (0, -1)]) == b"\0w\0\1\1\2\x80\x7f\x80\x7f"
