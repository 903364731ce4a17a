"""Mutated .params files: nothing but SsdconvError escapes the reader, and what it accepts can be loaded."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ssdconv.converters.gluon.params import parse
from ssdconv.converters.tensors import TensorTable
from ssdconv.errors import SsdconvError


def table_of(data: bytes) -> TensorTable:
    table = parse(memoryview(data), Path("x.params"))
    assert all(tensor.nbytes <= len(data) for tensor in table.values())
    return table


@pytest.mark.parametrize(("mutants", "seed"), [(1_000, 1), pytest.param(100_000, 2, marks=pytest.mark.slow)])
def test_mutants(fuzz: Callable[..., int], packing: SimpleNamespace, mutants: int, seed: int) -> None:
    accepted = fuzz(table_of, [(packing.small(), ())], mutants, seed)
    assert 0.01 * mutants < accepted < 0.9 * mutants, (
        "mutants should mostly be refused, and reach the data now and then"
    )


def test_an_empty_array_with_a_huge_side_is_refused(packing: SimpleNamespace) -> None:
    data = packing.list([packing.array(np.zeros((0, 3, 1, 1), "f4"))], ["arg:conv0_weight"])
    assert data.count(struct.pack("<q", 3)) == 1
    with pytest.raises(SsdconvError, match="larger than any memory"):
        parse(memoryview(data.replace(struct.pack("<q", 3), struct.pack("<q", 1 << 61))), Path("x.params"))
