"""Multipliers by role and name, in staged networks and in Caffe's layer graphs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.config import Graph, LayerSpec, Postprocess, Preprocess, SSDConfig
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.train.optimizer import freeze, named_roles, parameter_groups, role_of
from ssdconv.train.recipe import OptimizerSpec, ParamRule
from ssdconv.train.recipes import recipe_of


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
    config = SSDConfig("g", "caffe", 2, Preprocess((8, 8)), (), Postprocess(), graph=Graph("data", layers, "d", "d"))
    roles = {name.removeprefix("graph."): role for name, _, role in named_roles(SSD(config))}
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
