"""Mutated .npz files: nothing but SsdconvError escapes, in this process and in a child with a memory limit."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssdconv.converters.chainer.npz import parse, parse_header
from ssdconv.converters.opened import Archive
from ssdconv.converters.tensors import LazyTensor, TensorTable
from ssdconv.errors import SsdconvError

COUNTS = [pytest.param(1_000, 1), pytest.param(100_000, 2, marks=pytest.mark.slow)]


def seeds() -> list[tuple[bytes, tuple[tuple[int, int], ...]]]:
    """A stored and a deflated file, with the ranges of their headers and directories."""
    rng = np.random.default_rng(0)
    arrays = {
        "extractor/conv1_1/W": rng.standard_normal((2, 3, 1, 1)).astype("f4"),
        "b": np.zeros(3, ">f8"),
        "s": np.int64(7),
    }
    found = []
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, **arrays)
        data = stream.getvalue()
        found.append((data, ((data.index(b"PK\1\2"), len(data)), (0, 230))))
    return found


def table_of(data: bytes) -> TensorTable:
    return parse(Archive(data, "x.npz"), Path("x.npz"))


def header_of(data: bytes) -> TensorTable:
    header = parse_header(data[:4096], "x")
    assert all(type(side) is int and side >= 0 for side in header.shape)
    return TensorTable(Path("x"), "npy", {"a": LazyTensor("a", (), np.dtype("f4"), lambda: np.zeros((), "f4"))})


@pytest.mark.parametrize(("mutants", "seed"), COUNTS)
def test_archives(fuzz: Callable[..., int], mutants: int, seed: int) -> None:
    assert 0.01 * mutants < fuzz(table_of, seeds(), mutants, seed) < 0.9 * mutants


@pytest.mark.parametrize(("mutants", "seed"), COUNTS)
def test_headers(fuzz: Callable[..., int], mutants: int, seed: int) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros((2, 3), "f4"))
    data = stream.getvalue()[:128]
    assert 0.001 * mutants < fuzz(header_of, [(data, ((0, 80),))], mutants, seed) < 0.9 * mutants


@pytest.mark.parametrize(("mutants", "seed"), [pytest.param(500, 3), pytest.param(5_000, 4, marks=pytest.mark.slow)])
def test_in_a_child_with_a_memory_limit(fuzz_child: Callable[..., tuple[int, int]], mutants: int, seed: int) -> None:
    module = "ssdconv.converters.chainer.npz"
    accepted, refused = fuzz_child(module, "read_npz", [data for data, _ in seeds()], mutants, seed)
    assert accepted + refused == mutants and refused > mutants / 2


def test_the_fuzzer_would_notice(fuzz: Callable[..., int]) -> None:
    def leaky(data: bytes) -> TensorTable:
        if data[0] != 0x50:
            raise KeyError
        raise SsdconvError("fine")

    with pytest.raises(AssertionError, match="mutant"):
        fuzz(leaky, seeds(), 2_000, 1)
