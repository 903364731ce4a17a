"""A config that no network has is refused wherever it comes from, quickly and by the name of the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.errors import FormatError
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import reference_shapes
from ssdconv.ssd_ref.networks.registry import network, networks

Data = dict[str, Any]


def put(*path: Any) -> Callable[[Data], None]:
    """Sets a field: keys and indices, the value last."""

    def change(data: Any) -> None:
        *way, last, value = path
        for step in way:
            data = data[step]
        data[last] = value

    return change


LIES = {
    "num_classes 1e9": put("num_classes", 10**9),
    "num_classes 0": put("num_classes", 0),
    "num_classes -1": put("num_classes", -1),
    "step 0": put("priors", 0, "step", [0, 0]),
    "step negative": put("priors", 2, "step", [8, -8]),
    "variances 0": put("priors", 0, "variances", [0, 0, 0, 0]),
    "variances infinite": put("priors", 0, "variances", [0.1, 0.1, 1e999, 0.2]),
    "cells 1e9": put("priors", 0, "cells", [[1e9, 1e9]] * 4),
    "grid 1e6": put("priors", 0, "grid", [10**6, 10**6]),
    "size 1e6": put("pixels", "size", [10**6, 10**6]),
    "size 0": put("pixels", "size", [0, 300]),
    "std 0": put("pixels", "std", [1, 0, 1]),
    "scale 0": put("pixels", "scale", 0.0),
    "unit 0": put("pixels", "unit", 0.0),
    "top_k -2": put("detect", "top_k", -2),
    "background beyond": put("detect", "background", 1000),
    "extras out_channels -1": put("staged", "extras", "stages", 0, 0, "out_channels", -1),
    "extras padding 1e9": put("staged", "extras", "stages", 0, 0, "padding", 10**9),
    "one prior too many": put("priors", 0, "cells", [[30, 30]] * 5),
    "another grid": put("priors", 0, "grid", [37, 38]),
    "another input": put("pixels", "size", [332, 300]),
}


@pytest.fixture(scope="module")
def honest() -> SSDConfig:
    return network("ssd300_voc", "caffe")


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_config_is_refused(lie: str, honest: SSDConfig, tmp_path: Path) -> None:
    data = json.loads(honest.to_json())
    LIES[lie](data)
    about = {"config": data}
    path = tmp_path / "x.safetensors"
    checkpoint.write_described(path, about, {"a": np.zeros(1, np.float32)})
    with pytest.raises(FormatError) as caught:
        held = checkpoint.read(path)
        checkpoint.build(checkpoint.Checkpoint(held.config, seeded(honest)))
    assert caught.value.what


def seeded(config: SSDConfig) -> Any:
    with torch.device("meta"):
        return {name: torch.empty(shape) for name, shape in reference_shapes(config).items()}


def test_honest_networks_pass(honest: SSDConfig) -> None:
    for known in networks():
        config = network(known.name, known.source)
        assert checkpoint.build(checkpoint.Checkpoint(config, seeded(config))).config == config


def test_stored_form_is_that_of_layout_1() -> None:
    config = network("ssd300_voc")
    stored = json.loads(config.to_json())
    assert set(stored) >= {"staged", "graph", "priors"} and stored["graph"] is None and "layers" not in stored
    assert stored["staged"]["backbone"]["taps"] == ["conv4_3", "fc7"] and len(stored["priors"][0]["cells"]) == 4
    stored["staged"]["heads"]["depthwise"] = None  # as older checkpoints have it
    assert SSDConfig.from_json(json.dumps(stored)) == config


def test_stored_heads_that_are_not_built_any_more_are_refused() -> None:
    stored = json.loads(network("ssd300_voc").to_json())
    stored["staged"]["heads"]["depthwise"] = {"eps": 1e-5}
    with pytest.raises(FormatError, match="depthwise"):
        SSDConfig.from_json(json.dumps(stored))


@pytest.mark.parametrize("change", [{"graph": {"input": "x", "layers": [], "loc": "l", "conf": "c"}}, {"staged": None}])
def test_stored_layers_are_of_one_kind(change: dict[str, object]) -> None:
    stored = json.loads(network("ssd300_voc").to_json())
    with pytest.raises(FormatError, match="either staged or graph"):
        SSDConfig.from_json(json.dumps({**stored, **change}))
