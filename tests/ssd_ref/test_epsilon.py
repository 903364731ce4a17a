"""Tiny numbers are added exactly, and are still there after the export to ONNX."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssdconv.ssd_ref.caffe_layers.registry import build
from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.epsilon import plus


@pytest.mark.parametrize("eps", [1e-10, 1e-9, 1e-7, 1e-5, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_sum_has_the_same_bits(eps: float, dtype: torch.dtype) -> None:
    x = 10 ** torch.empty(10_000, dtype=dtype).uniform_(-20, 20, generator=torch.Generator().manual_seed(0))
    x[0] = 0
    assert torch.equal(plus(x, eps), x + eps)
    assert torch.equal(plus(-x, eps), eps - x)


@pytest.mark.parametrize("kind", ["Normalize", "MVN"])
def test_a_dead_pixel_stays_finite_in_onnx(kind: str) -> None:
    runtime, _ = pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    params = {"across_spatial": False} if kind == "Normalize" else {}
    layer = build(LayerSpec("n", kind, ("x",), ("y",), params, blobs=((),) if kind == "Normalize" else ())).eval()
    x = torch.zeros(2, 3, 4, 4)
    program = torch.onnx.export(layer, (x,), dynamo=True, verbose=False, opset_version=18)
    session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.array_equal(y, layer(x).detach().numpy())
