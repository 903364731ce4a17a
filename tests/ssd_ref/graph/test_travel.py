"""A layer graph travels: pickle, torch.save of the whole model, deepcopy, torch.export; and older checkpoints still load."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssdconv.ssd_ref.checkpoint import Checkpoint, build, read, save
from ssdconv.ssd_ref.config import Graph, LayerSpec, Postprocess, Preprocess, SourceText, SSDConfig
from ssdconv.ssd_ref.model import SSD


def config(**graph: Any) -> SSDConfig:
    """Names that torch's own attributes have, slashes, one kernel that two layers share, functions without a name."""
    same = ("w", "")
    layers = (
        LayerSpec(
            "a/conv.1", "Conv2D", ("in",), ("a",), {"kernel_size": [1, 1], "filters": 3}, ((3, 3, 1, 1), (3,)), same
        ),
        LayerSpec("half", "Activation", ("a",), ("b",), {"activation": "relu6"}),
        LayerSpec(
            "a/conv.2", "Conv2D", ("b",), ("c",), {"kernel_size": [1, 1], "filters": 3}, ((3, 3, 1, 1), (3,)), same
        ),
        LayerSpec("norm", "BatchNormalization", ("c",), ("d",), {}, ((3,),) * 4),
        LayerSpec("loc", "Conv2D", ("d",), ("loc",), {"kernel_size": [1, 1], "filters": 4}, ((4, 3, 1, 1), (4,))),
        LayerSpec("conf", "Conv2D", ("d",), ("conf",), {"kernel_size": [1, 1], "filters": 2}, ((2, 3, 1, 1), (2,))),
    )
    return SSDConfig(
        "net", "keras", 2, Preprocess((2, 2)), (), Postprocess(), layers=Graph("in", layers, "loc", "conf", **graph)
    )


@pytest.fixture
def model() -> SSD:
    torch.manual_seed(0)
    return SSD(config()).eval()


def saved(model: SSD) -> Any:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


def exported(model: SSD) -> Any:
    return torch.export.export(model, (torch.rand(1, 3, 2, 2),)).module()


ROADS = {
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "torch.save": saved,
    "deepcopy": copy.deepcopy,
    "torch.export": exported,
}


@pytest.mark.parametrize("road", ROADS)
def test_a_graph_network_computes_the_same_after(road: str, model: SSD) -> None:
    again: Callable[..., Any] = ROADS[road](model)
    pixels = torch.rand(1, 3, 2, 2)
    for mine, theirs in zip(model(pixels), again(pixels), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("road", ["pickle", "torch.save", "deepcopy"])
def test_shared_weights_stay_shared(road: str, model: SSD) -> None:
    again = ROADS[road](model).layers
    assert again.layer("a/conv.1").weight is again.layer("a/conv.2").weight
    assert again.layer("a/conv.1").weight is not model.layers.layer("a/conv.1").weight
    state = {name: value + 1 for name, value in model.layers.state_dict().items()}
    again.load_state_dict(state)
    assert torch.equal(again.layer("a/conv.2").weight, state["a/conv%2E1.weight"])


def test_a_checkpoint_under_the_old_names_loads(tmp_path: Path, model: SSD) -> None:
    old = {f"graph.{n.removeprefix('layers.')}": t for n, t in model.state_dict().items()}
    stored = {name: name.upper() for name in old}
    save(tmp_path / "old.pth", config(origin=SourceText("", stored)), old)
    found = read(tmp_path / "old.pth")
    assert set(found.state_dict) == set(model.state_dict())
    layers = found.config.layers
    assert isinstance(layers, Graph) and layers.origin is not None
    assert set(layers.origin.stored) == set(model.state_dict())
    again = build(Checkpoint(found.config, found.state_dict, {}), heads=False)
    pixels = torch.rand(1, 3, 2, 2)
    assert torch.equal(again(pixels)[0], model(pixels)[0])
