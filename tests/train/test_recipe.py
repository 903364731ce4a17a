"""A recipe with a run's own figures.

Rates at typed-out moments of the sources' schedules.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ssdconv.data.records import Dataset
from ssdconv.errors import UsageError
from ssdconv.ssd_ref.networks.small import small_ssd
from ssdconv.train.loader import Mode, TrainingSet, objects
from ssdconv.train.recipe import ScheduleSpec, edited, lr_at, total_steps
from ssdconv.train.recipes import recipe_of


def test_nothing_said_nothing_changed() -> None:
    for name in ("caffe", "gluon", "tensorflow"):
        assert edited(recipe_of(name), 5011) == recipe_of(name)


def test_milestones_keep_their_share() -> None:
    recipe = edited(recipe_of("caffe"), 640, iterations=1200)  # 120,000 with drops at 80,000 and 100,000
    assert recipe.schedule.length == 1200
    assert recipe.schedule.milestones == (800, 1000)
    recipe = edited(recipe_of("gluon"), 640, epochs=24)  # 240 epochs, drops at 160 and 200; 20 updates an epoch
    assert total_steps(recipe.schedule, 20) == 480
    assert [round(lr_at(recipe.schedule, s, s // 20, 20), 6) for s in (319, 320, 399, 400)] == [1, 0.1, 0.1, 0.01]


def test_a_smaller_batch_makes_an_epoch_of_more_updates() -> None:
    recipe = edited(recipe_of("caffe"), 640, batch_size=8, epochs=3)
    assert recipe.batch_size == 8
    assert recipe.schedule.length == 240
    assert recipe.optimizer == recipe_of("caffe").optimizer  # the rate does not follow the batch by itself


def test_rate_mode_and_warmup() -> None:
    recipe = edited(recipe_of("gluon"), 320, lr=0.5, lr_mode="cos", warmup=7, epochs=2)
    assert recipe.optimizer.lr == 0.5
    assert recipe.schedule.mode == "cos"
    assert lr_at(recipe.schedule, 0, 0, 10) < 0.2
    assert lr_at(recipe.schedule, 7, 0, 10) > 0.7
    assert lr_at(recipe.schedule, 19, 1, 10) < 0.02


def test_a_warmup_keeps_its_updates_when_the_length_changes() -> None:
    recipe = recipe_of("torchvision")
    whole = replace(recipe, schedule=replace(recipe.schedule, warmup=2, warmup_unit="epochs"))
    assert edited(whole, 320, epochs=10).schedule.warmup == 2 * (320 // recipe.batch_size)


@pytest.mark.parametrize(
    "wish",
    [
        {"epochs": 3, "iterations": 9},
        {"epochs": 0},
        {"lr": -1.0},
        {"lr": float("inf")},
        {"batch_size": 0},
        {"warmup": -1},
    ],
)
def test_wishes_that_make_no_sense(wish: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        edited(recipe_of("caffe"), 640, **wish)


@pytest.mark.parametrize("mode", ["faithful", "fast"])
def test_stages_that_are_left_out(mode: Mode, shapes: Dataset) -> None:
    """Without zooming out, crops and flips the boxes are the annotation's own."""
    recipe = edited(recipe_of("chainer"), 100, without=("expand", "crop", "flip"))
    assert recipe.augment.stages == ("photometric", "resize")
    made = TrainingSet(shapes, small_ssd(shapes.classes, 64, 4), recipe, 0, mode)
    for index in range(6):
        boxes, _ = objects(shapes[index], 1, recipe)
        size = np.tile([shapes[index].width, shapes[index].height], 2)
        assert np.allclose(made.sample(index, 0).boxes, boxes / size, atol=1e-6)


@pytest.mark.parametrize(
    ("recipe", "step", "epoch", "factor"),
    [
        ("caffe", 0, 0, 1.0),
        ("caffe", 79_999, 153, 1.0),
        ("caffe", 80_000, 154, 0.1),
        ("caffe", 100_000, 193, 0.01),
        ("caffe-mobilenet", 20_000, 0, 0.5),
        ("caffe-mobilenet", 40_000, 0, 0.25),
        ("gluon", 160 * 518 - 1, 159, 1.0),
        ("gluon", 160 * 518, 160, 0.1),
        ("gluon", 200 * 518, 200, 0.01),
        ("simple-ssd", 99 * 518, 99, 0.008),
        ("tensorflow", 0, 0, 0.1),
        ("tensorflow", 499, 0, 0.1),
        ("tensorflow", 500, 0, 1.0),
        ("torchvision", 0, 0, 0.001),
        ("torchvision", 500, 0, 0.5005),
        ("torchvision", 1000, 1, 1.0),
        ("torchvision", 110 * 518, 110, 0.01),
    ],
)
def test_sources(recipe: str, step: int, epoch: int, factor: float) -> None:
    assert lr_at(recipe_of(recipe).schedule, step, epoch, 518) == pytest.approx(factor, rel=1e-12)


def test_cosine_over_epochs_counts_steps() -> None:
    spec = ScheduleSpec("epochs", 10, (), mode="cos", warmup=1, warmup_factor=0.0)
    assert lr_at(spec, 0, 0, 100) == 0.0
    assert lr_at(spec, 50, 0, 100) == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi * 0.05)))
    assert lr_at(spec, 500, 5, 100) == pytest.approx(0.5)
    assert lr_at(spec, 1000, 10, 100) == 0.0
    assert lr_at(spec, 5000, 50, 100) == 0.0
    assert total_steps(spec, 100) == 1000
    assert total_steps(recipe_of("caffe").schedule, 100) == 120_000


def test_moments_that_are_none() -> None:
    for step, epoch, length in ((-1, 0, 10), (0, -1, 10), (0, 0, 0)):
        with pytest.raises(UsageError, match="no such moment"):
            lr_at(ScheduleSpec(), step, epoch, length)
