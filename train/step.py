"""One training step: forward, loss, backward, update. The loss is always in float32, matching in its source's precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.priors import Priors
from ssdconv.train.anchors import Anchors
from ssdconv.train.distributed import Place
from ssdconv.train.loader import Batch, network_input
from ssdconv.train.loss import multibox_loss
from ssdconv.train.recipe import Recipe


@dataclass(frozen=True)
class Terms:
    """Numbers of one step, over the batch of all processes."""

    loc: float
    conf: float
    positives: int
    negatives: int

    @property
    def total(self) -> float:
        """What was minimised."""
        return self.loc + self.conf

    @property
    def finite(self) -> bool:
        """Whether the loss is a number."""
        return math.isfinite(self.total)


class Step:
    """The step of one process.

    Args:
        model: in training mode, on its device, in the memory format that it shall run in.
        recipe: its loss.
        optimizer: over the model's parameters.
        place: among the processes that share the batch; with more than one, ``torch.distributed`` has begun.
        amp: run the network in bfloat16 (autocast); the parameters stay float32.
    """

    def __init__(
        self, model: SSD, recipe: Recipe, optimizer: Optimizer, place: Place | None = None, amp: bool = False
    ) -> None:
        self.model, self.recipe, self.optimizer = model, recipe, optimizer
        self.place = place or Place()
        self.amp = amp
        where = next(model.parameters())
        self.device = where.device
        dtype = torch.float64 if where.dtype == torch.float64 else torch.float32
        self.priors = Priors.of(model.config.priors, model.config.pixels.size, dtype, self.device)
        numerics = recipe.loss.matching.numerics
        self.anchors = Anchors.of(model.config.priors, model.config.pixels.size, numerics, self.device)
        self.net: nn.Module = model
        if self.place.world > 1:
            ids: Any = [self.device] if self.device.type == "cuda" else None
            self.net = nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)

    def gradients(self, batch: Batch) -> Terms:
        """Forward and backward; the gradients are those of the whole batch's loss on every process."""
        pixels = batch.images.to(self.device, non_blocking=True)
        if pixels.shape[-1] == 3 and pixels.shape[1] != 3:  # raw images
            pixels = network_input(pixels, self.model.config.pixels)
        dtype = self.priors.corners.dtype
        pixels = pixels.to(dtype, memory_format=torch.channels_last)
        targets = batch.targets.to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            loc, conf = self.net(pixels)
        loss = multibox_loss(
            loc.to(dtype), conf.to(dtype), self.priors, targets, self.recipe.loss, self.place, self.anchors
        )
        (loss.total * self.place.world).backward()  # type: ignore[no-untyped-call]  # the processes' gradients are averaged
        shares = self.place.total(torch.stack([loss.loc.detach(), loss.conf.detach()]))
        numbers: list[float] = torch.cat([shares, torch.stack([loss.positives, loss.negatives]).to(dtype)]).tolist()
        return Terms(numbers[0], numbers[1], int(numbers[2]), int(numbers[3]))

    def __call__(self, batch: Batch) -> Terms:
        """The whole step. Nothing is updated when the loss is not finite."""
        terms = self.gradients(batch)
        if terms.finite:
            self.optimizer.step()
        return terms


@torch.no_grad()
def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity."""
    floats = {name: t for name, t in tensors.items() if t.is_floating_point()}
    return [name for name, t in floats.items() if not bool(torch.isfinite(t).all())]
