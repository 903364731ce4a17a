"""Starting values: distributions measured, the same for every name whatever else the network has, file weights kept."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.chainer import chainer
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.train.recipe import InitSpec
from ssdconv.train.start import initialise

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
