"""The reference's side of step parity: a batch, and some training steps on it, recorded.

A batch is given ready-made (prepared pixels, boxes, labels), so that only the step is compared: matching, loss, gradients,
update. Augmentation has tests of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from ssdconv.parity.layers.tolerance import Array
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.layers import BatchNorm, L2Norm
from ssdconv.ssd_ref.loss_rule import LossRule
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.priors import Priors, prior_corners
from ssdconv.train.loss import Loss, encoded, multibox_loss, own_form
from ssdconv.train.matching import Anchors, Targets, match
from ssdconv.train.optimizer import make_optimizer
from ssdconv.train.recipe import Recipe, set_factor
from ssdconv.train.start import training_mode

LossFunction = Callable[..., Loss]
"""``multibox_loss`` or what stands in for it: (loc, conf, priors, targets, rule, anchors=anchors)."""


@dataclass(frozen=True)
class StepBatch:
    """Ready-made images and objects.

    Attributes:
        pixels: (N, 3, H, W) float32, prepared as the network's source prepares them.
        boxes: per image (g, 4) float32, xmin, ymin, xmax, ymax, fractions of the image.
        labels: per image (g,) int64, conf channel (objects start at 1).
    """

    pixels: Array
    boxes: tuple[Array, ...]
    labels: tuple[Array, ...]

    def targets(self) -> Targets:
        """The objects as tensors."""
        return Targets.pad([torch.from_numpy(b) for b in self.boxes], [torch.from_numpy(n) for n in self.labels])


@dataclass
class Trace:
    """What some training steps computed, in the reference's names and layout.

    Attributes:
        labels: (N, P) matched class per prior, 0 for none.
        offsets: (N, P, 4) encoded boxes of matched priors, 0 elsewhere.
        losses: (steps, 2) loc and conf before each update.
        gradients: of every parameter, first step, without weight decay.
        weights: number of updates -> parameters and running statistics after them.
    """

    labels: Array
    offsets: Array
    losses: Array
    gradients: dict[str, Array] = field(default_factory=dict)
    weights: dict[int, dict[str, Array]] = field(default_factory=dict)

    @property
    def positives(self) -> int:
        """Number of matched priors."""
        return int((self.labels > 0).sum())


@dataclass(frozen=True)
class StepPlan:
    """What both sides do.

    Attributes:
        keep: numbers of updates after which weights are compared; 0 alone for targets only.
        lr: base rate.
        drop: indices of updates before which the rate drops to a tenth.
    """

    keep: tuple[int, ...] = (1, 2, 10)
    lr: float = 1e-3
    drop: tuple[int, ...] = ()


def made_batch(config: SSDConfig, images: int = 2, objects: int = 4, seed: int = 0) -> StepBatch:
    """A batch for a network: noise with smooth fields by turns, and objects of the size of its priors.

    Objects are priors inside the image with their sides changed by up to a fifth and moved by up to a tenth: each has a
    best prior that is clearly the best, whatever the precision.
    """
    rng = np.random.default_rng([seed, 77])
    height, width = config.pixels.size
    channels = config.pixels.channels
    std = np.array(config.pixels.std).reshape(-1, 1, 1)
    tile = (-(-height // 6), -(-width // 6))
    pixels = np.empty((images, channels, height, width), np.float32)
    for item in range(images):
        noise = rng.uniform(0, 255, (channels, height, width))
        field_ = np.kron(rng.uniform(0, 255, (channels, 6, 6)), np.ones(tile))[:, :height, :width]
        mixed = 0.3 * noise + 0.7 * field_ if item % 2 else 0.6 * noise + 0.4 * field_
        mean = np.array(config.pixels.mean).reshape(-1, 1, 1)
        pixels[item] = (mixed / config.pixels.unit - mean) / std * config.pixels.scale
    corners = prior_corners(config.priors, config.pixels.size).numpy().astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    inside = np.flatnonzero((corners[:, :2] > 0).all(1) & (corners[:, 2:] < 1).all(1) & (sides.min(1) > 0.1))
    boxes, labels = [], []
    for _ in range(images):
        # Few priors are large, most are small: draw the size first, then one prior of about that size.
        wanted = rng.uniform(0.15, 0.8, objects)
        near = np.abs(np.sqrt(sides[inside].prod(1))[None] - wanted[:, None]) + rng.uniform(0, 0.05, (1, len(inside)))
        chosen = corners[inside[near.argmin(1)]]
        middle, size = (chosen[:, :2] + chosen[:, 2:]) / 2, chosen[:, 2:] - chosen[:, :2]
        size = size * rng.uniform(0.8, 1.2, size.shape)
        middle = middle + size * rng.uniform(-0.1, 0.1, size.shape)
        box = np.concatenate([middle - size / 2, middle + size / 2], 1)
        boxes.append(np.clip(box, 0.001, 0.999).astype(np.float32))
        labels.append(rng.integers(1, config.num_classes, objects))
    return StepBatch(pixels, tuple(boxes), tuple(labels))


def reference_trace(
    config: SSDConfig,
    tensors: Mapping[str, Array],
    batch: StepBatch,
    recipe: Recipe,
    plan: StepPlan,
    dtype: torch.dtype,
    loss_function: LossFunction = multibox_loss,
) -> Trace:
    """Train the reference for some steps on one batch.

    Args:
        config, tensors: the network and its float32 weights.
        batch: of every step.
        recipe: loss, optimizer, multipliers and normalisation; its schedule is not used.
        plan: steps and rate.
        dtype: float32, or float64 for the exact values.
        loss_function: stands in for the loss, to try faults.
    """
    model = SSD(config)
    state = {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in tensors.items()}
    model.load_state_dict(state)
    model.to(dtype)
    if config.source == "gluon":
        recipe = _single(model, recipe)
    training_mode(model, recipe)
    priors = Priors.of(config.priors, config.pixels.size, dtype)
    targets, pixels = batch.targets(), torch.from_numpy(batch.pixels).to(dtype)
    anchors = Anchors.of(config.priors, config.pixels.size, recipe.loss.matching.numerics)
    labels, offsets = _encoded(priors, anchors, targets, recipe.loss)
    trace = Trace(labels, offsets, np.empty(0))
    rate = float(np.float32(plan.lr)) if config.source == "gluon" else plan.lr
    optimizer = make_optimizer(model, recipe, rate)
    losses, factor = [], 1.0
    for step in range(max(plan.keep)):
        loc, conf = model(pixels)
        loss = loss_function(loc, conf, priors, targets, recipe.loss, anchors=anchors)
        optimizer.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        losses.append((loss.loc.item(), loss.conf.item()))
        if step == 0:
            trace.gradients = {n: _array(p.grad) for n, p in model.named_parameters() if p.grad is not None}
        if step in plan.drop:
            factor *= 0.1
            set_factor(optimizer, factor)
        optimizer.step()
        if step + 1 in plan.keep:
            trace.weights[step + 1] = learned(model)
    trace.losses = np.array(losses)
    return trace


def _single(model: nn.Module, recipe: Recipe) -> Recipe:
    """MXNet keeps every constant of an operator in float32, in float64 networks too: the same constants for the reference."""
    for module in model.modules():
        if isinstance(module, BatchNorm | L2Norm):
            module.eps = float(np.float32(module.eps))
    share = 1.0 - float(np.float32(1.0 - recipe.norm.share))
    optimizer = replace(
        recipe.optimizer,
        momentum=float(np.float32(recipe.optimizer.momentum)),
        weight_decay=float(np.float32(recipe.optimizer.weight_decay)),
    )
    return replace(recipe, norm=replace(recipe.norm, share=share), optimizer=optimizer)


def learned(model: nn.Module) -> dict[str, Array]:
    """What training changes: parameters with a gradient, and running statistics."""
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    return {n: _array(v) for n, v in model.state_dict().items() if n not in fixed and v.is_floating_point()}


def _encoded(priors: Priors, anchors: Anchors, targets: Targets, rule: LossRule) -> tuple[Array, Array]:
    matches = match(anchors, targets, rule.matching)
    positive = matches.positive
    labels = torch.where(positive, targets.labels.gather(1, matches.object.clamp_min(0)), 0)
    offsets = torch.zeros(*positive.shape, 4, dtype=priors.corners.dtype)
    own = own_form(anchors, priors, rule)
    offsets[positive] = encoded(matches, targets, rule, own, priors.variances).to(offsets.dtype)
    return labels.numpy(), offsets.numpy()


def _array(value: Tensor | None) -> Array:
    assert value is not None
    array: Array = copy.copy(value.detach().cpu().numpy())
    return array
