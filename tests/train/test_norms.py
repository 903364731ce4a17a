"""Running statistics by each source's rule, typed out; frozen ones stay."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from ssdconv.ssd_ref.caffe_layers import all_layers  # noqa: F401
from ssdconv.ssd_ref.caffe_layers.normalization import Normalize
from ssdconv.ssd_ref.config import L2NormSpec, LayerSpec
from ssdconv.ssd_ref.layers import BatchNorm, L2Norm, Standardize
from ssdconv.train.recipe import NormRule
from ssdconv.train.recipes import recipe_of
from ssdconv.train.start import training_mode


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 2, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 + 1


@pytest.mark.parametrize("fix_gamma", [False, True])
@pytest.mark.parametrize(
    ("recipe", "share", "correction"), [("gluon", 0.1, 0), ("keras-resnet50", 0.01, 1), ("ssd.pytorch", 0.1, 1)]
)
def test_two_steps(recipe: str, share: float, correction: int, fix_gamma: bool) -> None:
    model = nn.Sequential(BatchNorm(3, 1e-3, fix_gamma)).double()
    training_mode(model, recipe_of(recipe))
    mean, variance = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for step in range(2):
        x = pixels() * (step + 1)
        mean = mean * (1 - share) + x.mean((0, 2, 3)) * share
        variance = variance * (1 - share) + x.var((0, 2, 3), correction=correction) * share
        spread = (x.var((0, 2, 3), correction=0) + 1e-3).sqrt()
        wanted = (x - x.mean((0, 2, 3)).view(1, 3, 1, 1)) / spread.view(1, 3, 1, 1)
        torch.testing.assert_close(model(x), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model[0].running_mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model[0].running_var, variance, rtol=1e-12, atol=1e-12)


def test_caffes_sums() -> None:
    model = nn.Sequential(Standardize(3)).double()
    model[0].mean.fill_(500.0)
    model[0].variance.fill_(2000.0)
    model[0].factor.fill_(1000.0)
    training_mode(model, recipe_of("caffe-mobilenet"))(pixels())
    x = pixels()
    torch.testing.assert_close(model[0].mean, 0.999 * 0.5 + 0.001 * x.mean((0, 2, 3)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model[0].variance, 0.999 * 2.0 + 0.001 * x.var((0, 2, 3)), rtol=1e-9, atol=1e-9)


def test_frozen_statistics_stay() -> None:
    model = nn.Sequential(BatchNorm(3), nn.Dropout())
    recipe = replace(recipe_of("gluon"), norm=NormRule(frozen=True))
    x = pixels().float()
    torch.testing.assert_close(training_mode(model, recipe)[0](x), x, rtol=1e-4, atol=1e-4)
    assert not model[0].running_mean.any()
    assert model[1].training


def test_evaluation_is_unchanged_by_the_rule() -> None:
    model = training_mode(nn.Sequential(BatchNorm(3)), recipe_of("gluon")).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(pixels().float())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("form", ["inside", "outside", "max_inside", "max_norm"])
def test_l2_normalisation_of_a_dead_column_has_a_gradient(form: str) -> None:
    layer = L2Norm(4, L2NormSpec(1e-10, form))  # type: ignore[arg-type]
    x = torch.tensor([[[[0.0, 1.0]], [[0.0, 2.0]], [[0.0, 0.0]], [[0.0, 3.0]]]], requires_grad=True)
    layer(x).square().sum().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())
    assert layer.weight.grad is not None
    assert bool(torch.isfinite(layer.weight.grad).all())


@pytest.mark.parametrize("graph", [False, True])
def test_caffes_gradient_of_the_l2_norm(graph: bool) -> None:
    """``scale * (g - x <x, g> / n^2) / n``: the scales are not in the product, as Caffe's Normalize layer has it."""
    spec = LayerSpec("norm", "Normalize", ("x",), ("y",), {"across_spatial": False}, ((3,),))
    layer = (Normalize(spec) if graph else L2Norm(3, L2NormSpec())).double()
    scale = torch.tensor([2.0, 5.0, 11.0], dtype=torch.float64)
    layer.weight = nn.Parameter(scale)
    model = training_mode(nn.Sequential(layer), recipe_of("caffe"))
    x, g = pixels().requires_grad_(), torch.randn(2, 3, 2, 1, generator=torch.Generator().manual_seed(2)).double()
    y = model(x)
    y.backward(g)
    held, norm = x.detach(), x.detach().norm(dim=1, keepdim=True)
    wanted = scale.view(1, 3, 1, 1) * (g - held * (held * g).sum(1, keepdim=True) / norm**2) / norm
    torch.testing.assert_close(y, held / norm * scale.view(1, 3, 1, 1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(x.grad, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer.weight.grad, (g * held / norm).sum((0, 2, 3)), rtol=1e-9, atol=1e-9)
    x.grad = None
    training_mode(model, recipe_of("chainer"))(x).backward(g)
    assert x.grad is not None and (x.grad - wanted).abs().max() > 0.1
