"""Every source's training recipe by name. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.train.recipe import Recipe
from ssdconv.train.recipes import (
    caffe,
    caffe_mobilenet,
    chainer,
    gluon,
    keras,
    simple_ssd,
    ssd_keras,
    ssd_pytorch,
    tensorflow,
    torchvision,
)

_FILES = (caffe, caffe_mobilenet, gluon, chainer, ssd_pytorch, simple_ssd, keras, ssd_keras, tensorflow, torchvision)

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for file in _FILES for recipe in file.RECIPES}
"""Name of the command line -> recipe."""

FILE = "file"
"""Name of the command line for the loss that a weight file tells."""

_BY_NETWORK = (
    ("caffe", "mobilenet", "caffe-mobilenet"),
    ("caffe", "coco", "caffe-coco"),
    ("keras", "jedol_ssd300_resnet50", "keras-resnet50"),
    ("keras", "jedol", "keras"),
    ("keras", "", "ssd_keras"),
    ("pytorch", "simple_ssd", "simple-ssd"),
    ("pytorch", "torchvision", "torchvision"),
    ("pytorch", "coco", "ssd.pytorch-coco"),
    ("pytorch", "", "ssd.pytorch"),
)
"""Source, part of the network's name, recipe; the first that fits. Otherwise the recipe has the source's name."""


def recipe_of(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UsageError: no such recipe; the message names the nearest ones.
    """
    if name in RECIPES:
        return RECIPES[name]
    close = difflib.get_close_matches(name, RECIPES, 3)
    raise UsageError(
        f"no training recipe {name!r}",
        expected=f"one of {', '.join(RECIPES)}",
        hint=f"did you mean {' or '.join(repr(c) for c in close)}?" if close else None,
    )


def of_file(recipe: Recipe, config: SSDConfig) -> Recipe:
    """``recipe`` with the loss that the network's own file tells (``SSDConfig.loss``).

    Raises:
        UsageError: the file told none.
    """
    if config.loss is None:
        raise UsageError(
            f"the file of {config.name!r} does not tell its loss",
            expected="a network converted from a Caffe file, or prototxt, with a MultiBoxLoss layer",
            hint="convert the weights with the train prototxt, or name a recipe (--list-recipes)",
        )
    return replace(
        recipe,
        name=FILE,
        title=f"{recipe.title}, with the loss of its own file",
        loss=config.loss,
        difficult="keep" if config.loss.use_difficult else "drop",
    )


def default_recipe(config: SSDConfig) -> Recipe:
    """The recipe that a network's source trains it by; Caffe's where the source has none."""
    for source, part, name in _BY_NETWORK:
        if config.source == source and part in config.name:
            return RECIPES[name]
    return RECIPES.get(config.source, RECIPES["caffe"])
