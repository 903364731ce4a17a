"""Helpers of the accuracy tests: the loops and random sets that the benchmarks use too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

BENCH = str(Path(__file__).parents[2] / "bench")


@pytest.fixture(scope="session")
def bench() -> Callable[[str], ModuleType]:
    """Imports a module of ``bench/`` by name."""

    def load(name: str) -> ModuleType:
        if BENCH not in sys.path:
            sys.path.append(BENCH)
        return import_module(name)

    return load
