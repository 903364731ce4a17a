"""A recipe with the figures that a run wants otherwise: length, rate, batch, warm-up. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from ssdconv.errors import UsageError
from ssdconv.train.recipe import Recipe, ScheduleSpec
from ssdconv.train.schedule import total_steps


def edited(
    recipe: Recipe,
    images: int,
    *,
    batch_size: int | None = None,
    lr: float | None = None,
    lr_mode: Literal["step", "cos"] | None = None,
    warmup: int | None = None,
    epochs: int | None = None,
    iterations: int | None = None,
    without: Sequence[str] = (),
) -> Recipe:
    """The recipe with what is given instead of its own figures.

    Milestones keep their share of a training whose length changes; a warm-up keeps its number of updates. Nothing else
    follows: the rate stays as the recipe has it, also for another batch size.

    Args:
        recipe: to start from.
        images: of the training set, which tells how many updates an epoch has.
        batch_size: images per update over all processes.
        lr: base rate.
        lr_mode: ``step`` or ``cos``.
        warmup: updates in which the rate rises from ``warmup_factor`` to 1.
        epochs, iterations: length of the training; one of the two.
        without: stages of the augmentation that are left out: photometric, expand, crop, flip.

    Raises:
        UsageError: both lengths, or a number that makes no sense.
    """
    if epochs is not None and iterations is not None:
        raise UsageError("give the length in epochs or in iterations, not both")
    wanted = {"epochs": epochs, "iterations": iterations, "batch size": batch_size, "learning rate": lr}
    for name, value in wanted.items():
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"the {name} must be positive", got=value)
    if warmup is not None and warmup < 0:
        raise UsageError("the warm-up cannot be negative", got=warmup)
    if without:
        stages = tuple(s for s in recipe.augment.stages if s not in without)
        recipe = replace(recipe, augment=replace(recipe.augment, stages=stages))
    if batch_size is not None:
        recipe = replace(recipe, batch_size=batch_size)
    if lr is not None:
        recipe = replace(recipe, optimizer=replace(recipe.optimizer, lr=lr))
    per_epoch = max(images // recipe.batch_size, 1)
    schedule = recipe.schedule
    if lr_mode is not None:
        schedule = replace(schedule, mode=lr_mode)
    if epochs is not None or iterations is not None:
        schedule = _resized(schedule, per_epoch, iterations if iterations is not None else (epochs or 0) * per_epoch)
    if warmup is not None:
        schedule = replace(schedule, warmup=warmup, warmup_unit="iterations")
    return replace(recipe, schedule=schedule)


def _resized(schedule: ScheduleSpec, per_epoch: int, length: int) -> ScheduleSpec:
    before = total_steps(schedule, per_epoch)
    if before == length:
        return schedule
    unit = before / schedule.length
    in_epochs = (schedule.warmup_unit or schedule.unit) == "epochs"
    return replace(
        schedule,
        unit="iterations",
        length=length,
        milestones=tuple(round(m * unit * length / before) for m in schedule.milestones),
        warmup=schedule.warmup * (per_epoch if in_epochs else 1),
        warmup_unit="iterations",
    )
