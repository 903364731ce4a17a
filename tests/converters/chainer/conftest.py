"""Narrow ChainerCV networks with seeded weights, written as .npz."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdconv.converters.chainer.source import write
from ssdconv.converters.plan import Request
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.chainer import chainer


@pytest.fixture(scope="session")
def narrow() -> tuple[SSDConfig, dict[str, Any]]:
    """SSD300 with an eighth of the channels, and its tensors."""
    config = chainer("ssd300_voc", width=8)
    return config, seeded_tensors(config, 3)


@pytest.fixture(scope="session")
def arrays(narrow: tuple[SSDConfig, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The narrow network's tensors under ChainerCV's names, read back by NumPy."""
    path = tmp_path_factory.mktemp("chainer") / "narrow.npz"
    write(*narrow, path, Request())
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture
def npz(tmp_path: Path, arrays: dict[str, Any]) -> Callable[..., Path]:
    """Write the narrow network with some arrays changed (None: left out), by NumPy."""

    def make(name: str = "x.npz", compress: bool = False, **changes: Any) -> Path:
        held = {k: v for k, v in {**arrays, **changes}.items() if v is not None}
        (np.savez_compressed if compress else np.savez)(tmp_path / name, **held)
        return tmp_path / name

    return make
