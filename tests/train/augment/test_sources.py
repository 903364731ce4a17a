"""Every recipe uses its source's augmentation, all of it is data, and what the sources differ in is there to be seen."""

from __future__ import annotations

import msgspec
import pytest

from ssdconv.train.augment.draw import check
from ssdconv.train.augment.sources import SOURCES
from ssdconv.train.augment.spec import AugmentSpec
from ssdconv.train.recipes import RECIPES


@pytest.mark.parametrize("name", SOURCES)
def test_the_recipe_of_that_name_uses_it(name: str) -> None:
    assert RECIPES[name].augment == SOURCES[name]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipes_augmentation_is_usable_data(name: str) -> None:
    spec = RECIPES[name].augment
    check(spec)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=AugmentSpec) == spec


def test_the_differences_that_published_numbers_hang_on() -> None:
    crops = {name: spec.crop for name, spec in SOURCES.items()}
    assert {n: c.meets for n, c in crops.items() if c} == {
        "caffe": "any", "chainer": "all", "gluon": "all", "ssd.pytorch": "never", "tensorflow": "inside", "keras": "any",
        "ssd_keras": "any", "simple-ssd": "all", "keras-resnet50": "any", "torchvision": "any_inside",
    }  # fmt: skip
    assert {n for n, c in crops.items() if c and c.choice == "found"} == {
        "caffe",
        "chainer",
        "gluon",
        "keras",
        "keras-resnet50",
    }
    assert [s.min_iou for s in crops["ssd.pytorch"].samplers] == [0.1, 0.3, 0.7, 0.9]  # type: ignore[union-attr]
    assert {n for n, s in SOURCES.items() if s.jpeg} == {"caffe"}
    assert {n for n, s in SOURCES.items() if s.precision == "uint8"} == {
        "caffe", "keras", "keras-resnet50", "ssd_keras", "simple-ssd", "torchvision",
    }  # fmt: skip
    assert SOURCES["tensorflow"].expand.ratio == (1.1, 4.0)  # type: ignore[union-attr]
    assert RECIPES["keras-resnet50"].augment.expand.fill == "zero"  # type: ignore[union-attr]
