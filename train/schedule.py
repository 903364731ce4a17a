"""The learning rate over time as a pure function of the step: a run that resumes needs no state for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ssdconv.errors import UsageError
from ssdconv.train.recipe import ScheduleSpec

if TYPE_CHECKING:
    from torch.optim import Optimizer


def lr_at(spec: ScheduleSpec, step: int, epoch: int, steps_per_epoch: int) -> float:
    """Factor on the base rate for one update.

    Args:
        spec: of the recipe.
        step: updates done before this one, over the whole run.
        epoch: index of the running epoch, from 0.
        steps_per_epoch: updates per epoch.

    Returns:
        The factor. ``step`` mode: the rate drops with the update whose index is a milestone (Caffe's ``iter >= stepvalue``),
        or with the first one of that epoch. ``cos``: half a cosine over ``length``, 0 after it. A warm-up multiplies.

    Raises:
        UsageError: negative step, or no step per epoch.
    """
    if step < 0 or epoch < 0 or steps_per_epoch < 1:
        raise UsageError("no such moment of a training", got=f"step {step}, epoch {epoch}, {steps_per_epoch} per epoch")
    whole = step if spec.unit == "iterations" else epoch
    if spec.mode == "cos":
        length = spec.length * (1 if spec.unit == "iterations" else steps_per_epoch)
        factor = 0.5 * (1.0 + math.cos(math.pi * min(step / max(length, 1), 1.0)))
    else:
        factor = spec.factor ** sum(whole >= milestone for milestone in spec.milestones)
    warmup = spec.warmup * (1 if (spec.warmup_unit or spec.unit) == "iterations" else steps_per_epoch)
    if step < warmup:
        part = 0.0 if spec.warmup_form == "constant" else step / warmup
        factor *= spec.warmup_factor + (1.0 - spec.warmup_factor) * part
    return factor


def total_steps(spec: ScheduleSpec, steps_per_epoch: int) -> int:
    """Updates of the whole training."""
    return spec.length * (1 if spec.unit == "iterations" else steps_per_epoch)


def set_factor(optimizer: Optimizer, factor: float) -> None:
    """Set every group's rate to ``factor`` times its ``initial_lr``."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
