"""Starting values: distributions measured, the same for every name whatever else the network has, file weights kept.

Networks for other classes, and what they keep of a checkpoint. Running statistics by each source's rule, typed out;
frozen ones stay.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import ssdconv
from ssdconv.errors import MappingError, UsageError
from ssdconv.ssd_ref.checkpoint import load
from ssdconv.ssd_ref.config import Graph, L2NormSpec, LayerSpec, SSDConfig
from ssdconv.ssd_ref.graph.network import GraphLayer
from ssdconv.ssd_ref.layers import BatchNorm, L2Norm, Standardize
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.chainer import chainer
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.networks.small import small_ssd
from ssdconv.train.recipe import InitSpec, NormRule
from ssdconv.train.recipes import recipe_of
from ssdconv.train.start import begin, check_trainable, initialise, training_mode, with_classes

FAN_IN, FAN_OUT = 40 * 9, 60 * 9
SPREAD = {  # standard deviation of each distribution, from its formula
    "xavier_uniform_fan_in": math.sqrt(1 / FAN_IN),
    "lecun_uniform": math.sqrt(1 / FAN_IN),
    "xavier_uniform": math.sqrt(2 / (FAN_IN + FAN_OUT)),
    "xavier_uniform_magnitude_2": math.sqrt(4 / 3 / (FAN_IN + FAN_OUT)),
    "torch_default": math.sqrt(1 / 3 / FAN_IN),
    "he_normal": math.sqrt(2 / FAN_IN),
    "he_normal_fan_out": math.sqrt(2 / FAN_OUT),
    "normal_001": 0.01,
}


@pytest.mark.parametrize("kind", list(SPREAD))
def test_distributions(kind: str) -> None:
    model = nn.Sequential(nn.Conv2d(40, 60, 3))
    initialise(model, InitSpec(kind), 5)  # type: ignore[arg-type]
    values = model[0].weight.detach()
    assert values.std().item() == pytest.approx(SPREAD[kind], rel=0.03)
    assert abs(values.mean().item()) < 0.03 * SPREAD[kind]
    largest = values.abs().max().item() / SPREAD[kind]
    assert largest > 3.5 if "normal" in kind else 1.7 < largest <= math.sqrt(3) + 1e-6
    if kind == "torch_default":
        assert 0.5 / math.sqrt(FAN_IN) < model[0].bias.abs().max().item() <= 1 / math.sqrt(FAN_IN)
    else:
        assert not model[0].bias.any()


def test_values_depend_on_name_and_seed_only() -> None:
    narrow, wide = SSD(chainer("ssd300_voc", 21, width=4)), SSD(chainer("ssd300_voc", 7, width=4))
    done = initialise(narrow, InitSpec("lecun_uniform"), torch.Generator().manual_seed(9))
    torch.rand(3)
    initialise(wide, InitSpec("lecun_uniform"), 9)
    a, b = dict(narrow.named_parameters()), dict(wide.named_parameters())
    assert sorted(done) == sorted(a)
    for name, value in a.items():
        assert torch.equal(value, b[name]) or name.startswith("heads.conf."), name
    assert not torch.equal(a["backbone.conv4_2.conv.weight"], a["backbone.conv4_3.conv.weight"])
    initialise(wide, InitSpec("lecun_uniform"), 10)
    assert not torch.equal(a["backbone.conv4_2.conv.weight"], b["backbone.conv4_2.conv.weight"])
    assert torch.equal(a["heads.l2norm.0.weight"], torch.full((32,), 20.0))


def test_heads_of_their_own_and_weights_of_a_file() -> None:
    model = SSD(chainer("ssd300_voc", width=4))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    kept = {name for name in before if name.startswith("backbone.")}
    done = initialise(model, InitSpec("normal_001", heads="he_normal", bias=0.25), 1, skip=kept)
    now = dict(model.named_parameters())
    assert set(done) == set(before) - kept
    assert all(torch.equal(now[name], before[name]) for name in kept)
    assert now["extras.conv6_2.conv.weight"].std().item() == pytest.approx(0.01, rel=0.1)
    head = now["heads.conf.1.weight"]
    assert head.std().item() == pytest.approx(math.sqrt(2 / head[0].numel()), rel=0.1)
    assert bool((now["heads.loc.0.bias"] == 0.25).all())


def test_batch_normalisation_and_gluons_input_scale() -> None:
    model = SSD(network("gluon/ssd_300_mobilenet0.25_voc"))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(3.0)
    initialise(model, InitSpec("he_normal_fan_out", heads="xavier_uniform_magnitude_2"), 0)
    state = model.state_dict()
    assert {float(v.max()) for k, v in state.items() if k.endswith("norm.weight")} == {1.0}
    assert {float(v.abs().max()) for k, v in state.items() if k.endswith("norm.bias")} == {0.0}
    vgg = SSD(network("gluon/ssd_300_vgg16_atrous_voc"))
    initialise(vgg, InitSpec("he_normal"), 0)
    scale = vgg.state_dict()["backbone.init_scale.scale"].flatten()
    torch.testing.assert_close(scale, torch.tensor([58.395, 57.12, 57.375]))


SMALL = small_ssd(("a", "b", "c"), 64, 4)


def test_the_same_classes_in_another_order_change_nothing() -> None:
    assert with_classes(SMALL, ("c", "a", "b")) == (SMALL, ())


def test_other_classes_renew_the_class_outputs_only() -> None:
    config, renew = with_classes(SMALL, ("c", "d"))
    assert config.class_names == ("background", "c", "d")
    assert replace(config, num_classes=4, class_names=SMALL.class_names) == SMALL
    torch.manual_seed(0)
    before = {name: torch.randn_like(t) for name, t in SSD(SMALL).state_dict().items()}
    model = SSD(config)
    start = begin(model, recipe_of("gluon"), 0, before, renew, "old.pth")
    state = model.state_dict()
    for name, tensor in state.items():
        new = name.startswith("heads.conf.")
        assert (name in start.renewed) == (name in start.drawn) == new, name
        if not new:
            assert torch.equal(tensor, before[name]), name
    assert "old.pth: " in start.text
    assert f"{len(state) - 8} tensors kept, 8 renewed" in start.text


def test_equal_counts_of_other_classes_are_renewed_too() -> None:
    config, renew = with_classes(SMALL, ("x", "y", "z"))
    assert config.num_classes == SMALL.num_classes
    assert renew == ("heads.conf.",)


def test_a_tensor_that_does_not_fit_is_named() -> None:
    with pytest.raises(MappingError, match=r"backbone\.conv1\.conv\.weight"):
        begin(SSD(SMALL), recipe_of("gluon"), 0, {"backbone.conv1.conv.weight": torch.zeros(3)})


@pytest.mark.shared
def test_a_converted_layer_graph_gets_other_classes(shared: Path, tmp_path: Path) -> None:
    """OpenCV's face detector: its own graph with Permute, Flatten and Concat behind its class outputs."""
    folder = shared / "weights/res10_face_ssd"
    model_file = folder / "res10_300x300_ssd_iter_140000.caffemodel"
    ssdconv.convert(model_file, tmp_path / "faces.pth", prototxt=folder / "deploy.prototxt")
    faces = load(tmp_path / "faces.pth")
    config, renew = with_classes(faces.config, ("cat", "dog", "hat"))
    model = SSD(config)
    start = begin(model, recipe_of("caffe"), 0, faces.state_dict(), renew, "faces.pth")
    assert 0 < len(start.renewed) <= 12
    assert all("conf" in name for name in start.renewed)
    with torch.no_grad():
        loc, conf = model(torch.zeros(1, 3, 300, 300))
        old_loc, old_conf = faces(torch.zeros(1, 3, 300, 300))
    assert conf.shape == (1, old_conf.shape[1], 4)
    assert torch.equal(loc, old_loc)
    same, nothing = with_classes(config, ("hat", "dog", "cat"))
    assert same == config
    assert nothing == ()


def test_a_graph_whose_class_outputs_cannot_be_found() -> None:
    layers = (LayerSpec("act", "Sigmoid", ("data",), ("conf",)),)
    config = replace(SMALL, layers=Graph("data", layers, "loc", "conf"))
    with pytest.raises(UsageError, match="Sigmoid"):
        with_classes(config, ("x",))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation": "sigmoid"}, "activation 'sigmoid'"),
        ({"background": None}, "background None"),
        ({"share_location": False}, "share_location False"),
        ({"code": "corner"}, "code 'corner'"),
    ],
)
def test_networks_with_another_loss_are_refused(change: dict[str, object], said: str) -> None:
    config = replace(SMALL, detect=replace(SMALL.detect, **change))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="loss of SSD") as caught:
        check_trainable(config)
    assert said in str(caught.value)
    with pytest.raises(UsageError, match="priors"):
        check_trainable(replace(SMALL, priors=()))


@pytest.mark.parametrize("classes", [(), ("a", "a")])
def test_classes_need_names(classes: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="classes"):
        with_classes(SMALL, classes)


def test_a_named_network_of_another_class_count() -> None:
    config: SSDConfig = network("ssd300_voc")
    changed, renew = with_classes(config, ("x", "y"))
    check_trainable(changed)
    assert renew
    assert changed.num_classes == 3
    assert changed.num_priors == 8732


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
    layer = (GraphLayer(spec) if graph else L2Norm(3, L2NormSpec())).double()
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
