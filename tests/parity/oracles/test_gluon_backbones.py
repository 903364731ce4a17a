"""Backbone files against GluonCV's classification networks on MXNet: every layer of the feature extractor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ssdconv.converters.gluon.backbone import convert_backbone
from ssdconv.converters.gluon.mapping import backbone_parts, without_counters
from ssdconv.parity.oracles.worker import Worker
from ssdconv.ssd_ref.backbones import build_backbone
from ssdconv.ssd_ref.checkpoint import BackboneFile, read_backbone
from ssdconv.ssd_ref.networks.gluon import BACKBONES

MAKER = Worker("gluon", str(Path(__file__).parent / "workers" / "gluon_maker"))

pytestmark = pytest.mark.oracle
ONE_OF_A_KIND = ("resnet50_v1s", "mobilenet1.0", "resnet18_v2", "vgg16_atrous")


def check(name: str, folder: Path) -> None:
    size = 272 if "vgg" in name else 64
    job = {"network": name, "seed": 5, "size": size, "folder": str(folder), "stem": "net"}
    pixels = np.random.default_rng(0).uniform(-2.1, 2.6, (1, 3, size, size)).astype("f4")
    params = folder / "net.structural.params"
    jobs = [
        {"do": "build", **job, "dialects": ["structural", "legacy"]},
        {"do": "activations", "network": name, "params": str(params)},
    ]
    answer = MAKER.ask(jobs, {"1/input": pixels})
    theirs = {
        without_counters(key.removeprefix("1/nodes/")): value
        for key, value in answer.arrays.items()
        if key.startswith("1/nodes/")
    }
    report = convert_backbone(params, name, folder / "out.pth")
    assert report.drops and len(report.rows) > 25
    held = read_backbone(folder / "out.pth")
    legacy = convert_backbone(folder / "net.legacy.params", name, folder / "legacy.pth")
    assert [row.sha256 for row in legacy.rows] == [row.sha256 for row in report.rows]
    exact, rounded = (outputs(held, pixels, dtype) for dtype in (torch.float64, torch.float32))
    assert len(exact) > 25 and exact.keys() <= theirs.keys()
    for node, values in exact.items():
        assert theirs[node].shape == values.shape, node
        floor = max(np.abs(rounded[node] - values).max(), 1e-7 * np.abs(values).max())
        assert np.abs(theirs[node] - values).max() <= 8 * floor, node


def outputs(held: BackboneFile, pixels: np.ndarray, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Output of every layer of the reference backbone, by its node in MXNet's graph."""
    module = build_backbone(held.backbone)
    module.load_state_dict(held.state_dict)
    module = module.to(dtype).eval()
    found: dict[str, np.ndarray] = {}
    modules = dict(module.named_modules())
    for part in backbone_parts(held.backbone):
        child = modules.get(part.module.removeprefix("backbone."))
        if part.node and child is not None:
            node = part.node
            child.register_forward_hook(lambda _, __, out, node=node: found.update({node: out.double().numpy()}))
    with torch.inference_mode():
        module(torch.from_numpy(pixels).to(dtype))
    return found


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_backbone(mxnet: str, tmp_path: Path, name: str) -> None:
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(BACKBONES) - set(ONE_OF_A_KIND)))
def test_other_backbone(mxnet: str, tmp_path: Path, name: str) -> None:
    check(name, tmp_path)
