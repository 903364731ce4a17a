"""Mutated .pth files of all formats: nothing but SsdconvError escapes, in this process and in a child with a memory limit."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ssdconv.converters.pytorch.reader import parse
from ssdconv.converters.tensors import TensorTable

COUNTS = [pytest.param(1_000, 1), pytest.param(100_000, 2, marks=pytest.mark.slow)]
Seeds = list[tuple[bytes, tuple[tuple[int, int], ...]]]


@pytest.fixture(scope="module")
def seeds(tar: Callable[..., bytes]) -> Seeds:
    """One file per format, with the ranges of its pickles and directories."""
    state = OrderedDict(a=torch.randn(2, 3).t(), b=torch.zeros(3).half())
    found: Seeds = []
    for new in (True, False):
        stream = io.BytesIO()
        torch.save({"state_dict": state, "epoch": 3}, stream, _use_new_zipfile_serialization=new)
        data = stream.getvalue()
        end = data.index(b".PK") if new else data.index(b"storage") + 400
        directory = data.index(b"PK\1\2") if new else 0
        found.append((data, ((0, end), (directory, len(data) if new else end))))
    data = tar(OrderedDict(a=torch.randn(2, 3)))
    found.append((data, ((0, 600), (1024, 1400), (1536, 2048), (2560, len(data)))))
    return found


def table_of(data: bytes) -> TensorTable:
    return parse(data, Path("x.pth"))


@pytest.mark.parametrize(("mutants", "seed"), COUNTS)
def test_all_formats(fuzz: Callable[..., int], seeds: Seeds, mutants: int, seed: int) -> None:
    assert 0.005 * mutants < fuzz(table_of, seeds, mutants, seed) < 0.9 * mutants


@pytest.mark.parametrize(("mutants", "seed"), COUNTS)
def test_pickles_without_a_checksum_around_them(
    fuzz: Callable[..., int], seeds: Seeds, mutants: int, seed: int
) -> None:
    # In the zip format most mutants end at the checksum; the middle format has none, so these reach deeper.
    assert 0.005 * mutants < fuzz(table_of, seeds[1:2], mutants, seed) < 0.9 * mutants


@pytest.mark.parametrize(("mutants", "seed"), [pytest.param(500, 3), pytest.param(5_000, 4, marks=pytest.mark.slow)])
def test_in_a_child_with_a_memory_limit(
    fuzz_child: Callable[..., tuple[int, int]], seeds: Seeds, mutants: int, seed: int
) -> None:
    module = "ssdconv.converters.pytorch.reader"
    accepted, refused = fuzz_child(module, "read_pth", [data for data, _ in seeds], mutants, seed)
    assert accepted + refused == mutants and refused > mutants / 4
