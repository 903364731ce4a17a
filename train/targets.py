"""Ground truth of a batch as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """Objects of N images, padded to the largest count G.

    Attributes:
        boxes: (N, G, 4) float64 xmin, ymin, xmax, ymax, fractions of the image; matching rounds them as its source does.
        labels: (N, G) int64, conf channel (background is 0, so objects start at 1).
        valid: (N, G) bool; False for padding and for objects that a recipe leaves out.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor

    @classmethod
    def pad(cls, boxes: Sequence[Tensor], labels: Sequence[Tensor], keep: Sequence[Tensor] | None = None) -> Targets:
        """Stack per-image objects: boxes (g_i, 4), labels (g_i,), and which of them count (default all)."""
        most = max((len(b) for b in boxes), default=0)
        shape = (len(boxes), most)
        padded = torch.zeros(*shape, 4, dtype=torch.float64)
        names = torch.zeros(shape, dtype=torch.int64)
        valid = torch.zeros(shape, dtype=torch.bool)
        for index, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            padded[index, : len(box)] = box
            names[index, : len(box)] = label
            valid[index, : len(box)] = True if keep is None else keep[index]
        return cls(padded, names, valid)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Targets:
        """The same targets on another device, boxes in another dtype."""
        return Targets(
            self.boxes.to(device, dtype, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.valid.to(device, non_blocking=True),
        )
