"""Update rules against literal loops in double precision, over rate changes, and what may not be confused.

Multipliers by role and name, in staged networks and in Caffe's layer graphs.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.config import Graph, LayerSpec, Postprocess, Preprocess, SSDConfig
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.train.optimizer import VelocitySGD, freeze, make_optimizer, named_roles, parameter_groups, role_of
from ssdconv.train.recipe import OptimizerSpec, ParamRule, Recipe, set_factor
from ssdconv.train.recipes import recipe_of

RATES = (1.0, 1.0, 1.0, 0.1, 0.1, 0.0, 0.5, 2.0)
RULES = (ParamRule(("bias",), lr=2.0, decay=0.0), ParamRule(names="1.*", lr=0.3, decay=0.1))


def net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)).double()


def recipe(spec: OptimizerSpec) -> Recipe:
    return replace(recipe_of("caffe"), optimizer=spec)


def gradients(model: nn.Module, step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in model.parameters()]


def literal(model: nn.Module, spec: OptimizerSpec) -> list[torch.Tensor]:
    """One number after the other, as the formulas of the module's table say."""
    weights = [p.detach().clone() for p in model.parameters()]
    state = [torch.zeros_like(w) for w in weights]
    multipliers = {"0.weight": (1, 1), "0.bias": (2, 0), "1.weight": (0.3, 0.1), "1.bias": (2, 0)}
    for step, factor in enumerate(RATES):
        for name, w, s, g in zip(multipliers, weights, state, gradients(model, step), strict=True):
            rate, decay = spec.lr * multipliers[name][0] * factor, spec.weight_decay * multipliers[name][1]
            for i in range(w.numel()):
                grad = g.view(-1)[i] + decay * w.view(-1)[i]
                if spec.kind == "rmsprop":
                    s.view(-1)[i] = spec.rho * s.view(-1)[i] + (1 - spec.rho) * grad * grad
                    w.view(-1)[i] -= rate * grad / (s.view(-1)[i].sqrt() + spec.eps)
                elif spec.velocity == "lr_inside":
                    s.view(-1)[i] = spec.momentum * s.view(-1)[i] + rate * grad
                    w.view(-1)[i] -= s.view(-1)[i]
                else:
                    s.view(-1)[i] = spec.momentum * s.view(-1)[i] + grad
                    w.view(-1)[i] -= rate * s.view(-1)[i]
    return weights


SPECS = {
    "inside": OptimizerSpec(lr=0.05, weight_decay=0.02, velocity="lr_inside", rules=RULES),
    "outside": OptimizerSpec(lr=0.05, weight_decay=0.02, velocity="lr_outside", rules=RULES),
    "rmsprop": OptimizerSpec("rmsprop", lr=0.05, momentum=0.0, weight_decay=0.02, rho=0.9, eps=0.3, rules=RULES),
}


@pytest.mark.parametrize("name", list(SPECS))
def test_equal_to_a_literal_loop(name: str) -> None:
    model = net()
    wanted = literal(model, SPECS[name])
    optimizer = make_optimizer(model, recipe(SPECS[name]))
    for step, factor in enumerate(RATES):
        set_factor(optimizer, factor)
        for p, g in zip(model.parameters(), gradients(model, step), strict=True):
            p.grad = g
        optimizer.step()
    for p, w in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=1e-12, atol=1e-14)


def test_the_rules_differ_once_the_rate_changes() -> None:
    inside, outside = (literal(net(), SPECS[k])[0] for k in ("inside", "outside"))
    assert (inside - outside).abs().max() > 1e-3


def test_a_resumed_run_is_the_same_to_the_last_bit() -> None:
    spec = SPECS["inside"]
    whole, first = net(), net()
    runs = [(whole, make_optimizer(whole, recipe(spec))), (first, make_optimizer(first, recipe(spec)))]
    for step, factor in enumerate(RATES):
        if step == 4:
            second = copy.deepcopy(first)
            resumed = make_optimizer(second, recipe(spec))
            resumed.load_state_dict(copy.deepcopy(runs[1][1].state_dict()))
            runs[1] = (second, resumed)
        for model, optimizer in runs:
            set_factor(optimizer, factor)
            for p, g in zip(model.parameters(), gradients(model, step), strict=True):
                p.grad = g
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), runs[1][0].parameters(), strict=True))


def test_which_rule_for_which_source() -> None:
    kinds = {
        name: type(make_optimizer(net(), recipe_of(name))).__name__ for name in ("gluon", "keras", "caffe-mobilenet")
    }
    assert kinds == {"gluon": "VelocitySGD", "keras": "SGD", "caffe-mobilenet": "RMSprop"}
    assert {g["lr"] for g in make_optimizer(net(), recipe_of("caffe"), lr=0.5).param_groups} == {0.5, 1.0}


def test_a_parameter_without_gradient_stays_and_decays_not() -> None:
    model = net()
    before = model[1].weight.detach().clone()
    optimizer = VelocitySGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    assert optimizer.step(lambda: 7.0) == 7.0
    assert torch.equal(model[1].weight, before)
    assert "velocity" not in optimizer.state[model[1].weight]


def meta(name: str) -> SSD:
    with torch.device("meta"):
        return SSD(network(name))


def multipliers(model: nn.Module, recipe: str) -> dict[str, tuple[float, float]]:
    chosen = recipe_of(recipe)
    spec = chosen.optimizer
    return {
        name: (round(group["lr"] / spec.lr, 9), round(group["weight_decay"] / spec.weight_decay, 9))
        for group in parameter_groups(model, chosen)
        for name in group["names"]
    }


@pytest.mark.parametrize("recipe", ["caffe", "chainer"])
def test_caffe_and_chainer_double_the_rate_of_biases_and_decay_none(recipe: str) -> None:
    found = multipliers(meta("caffe/ssd300_voc"), recipe)
    assert len(found) == 71
    assert found["heads.l2norm.0.weight"] == (1, 1)
    assert {found[n] for n in found if n.endswith("bias")} == {(2, 0)}
    assert {found[n] for n in found if n.endswith("weight")} == {(1, 1)}


def test_gluon_treats_all_alike_and_leaves_fixed_gammas_out() -> None:
    model = meta("gluon/ssd_512_resnet50_v1_voc")
    found = multipliers(model, "gluon")
    assert set(found.values()) == {(1, 1)}
    assert {n for n, _ in model.named_parameters()} - set(found) == {
        f"extras.extra{i}_{k}.norm.weight" for i in range(1, 5) for k in (1, 2)
    }


def test_mobilenet_learns_in_its_conf_heads() -> None:
    found = multipliers(meta("caffe/mobilenet_ssd_voc_bn"), "caffe-mobilenet")
    assert found["heads.conf.5.weight"] == (1, 1)
    assert found["heads.conf.5.bias"] == (2, 0)
    assert found["heads.loc.5.weight"] == (0.1, 0.1)
    assert found["heads.loc.5.bias"] == (0.2, 0)
    assert found["backbone.conv0.conv.weight"] == (0.1, 0.1)
    assert found["backbone.conv0.norm.1.weight"] == (0.1, 0)
    assert found["backbone.conv0.norm.1.bias"] == (0.2, 0)


def test_keras_decays_kernels_only() -> None:
    found = multipliers(meta("keras/jedol_ssd300_resnet50_voc"), "keras-resnet50")
    none = {n for n, (_, decay) in found.items() if decay == 0}
    assert "backbone.conv1.conv.weight" in none
    assert "backbone.res5c.branch2b.conv.weight" in none
    assert "backbone.res5a.branch2b.conv.weight" not in none
    assert {n for n in found if ".norm." in n or n.endswith("bias")} < none
    assert multipliers(meta("keras/jedol_ssd300_vgg16_voc"), "keras")["heads.l2norm.0.weight"] == (1, 0)


def test_tensorflow_decays_the_scale_a_tenth() -> None:
    found = multipliers(meta("tensorflow/hikapok_ssd300_vgg16_voc"), "tensorflow")
    assert found.pop("heads.l2norm.0.weight") == (1, 0.1)
    assert set(found.values()) == {(1, 1)}


def test_roles_of_a_layer_graph() -> None:
    layers = (
        LayerSpec(
            "conv", "Convolution", ("data",), ("a",), {"num_output": 4, "kernel_size": [1]}, ((4, 3, 1, 1), (4,))
        ),
        LayerSpec("bn", "BatchNorm", ("a",), ("b",), {}, ((4,), (4,), (1,))),
        LayerSpec("sc", "Scale", ("b",), ("c",), {"bias_term": True}, ((4,), (4,))),
        LayerSpec("norm", "Normalize", ("c",), ("d",), {"across_spatial": False, "channel_shared": False}, ((4,),)),
    )
    config = SSDConfig("g", "caffe", 2, Preprocess((8, 8)), (), Postprocess(), layers=Graph("data", layers, "d", "d"))
    roles = {name.removeprefix("layers."): role for name, _, role in named_roles(SSD(config))}
    assert roles == {
        "conv.weight": "weight",
        "conv.bias": "bias",
        "sc.weight": "gamma",
        "sc.bias": "beta",
        "norm.weight": "scale",
    }
    assert role_of(nn.Conv2d(1, 1, 1), "weight") == "weight"


def test_rate_0_freezes() -> None:
    rules = (ParamRule(names="backbone.conv[12]_*", lr=0.0), ParamRule(("bias",), lr=2.0))
    recipe = replace(recipe_of("caffe"), optimizer=OptimizerSpec(rules=rules))
    model = meta("caffe/ssd300_voc")
    found = [n for g in parameter_groups(model, recipe) for n in g["names"]]
    frozen = freeze(model, recipe)
    assert sorted(frozen) == sorted(
        f"backbone.conv{b}_{i}.conv.{k}" for b in (1, 2) for i in (1, 2) for k in ("weight", "bias")
    )
    assert set(found).isdisjoint(frozen)
    assert len(found) + len(frozen) == 71
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == set(frozen)


def test_everything_frozen_is_an_error() -> None:
    recipe = replace(recipe_of("caffe"), optimizer=OptimizerSpec(rules=(ParamRule(lr=0.0),)))
    with pytest.raises(UsageError, match="freezes every parameter"):
        parameter_groups(meta("caffe/ssd300_voc"), recipe)
