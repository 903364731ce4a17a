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
    wx0, wy0, wx1, wy1 = windows.T[:, :, None]
    bx0, by0, bx1, by1 = boxes.T[:, None, :]
    across = np.maximum(np.minimum(wx1, bx1) - np.maximum(wx0, bx0) + extra, 0.0)
    both = across * np.maximum(np.minimum(wy1, by1) - np.maximum(wy0, by0) + extra, 0.0)
    union = (wx1 - wx0 + extra) * (wy1 - wy0 + extra) + (bx1 - bx0 + extra) * (by1 - by0 + extra) - both
    return np.asarray(both / np.where(union > 0, union, 1.0))


def centre_inside(windows: Floats, boxes: Floats, edge: Literal["closed", "half_open", "open"]) -> Bools:
    """(t, g): whether each box's centre lies in each window; ``edge`` says what counts on the window's border."""
    x0, y0, x1, y1 = windows.T[:, :, None]
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    if edge == "open":
        return np.asarray((x0 < x) & (x < x1) & (y0 < y) & (y < y1))
    if edge == "half_open":
        return np.asarray((x0 <= x) & (x < x1) & (y0 <= y) & (y < y1))
    return np.asarray((x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1))


def cut(boxes: Floats, frame: Floats, clip: bool = True) -> Floats:
    """Boxes relative to a frame (4,) xyxy and, with ``clip``, limited to it."""
    moved = boxes - np.tile(frame[:2], 2)
    return np.clip(moved, 0.0, np.tile(frame[2:] - frame[:2], 2)) if clip else moved


def mirror(boxes: Floats, width: float) -> Floats:
    """Boxes mirrored left to right in an image ``width`` wide."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
