"""Oracles that live in interpreters of their own: installed once into the user's cache, used for real."""

from __future__ import annotations

import pytest

from ssdconv.errors import MissingError
from ssdconv.parity.oracles.environments import install


@pytest.fixture(scope="session")
def mxnet() -> str:
    """Name of the environment with MXNet and GluonCV; skips with the reason where it cannot be made."""
    try:
        return install("gluon", print).name
    except MissingError as error:
        pytest.skip(f"no MXNet: {error}")
