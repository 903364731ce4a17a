"""Maps' sides against the networks themselves, on sizes that divide evenly and on odd ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.backbones.plain import can_tell, grids_of
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.registry import SOURCES, builders, network


def heads_of(config: SSDConfig, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """What the network's own box heads give for an input of that size."""
    with torch.device("meta"):
        model = SSD(config).eval()
    maps = model.features(torch.empty(1, 3, *size, device="meta"))
    found = [head(x).shape[2:] for head, x in zip(model.heads.loc, maps, strict=True)]
    return tuple((int(h), int(w)) for h, w in found)


NAMED = [
    f"{source}/{name}"
    for source in SOURCES
    for name in builders(source)
    if (staged := network(f"{source}/{name}").layers) is not None and can_tell(staged)
]


@pytest.mark.parametrize("name", NAMED)
def test_named_networks(name: str) -> None:
    config = network(name)
    for size in (config.pixels.size, (301, 415)):
        assert grids_of(config.staged, size) == heads_of(config, size)
    assert grids_of(config.staged, config.pixels.size) == tuple(m.grid for m in config.priors)


def test_heads_without_padding() -> None:
    config = network("ssd7")
    staged = replace(config.staged, heads=replace(config.staged.heads, padding=0))
    assert grids_of(staged, (300, 480)) == ((35, 58), (16, 28), (7, 13), (2, 5))
    assert grids_of(staged, (301, 415)) == heads_of(replace(config, layers=staged), (301, 415))
    with pytest.raises(UsageError, match="too small"):
        grids_of(staged, (100, 100))
