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


@pytest.fixture(scope="session")
def chainer_env() -> str:
    """Name of the environment with Chainer and ChainerCV; skips with the reason where it cannot be made."""
    try:
        return install("chainer", print).name
    except MissingError as error:
        pytest.skip(f"no Chainer: {error}")


@pytest.fixture(scope="session")
def torchvision_env() -> str:
    """Name of the environment with torchvision; skips with the reason where it cannot be made."""
    try:
        return install("torchvision", print).name
    except MissingError as error:
        pytest.skip(f"no torchvision: {error}")


@pytest.fixture(scope="session")
def tensorflow() -> str:
    """Name of the environment with TensorFlow 2.15 and Keras 2.15; skips with the reason where it cannot be made."""
    try:
        return install("tensorflow", print).name
    except MissingError as error:
        pytest.skip(f"no TensorFlow: {error}")
