"""Boxes under augmentation: overlaps, centres, mirroring; all of an image's objects at once.

Boxes are (g, 4) float64 xyxy, in pixels or in fractions as the caller says.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def iou(windows: Floats, boxes: Floats, extra: float = 0.0) -> Floats:
    """(t, g) IoU of windows and boxes; 0 where both are empty.

    Args:
        windows, boxes: xyxy in the same unit.
        extra: added to every side (1 for corners that name pixels inside).
    """
    low = np.maximum(windows[:, None, :2], boxes[None, :, :2])
    high = np.minimum(windows[:, None, 2:], boxes[None, :, 2:])
    both = np.prod(np.maximum(high - low + extra, 0.0), axis=2)
    first, second = (np.prod(b[:, 2:] - b[:, :2] + extra, axis=1) for b in (windows, boxes))
    union = first[:, None] + second[None, :] - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=union > 0))


def centre_inside(windows: Floats, boxes: Floats, edge: Literal["closed", "half_open", "open"]) -> Bools:
    """(t, g): whether each box's centre lies in each window; ``edge`` says what counts on the window's border."""
    centre = (boxes[None, :, :2] + boxes[None, :, 2:]) / 2
    low, high = windows[:, None, :2], windows[:, None, 2:]
    if edge == "open":
        inside = (low < centre) & (centre < high)
    elif edge == "half_open":
        inside = (low <= centre) & (centre < high)
    else:
        inside = (low <= centre) & (centre <= high)
    return np.asarray(inside.all(axis=2))


def cut(boxes: Floats, frame: Floats) -> Floats:
    """Boxes relative to a frame (4,) xyxy and limited to it."""
    return np.clip(boxes - np.tile(frame[:2], 2), 0.0, np.tile(frame[2:] - frame[:2], 2))


def mirror(boxes: Floats, width: float) -> Floats:
    """Boxes mirrored left to right in an image ``width`` wide."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
