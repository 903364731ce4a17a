"""A narrow network of each source as a checkpoint and as the source's own files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ssdconv.converters.convert import convert
from ssdconv.converters.plan import Request
from ssdconv.converters.registry import source
from ssdconv.ssd_ref.checkpoint import save
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.chainer import chainer
from ssdconv.ssd_ref.networks.keras import ssd7
from ssdconv.ssd_ref.networks.pytorch import pytorch
from ssdconv.ssd_ref.networks.tensorflow import hikapok

FORMATS: dict[str, tuple[str, str, Callable[[], SSDConfig]]] = {
    "h5": ("keras", "x.h5", lambda: ssd7("ssd7", 6, width=8)),
    "weights.h5": ("keras", "x.weights.h5", lambda: ssd7("ssd7", 6, width=8)),
    "npz": ("chainer", "x.npz", lambda: chainer("ssd300_voc", 5, width=2)),
    "pth": ("pytorch", "x.pth", lambda: pytorch("ssd_pytorch_ssd300_voc", 5, width=2)),
    "ckpt": ("tensorflow", "x.ckpt", lambda: hikapok("hikapok_ssd300_vgg16_voc", 5, width=2)),
}
"""Format -> source, file to write, its network."""


@dataclass(frozen=True)
class Case:
    """One format: a checkpoint, the files that were written from it, and how to convert them."""

    source: str
    config: SSDConfig
    checkpoint: Path
    file: Path
    files: tuple[Path, ...]
    wishes: dict[str, Any]

    def convert(self, path: Path, out: Path) -> Any:
        return convert(path, out, source=self.source, digests=False, **self.wishes)


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """All formats, written once; do not change the files."""
    found = {}
    for name, (system, file, build) in FORMATS.items():
        folder, config = tmp_path_factory.mktemp("case"), build()
        tensors = seeded_tensors(config)
        save(folder / "checkpoint.pth", config, tensors)
        wishes = {"channel_order": config.pixels.order, "network": config.name} if system == "pytorch" else {}
        written = source(system).module.write(config, tensors, folder / file, Request())
        found[name] = Case(system, config, folder / "checkpoint.pth", folder / file, tuple(sorted(written)), wishes)
    return found


@pytest.fixture(params=FORMATS)
def case(request: pytest.FixtureRequest, cases: dict[str, Case]) -> Iterator[Case]:
    """One format after the other."""
    yield cases[request.param]
