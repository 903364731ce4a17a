"""Looking networks up by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.registry import builders, network, networks


def test_every_network_builds_and_round_trips_through_json() -> None:
    rows = networks()
    assert len(rows) >= 6
    for row in rows:
        config = network(f"{row.source}/{row.name}")
        assert config.name == row.name
        assert config.source == row.source
        assert SSDConfig.from_json(config.to_json()) == config


def test_a_near_miss_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean 'ssd300_voc'"):
        network("ssd300_vocc", "caffe")


def test_unknown_source() -> None:
    with pytest.raises(UsageError, match="no source 'cafe'"):
        builders("cafe")


def test_no_torch_needed() -> None:
    code = (
        "import sys; from ssdconv.ssd_ref.networks.registry import networks; networks(); "
        "assert 'torch' not in sys.modules, 'torch'; assert 'cv2' not in sys.modules, 'cv2'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
