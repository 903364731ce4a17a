"""Mutated .params files: nothing but SsdconvError escapes the reader, and what it accepts can be loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssdconv.converters.gluon.params import parse
from ssdconv.converters.tensors import TensorTable


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
