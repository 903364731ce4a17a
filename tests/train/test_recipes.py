"""Recipes: found by name and by network, JSON round trip, and the figures of each source typed out from its own files."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.networks.registry import network, networks
from ssdconv.train.recipe import Recipe
from ssdconv.train.recipes import RECIPES, default_recipe, recipe_of

# Base rate, batch, length, drops, decay, difficult, origin, velocity: solver prototxts and training scripts.
FIGURES = {
    "caffe": (1e-3, 32, 120_000, (80_000, 100_000), 5e-4, "keep", 0, "lr_inside"),
    "caffe-coco": (1e-3, 32, 400_000, (280_000, 360_000), 5e-4, "keep", 0, "lr_inside"),
    "caffe-no-difficult": (1e-3, 32, 120_000, (80_000, 100_000), 5e-4, "drop", 0, "lr_inside"),
    "caffe-mobilenet": (5e-4, 24, 120_000, (20_000, 40_000), 5e-5, "keep", 0, "lr_outside"),
    "gluon": (1e-3, 32, 240, (160, 200), 5e-4, "keep", 1, "lr_inside"),
    "chainer": (1e-3, 32, 120_000, (80_000, 100_000), 5e-4, "drop", 1, "lr_inside"),
    "ssd.pytorch": (1e-3, 32, 120_000, (80_000, 100_000), 5e-4, "drop", 1, "lr_outside"),
    "ssd.pytorch-coco": (1e-3, 32, 400_000, (280_000, 360_000), 5e-4, "drop", 1, "lr_outside"),
    "simple-ssd": (1e-3, 32, 100, (30, 60, 90), 5e-4, "keep", 1, "lr_outside"),
    "keras": (1e-3, 32, 120_000, (80_000, 100_000), 1e-3, "keep", 1, "lr_outside"),
    "keras-resnet50": (1e-3, 32, 120_000, (80_000, 100_000), 1e-3, "keep", 1, "lr_outside"),
    "ssd_keras": (1e-3, 32, 120_000, (80_000, 100_000), 1e-3, "keep", 0, "lr_inside"),
    "tensorflow": (1e-3, 32, 120_000, (80_000, 100_000), 5e-4, "drop_keep_one", 0, "lr_outside"),
    "torchvision": (2e-3, 32, 120, (80, 110), 5e-4, "keep", 0, "lr_outside"),
}


def test_figures() -> None:
    found = {
        name: (
            r.optimizer.lr,
            r.batch_size,
            r.schedule.length,
            r.schedule.milestones,
            r.optimizer.weight_decay,
            r.difficult,
            r.origin,
            r.optimizer.velocity,
        )
        for name, r in RECIPES.items()
    }
    assert found == FIGURES


@pytest.mark.parametrize("name", list(RECIPES))
def test_json_round_trip(name: str) -> None:
    recipe = recipe_of(name)
    assert recipe.name == name
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert msgspec.json.decode(recipe.to_json())["facts"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"name": "x"}', '{"name":"x","title":"","facts":"","difficult":"some"}', b"\xff"]
)
def test_what_is_no_recipe(text: str | bytes) -> None:
    with pytest.raises(FormatError, match="not a training recipe"):
        Recipe.from_json(text)


def test_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'gluon'"):
        recipe_of("glueon")


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("caffe/ssd300_voc", "caffe"),
        ("caffe/ssd512_coco", "caffe-coco"),
        ("caffe/mobilenet_ssd_voc_bn", "caffe-mobilenet"),
        ("gluon/ssd_512_resnet50_v1_coco", "gluon"),
        ("chainer/ssd512_voc", "chainer"),
        ("pytorch/ssd_pytorch_ssd300_voc", "ssd.pytorch"),
        ("pytorch/ssd_pytorch_ssd300_coco", "ssd.pytorch-coco"),
        ("pytorch/simple_ssd_ssd300_voc", "simple-ssd"),
        ("pytorch/torchvision_ssd300_vgg16", "torchvision"),
        ("keras/jedol_ssd300_vgg16_voc", "keras"),
        ("keras/jedol_ssd300_resnet50_voc", "keras-resnet50"),
        ("keras/ssd_keras_ssd512_coco", "ssd_keras"),
        ("tensorflow/hikapok_ssd300_vgg16_voc", "tensorflow"),
    ],
)
def test_recipe_of_a_network(name: str, recipe: str) -> None:
    assert default_recipe(network(name)).name == recipe


def test_every_network_has_its_sources_recipe() -> None:
    for info in networks():
        assert default_recipe(network(f"{info.source}/{info.name}")).name in RECIPES


def test_imports_no_torch() -> None:
    code = "import sys, ssdconv.train.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
