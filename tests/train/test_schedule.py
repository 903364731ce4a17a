"""Rates at typed-out moments of the sources' schedules."""

from __future__ import annotations

import math

import pytest

from ssdconv.errors import UsageError
from ssdconv.train.recipe import ScheduleSpec, lr_at, total_steps
from ssdconv.train.recipes import recipe_of


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
