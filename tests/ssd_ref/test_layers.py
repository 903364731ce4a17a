"""Reference layers against numpy in float64 and against torch where it has the same layer.

Tiny numbers are added exactly, and are still there after the export to ONNX.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import ConvSpec, Heads, L2NormSpec, LayerSpec, NormSpec
from ssdconv.ssd_ref.graph.network import GraphLayer
from ssdconv.ssd_ref.layers import (
    BatchNorm,
    ConvUnit,
    L2Norm,
    MultiBoxHeads,
    Standardize,
    Tapped,
    batch_norm,
    plus,
    same_padding,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


@pytest.mark.parametrize(
    ("form", "eps"), [("inside", 1e-2), ("outside", 1e-2), ("max_inside", 30.0), ("max_norm", 3.0), ("inside", 1e-10)]
)
def test_l2norm_puts_eps_where_the_source_does(form: str, eps: float) -> None:
    layer = L2Norm(5, L2NormSpec(eps, form)).double()
    nn.init.uniform_(layer.weight, 1, 30)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    v = x.numpy()
    squares = (v * v).sum(1, keepdims=True)
    divisor = {
        "inside": np.sqrt(squares + eps),
        "outside": np.sqrt(squares) + eps,
        "max_inside": np.sqrt(np.maximum(squares, eps)),
        "max_norm": np.maximum(np.sqrt(squares), eps),
    }[form]
    wanted = v / divisor * layer.weight.detach().numpy().reshape(1, 5, 1, 1)
    np.testing.assert_allclose(layer(x).detach().numpy(), wanted, rtol=1e-12)


def test_fixed_gamma_counts_as_one_but_is_kept() -> None:
    layer = BatchNorm(4, 1e-3, fix_gamma=True).eval()
    layer.weight.data.fill_(7.0)
    nn.init.normal_(layer.bias)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 4, 3, 3)
    wanted = F.batch_norm(x, layer.running_mean, layer.running_var, torch.ones(4), layer.bias, eps=1e-3)
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=0)
    assert layer.state_dict()["weight"].tolist() == [7.0] * 4
    assert "num_batches_tracked" not in layer.state_dict()


def test_fixed_gamma_learns_beta_and_statistics_only() -> None:
    layer = BatchNorm(4, fix_gamma=True).train()
    layer(torch.randn(2, 4, 3, 3) + 5).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    assert (layer.running_mean > 0.3).all()


@pytest.mark.parametrize("factor", [0.0, 1.0, 999.98236])
def test_caffe_statistics_are_divided_by_their_factor(factor: float) -> None:
    layer = Standardize(3, eps=1e-5).eval()
    layer.mean.normal_().mul_(factor or 1.0)
    layer.variance.uniform_(0.5, 2).mul_(factor or 1.0)
    layer.factor.fill_(factor)
    x = torch.randn(2, 3, 4, 4)
    inverse = 0.0 if factor == 0 else 1.0 / factor
    mean, variance = (t.double().view(1, 3, 1, 1) * inverse for t in (layer.mean, layer.variance))
    wanted = (x.double() - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(layer(x).double(), wanted, rtol=1e-5, atol=1e-5)


def test_caffe_batch_norm_trains_from_accumulated_statistics() -> None:
    layer = batch_norm(3, NormSpec(accumulated=True)).train()
    standardize = layer[0]
    standardize.mean.fill_(20.0)
    standardize.factor.fill_(10.0)
    y = layer(torch.zeros(4, 3, 2, 2))
    assert y.abs().max() < 1e-3
    assert standardize.factor.item() == 1.0
    torch.testing.assert_close(standardize.mean, torch.full((3,), 1.8))  # 0.9 * 20/10 + 0.1 * 0


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "wanted"),
    # typed out from TensorFlow's definition; 10 -> 5 with (0, 1) is the asymmetric case of specs.md 1.8
    [
        (10, 3, 2, (0, 1)),
        (19, 3, 2, (1, 1)),
        (75, 2, 2, (0, 1)),
        (19, 3, 1, (1, 1)),
        (150, 3, 2, (0, 1)),
        (5, 1, 1, (0, 0)),
    ],
)
def test_same_padding(size: int, kernel: int, stride: int, wanted: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == wanted


def test_conv_unit_children_and_shapes() -> None:
    spec = ConvSpec("c", 8, 3, 2, "same", norm=NormSpec(1e-3), bias=False)
    unit = ConvUnit(4, spec)
    assert [name for name, _ in unit.named_children()] == ["pad", "conv", "norm", "act"]
    assert unit(torch.randn(2, 4, 10, 10)).shape == (2, 8, 5, 5)
    assert unit.norm.eps == 1e-3
    assert unit.conv.bias is None


def test_tapped_returns_the_taps_in_their_order() -> None:
    units = [(n, nn.Identity() if n == "a" else nn.ReLU()) for n in "abc"]
    x = torch.tensor([-1.0, 2.0])
    first, second = Tapped(units, ("c", "a"), (1, 1))(x)
    assert first.tolist() == [0.0, 2.0]
    assert second.tolist() == [-1.0, 2.0]
    with pytest.raises(FormatError, match="no layer 'd'"):
        Tapped(units, ("d",), (1,))


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
    layer = GraphLayer(LayerSpec("n", kind, ("x",), ("y",), params, blobs=((),) if kind == "Normalize" else ())).eval()
    x = torch.zeros(2, 3, 4, 4)
    program = torch.onnx.export(layer, (x,), dynamo=True, verbose=False, opset_version=18)
    session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.array_equal(y, layer(x).detach().numpy())


def test_heads_go_through_cells_row_by_row_and_anchors_within() -> None:
    """On a map of 2 rows and 3 columns each output is where its cell and anchor are in the source's order."""
    heads = MultiBoxHeads([2], [2], 3, Heads(kernel=1)).double()
    x = torch.arange(12.0, dtype=torch.float64).view(1, 2, 2, 3)
    heads.requires_grad_(False)
    loc, conf = heads([x])
    for found, layer, values in ((loc, heads.loc[0], 4), (conf, heads.conf[0], 3)):
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None
        kernel, bias = layer.weight[:, :, 0, 0], layer.bias
        wanted = [
            (
                kernel[a * values : (a + 1) * values] @ x[0, :, row, column] + bias[a * values : (a + 1) * values]
            ).tolist()
            for row in range(2)
            for column in range(3)
            for a in range(2)
        ]
        assert torch.allclose(found[0], torch.tensor(wanted, dtype=torch.float64))
