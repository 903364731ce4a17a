"""The .npy header parser against NumPy's writer, and headers that NumPy would not write."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssdconv.converters.chainer.npz import parse_header
from ssdconv.errors import FormatError, UnsafeFileError


def written(array: Any, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


@given(
    st.sampled_from(["<f4", ">f4", "<f8", "<f2", "|i1", "<i8", "|b1", "|u1"]),
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5),
    st.booleans(),
    st.sampled_from([(1, 0), (2, 0), (3, 0)]),
)
def test_headers_of_numpy(dtype: str, shape: tuple[int, ...], fortran: bool, version: tuple[int, int]) -> None:
    array = np.zeros(shape, dtype, order="F" if fortran else "C")
    data = written(array, version)
    header = parse_header(data[:4096], "x")
    assert (header.shape, header.dtype) == (shape, np.dtype(dtype))
    assert header.fortran == (array.flags.f_contiguous and not array.flags.c_contiguous)
    assert header.length + header.nbytes == len(data)


def head(text: str | bytes, version: int = 1) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<L", len(raw)) + raw


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD + " " * 60 + "\n",
        "{'shape': (2L, 3L), 'fortran_order': False, 'descr': '<f4'}",
        GOOD.replace(", }", "}"),
    ],
)
def test_other_spellings_of_the_same_header(text: str) -> None:
    # keys in any order and Python 2's long integers: old NumPy wrote both
    header = parse_header(head(text), "x")
    assert (header.shape, header.dtype, header.fortran) == ((2, 3), np.dtype("<f4"), False)


BAD = {
    "magic": b"\x93NUMPX\1\0\x10\0" + b" " * 16,
    "short": b"\x93NUMPY",
    "version": head(GOOD, 9),
    "cut": head(GOOD)[:-5],
    "huge_length": b"\x93NUMPY\2\0\xff\xff\xff\x7f" + GOOD.encode(),
    "empty": head(""),
    "no_dict": head("[]"),
    "missing": head("{'descr': '<f4', 'shape': (2,)}"),
    "twice": head("{'descr': '<f4', 'descr': '<f4', 'shape': (2,)}"),
    "extra": head(GOOD[:-1] + "'more': 1}"),
    "tail": head(GOOD + "; import os"),
    "code": head(GOOD.replace("(2, 3)", "(__import__('os').system('true'),)")),
    "negative": head(GOOD.replace("(2, 3)", "(-2, 3)")),
    "float_side": head(GOOD.replace("(2, 3)", "(2.0, 3)")),
    "no_comma": head(GOOD.replace("(2, 3)", "(6)")),
    "nested": head(GOOD.replace("(2, 3)", "((2, 3),)")),
    "doubled_comma": head(GOOD.replace("(2, 3)", "(2,, 3)")),
    "many_dims": head(GOOD.replace("(2, 3)", "(" + "1," * 40 + ")")),
    "digits": head(GOOD.replace("(2, 3)", "(" + "9" * 300 + ",)")),
    "empty_and_huge": head(GOOD.replace("(2, 3)", "(0, 9223372036854775807)")),
    "dtype": head(GOOD.replace("<f4", "<c8")),
    "text_dtype": head(GOOD.replace("<f4", "<U5")),
    "void": head(GOOD.replace("<f4", "|V4")),
    "dates": head(GOOD.replace("<f4", "<M8[s]")),
    "odd_float": head(GOOD.replace("<f4", "<f3")),
    "structured": head(GOOD.replace("'<f4'", "[('a', '<f4')]")),
    "not_utf8": head(GOOD.encode().replace(b"descr", b"d\xffscr")),
}


@pytest.mark.parametrize("name", BAD)
def test_headers_that_numpy_would_not_write(name: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_header(BAD[name], "file.npz, array 'a'")
    assert "array 'a'" in str(caught.value)


def test_object_arrays_are_unsafe() -> None:
    with pytest.raises(UnsafeFileError, match="pickle"):
        parse_header(head(GOOD.replace("<f4", "|O")), "x")


def test_sizes_do_not_wrap() -> None:
    # (2**32, 2**32, 2) wraps to 0 elements in 64 bits
    header = parse_header(head(GOOD.replace("(2, 3)", "(4294967296, 4294967296, 2)")), "x")
    assert header.nbytes == 2**65 * 4
