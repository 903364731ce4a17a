"""A training recipe as data: everything that one source does differently from another when it trains an SSD. Imports no torch.

Plain frozen dataclasses: a recipe travels inside a run's folder and its checkpoints as JSON, and the table of the docs
is made from it. The instances are in ``train.recipes``; ``edited`` gives one with the figures that a run wants otherwise. The
learning rate is a pure function of the step: a run that resumes needs no state for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.loss_rule import LossRule
from ssdconv.train.augment.spec import AugmentSpec

if TYPE_CHECKING:
    from torch.optim import Optimizer

Role = Literal["weight", "bias", "gamma", "beta", "scale"]
"""What a parameter is: kernel, bias, BatchNorm's gamma and beta, L2Norm's scale."""


@dataclass(frozen=True)
class ParamRule:
    """Multipliers of the parameters that it is meant for; of several rules the first that fits counts.

    Attributes:
        roles: which kinds of parameter.
        names: glob over the reference parameter's name.
        lr: multiplies the learning rate; 0 freezes.
        decay: multiplies the weight decay.
    """

    roles: tuple[Role, ...] = ("weight", "bias", "gamma", "beta", "scale")
    names: str = "*"
    lr: float = 1.0
    decay: float = 1.0


@dataclass(frozen=True)
class OptimizerSpec:
    """The update rule; weight decay is the factor of the parameter in its gradient (an L2 penalty of w²·decay/2).

    Attributes:
        kind: momentum SGD or RMSProp.
        lr: base learning rate at ``Recipe.batch_size``.
        momentum: of SGD.
        weight_decay: added to the gradient as ``weight_decay * parameter``.
        rho: RMSProp's decay of the mean square.
        eps: RMSProp's small number, added after the root.
        velocity: whether the learning rate is inside the velocity (``lr_inside``: v = m v + lr g, w -= v; Caffe, Chainer,
            MXNet, TensorFlow's is outside) or outside (PyTorch: v = m v + g, w -= lr v). They differ when the rate changes.
        rules: multipliers per parameter.
    """

    kind: Literal["sgd", "rmsprop"] = "sgd"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    rho: float = 0.98
    eps: float = 1e-8
    velocity: Literal["lr_inside", "lr_outside"] = "lr_outside"
    rules: tuple[ParamRule, ...] = ()


@dataclass(frozen=True)
class ScheduleSpec:
    """The learning rate over time.

    Attributes:
        unit: what ``length``, ``milestones`` and ``warmup`` count.
        length: of the whole training.
        mode: ``step``: times ``factor`` at each milestone; ``cos``: half a cosine down to 0.
        warmup: the rate rises linearly from ``warmup_factor`` x to 1 x over this long; ``constant`` keeps the low rate.
        warmup_unit: what ``warmup`` counts; None for ``unit``.
    """

    unit: Literal["iterations", "epochs"] = "iterations"
    length: int = 120_000
    milestones: tuple[int, ...] = (80_000, 100_000)
    factor: float = 0.1
    mode: Literal["step", "cos"] = "step"
    warmup: int = 0
    warmup_factor: float = 0.1
    warmup_form: Literal["linear", "constant"] = "linear"
    warmup_unit: Literal["iterations", "epochs"] | None = None


Kernel = Literal[
    "xavier_uniform_fan_in",
    "xavier_uniform",
    "lecun_uniform",
    "he_normal",
    "he_normal_fan_out",
    "xavier_uniform_magnitude_2",
    "torch_default",
    "normal_001",
]
"""Distributions of new kernels, see ``InitSpec``."""


@dataclass(frozen=True)
class InitSpec:
    """How parameters that no backbone file brings start: heads and extra layers.

    Attributes:
        kernel: ``xavier_uniform_fan_in`` U(±sqrt(3/fan_in)) (Caffe's xavier), ``xavier_uniform`` U(±sqrt(6/(fan_in+fan_out))),
            ``lecun_uniform`` U(±sqrt(3/fan_in)) (Chainer), ``he_normal`` N(0, 2/fan_in) (Caffe's msra), ``he_normal_fan_out``
            N(0, 2/fan_out) and ``xavier_uniform_magnitude_2`` U(±sqrt(4/(fan_in+fan_out))) (MXNet's Xavier with magnitude 2,
            gaussian over fan out and uniform over both), ``torch_default`` U(±sqrt(1/fan_in)), its bias too,
            ``normal_001`` N(0, 0.01²).
        bias: constant.
        l2norm: start of the L2Norm scale.
        heads: distribution of the heads' kernels; None for ``kernel``.
    """

    kernel: Kernel = "xavier_uniform_fan_in"
    bias: float = 0.0
    l2norm: float = 20.0
    heads: Kernel | None = None


@dataclass(frozen=True)
class NormRule:
    """How batch normalisation keeps its running statistics while training, and which gradient an L2 norm hands down.

    Attributes:
        share: of the batch's statistics in the running ones at each step: torch's ``momentum``, 1 - MXNet's and Keras'.
        variance: ``unbiased`` (times n / (n - 1): torch, Caffe, TensorFlow's fused kernel) or ``biased`` (MXNet).
        frozen: it runs on its stored statistics, which stay.
        scales: of the L2 norm's channels: in its gradient (``exact``), or multiplied after it (``outside``: Caffe's Normalize
            layer, on CPU and GPU; another gradient as soon as scales differ).
    """

    share: float = 0.1
    variance: Literal["unbiased", "biased"] = "unbiased"
    frozen: bool = False
    scales: Literal["exact", "outside"] = "exact"


@dataclass(frozen=True)
class Recipe:
    """One source's way to train.

    Attributes:
        name: of the command line (``caffe``, ``gluon``, ``chainer``, ``ssd.pytorch``, ``simple-ssd``, ``keras``, …).
        title: for tables.
        facts: where its figures come from (file of the source project).
        batch_size: images per step over all devices.
        difficult: VOC's difficult objects: trained on (``keep``), left out (``drop``), or left out unless the image has
            nothing else, then its first stays (``drop_keep_one``, HiKapok).
        origin: what is subtracted from VOC's 1-based corners before they are divided by the image's size.
        norm: running statistics of batch normalisation (``norms.training_mode`` applies it).
        notes: what the data cannot say.
    """

    name: str
    title: str
    facts: str
    batch_size: int = 32
    loss: LossRule = field(default_factory=LossRule)
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    init: InitSpec = field(default_factory=InitSpec)
    difficult: Literal["keep", "drop", "drop_keep_one"] = "keep"
    origin: Literal[0, 1] = 1
    norm: NormRule = field(default_factory=NormRule)
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The recipe as one line of JSON; ``from_json`` gives an equal recipe back."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Recipe:
        """Read ``to_json``'s output back.

        Raises:
            FormatError: not JSON, or not a recipe.
        """
        try:
            told = msgspec.json.decode(text)
            if isinstance(told, dict) and isinstance(told.get("loss"), dict):
                told["loss"] = _newer(told["loss"])
            return msgspec.convert(told, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
            raise FormatError(f"not a training recipe: {error}") from None


def _newer(loss: dict[str, Any]) -> dict[str, Any]:
    """A loss as recipes of older runs have it, where mining was part of it: the same loss today."""
    if "neg_pos_ratio" not in loss:
        return loss
    mining = {"ratio": loss.pop("neg_pos_ratio"), "overlap": loss.pop("neg_overlap"), "scope": loss.pop("mining")}
    matching = dict(loss.get("matching", {}))
    if isinstance(matching.get("ties"), bool):
        matching["ties"] = "overlapping" if matching["ties"] else "none"
    normalizer = "selected" if loss.get("conf_normalizer") == "selected" else "same"
    return {**loss, "matching": matching, "mining": mining, "conf_normalizer": normalizer}


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
