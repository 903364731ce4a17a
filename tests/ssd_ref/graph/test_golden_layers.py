"""Every single layer that the original Caffe ran, against ours: shapes, learned blobs and values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ssdconv.converters.caffe.net import spec_of
from ssdconv.converters.caffe.prototxt import parse_prototxt
from ssdconv.ssd_ref.graph.network import GraphLayer
from ssdconv.ssd_ref.graph.operation import blob_names, infer

NAMES = (
    "conv conv_dilated conv_group conv_rect conv_4x4 deconv pool_MAX_ceil pool_MAX_pad pool_MAX_3s1p1 pool_MAX_clip "
    "pool_MAX_global pool_AVE_ceil pool_AVE_pad pool_AVE_3s1p1 pool_AVE_clip pool_AVE_global bn bn_eps bn_factor0 "
    "scale_bias scale bias norm_ssd norm_shared norm_spatial norm_tiny relu_leaky prelu prelu_shared elu sigmoid tanh "
    "power lrn lrn_within ip ip_t eltwise_sum eltwise_prod eltwise_max concat softmax permute flatten reshape "
    "reshape_axis crop exp absval log"
)
TAGS = NAMES.split()


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "golden/layers.npz") as file:
        return dict(file)


@pytest.mark.shared
def test_every_golden_layer_is_listed(shared: Path) -> None:
    assert sorted(json.loads((shared / "golden/layers.json").read_text())) == sorted(TAGS)
    assert len(TAGS) == 50


@pytest.mark.shared
@pytest.mark.parametrize("tag", TAGS)
def test_layer_equals_the_original_caffe(tag: str, golden: dict[str, np.ndarray], shared: Path) -> None:
    text = json.loads((shared / "golden/layers.json").read_text())[tag]["layer"]
    xs = [golden[f"{tag}/x{i}"] for i in range(4) if f"{tag}/x{i}" in golden]
    ws = [golden[f"{tag}/w{i}"] for i in range(4) if f"{tag}/w{i}" in golden]
    expected = golden[f"{tag}/y"]
    bottoms = "".join(f'bottom: "x{i}" ' for i in range(len(xs)))
    net = parse_prototxt(f'layer {{ name: "layer" {bottoms} top: "y" {text} }}'.encode(), tag)
    found = infer([spec_of(net.layers[0])], {f"x{i}": x.shape for i, x in enumerate(xs)})
    spec = found.layers[0]
    assert spec.blobs == tuple(w.shape for w in ws)
    assert found.blobs["y"] == expected.shape

    layer = GraphLayer(spec)
    for name, value in zip(blob_names(spec), ws, strict=True):
        getattr(layer, name).data.copy_(torch.from_numpy(value))
    inputs = [torch.from_numpy(x) for x in xs]
    kept = [x.clone() for x in inputs]
    with torch.inference_mode():
        ours = layer(*inputs).numpy()
        exact = layer.double()(*(x.double() for x in inputs)).numpy()
    assert ours.dtype == np.float32
    assert exact.dtype == np.float64
    for x, before in zip(inputs, kept, strict=True):
        assert torch.equal(x, before), "an input was written in place"
    scale = np.abs(exact).max()
    floor = np.abs(ours - exact).max() / scale
    error = np.abs(expected - exact).max() / scale
    assert floor < 5e-7
    assert error <= max(2 * floor, 2e-7), f"{tag}: relative error {error:.2e}, rounding floor {floor:.2e}"
