"""Detections of one image, and the row form that Caffe's DetectionOutput layer writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best score first; equal scores by class, then by prior.

    Attributes:
        boxes: (n, 4) xmin, ymin, xmax, ymax; fractions of the image as ``detect`` returns them, pixels after
            ``scaled``.
        labels: (n,) int64, the channel of conf (0 is background where there is one, so it never appears then).
        scores: (n,) after softmax or sigmoid.
        priors: (n,) int64, the prior that each box was decoded from.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    priors: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def scaled(self, width: float, height: float) -> Detections:
        """The same detections with boxes multiplied by the image's width and height: pixels of that image."""
        return Detections(
            self.boxes * self.boxes.new_tensor([width, height, width, height]), self.labels, self.scores, self.priors
        )

    def above(self, threshold: float) -> Detections:
        """The detections whose score is above a threshold."""
        chosen = self.scores > threshold
        return Detections(self.boxes[chosen], self.labels[chosen], self.scores[chosen], self.priors[chosen])

    def cpu(self) -> Detections:
        """The same detections in main memory."""
        return Detections(self.boxes.cpu(), self.labels.cpu(), self.scores.cpu(), self.priors.cpu())

    def numpy(self) -> dict[str, npt.NDArray[Any]]:
        """Boxes, labels, scores and priors as NumPy arrays under these names."""
        return {
            "boxes": self.boxes.detach().cpu().numpy(),
            "labels": self.labels.cpu().numpy(),
            "scores": self.scores.detach().cpu().numpy(),
            "priors": self.priors.cpu().numpy(),
        }

    def to_json(self, class_names: Sequence[str] = ()) -> list[dict[str, Any]]:
        """One JSON-ready dict per detection: label, name (when names are given), score, box."""
        rows: list[dict[str, Any]] = []
        for box, label, score in zip(self.boxes.tolist(), self.labels.tolist(), self.scores.tolist(), strict=True):
            name = {"name": class_names[label]} if class_names else {}
            rows.append({"label": label, **name, "score": score, "box": box})
        return rows


def caffe_rows(detections: Sequence[Detections]) -> npt.NDArray[np.float32]:
    """Detections of a batch as Caffe's DetectionOutput writes them.

    Returns:
        (n, 7) float32 rows (item, label, score, xmin, ymin, xmax, ymax): by item, then label, then best first. When
        no image has any, one row (item, -1, -1, -1, -1, -1, -1) per image.
    """
    if not any(len(found) for found in detections):
        rows = torch.full((len(detections), 7), -1.0)
        rows[:, 0] = torch.arange(len(detections))
        return rows.numpy()
    parts = []
    for item, found in enumerate(detections):
        order = found.labels.argsort(stable=True)
        columns = torch.cat([found.labels[:, None], found.scores[:, None], found.boxes], 1)[order]
        parts.append(torch.nn.functional.pad(columns.float().cpu(), (1, 0), value=item))
    return torch.cat(parts).numpy()
