"""What rounding of box coordinates does to sizes and overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def unit(boxes: Array) -> Array:
    """(..., 4) xyxy -> (...) what a coordinate's rounding is in proportion to: the larger side or coordinate, at least 1."""
    side = np.abs(boxes[..., 2:] - boxes[..., :2]).max(axis=-1, initial=0.0)
    larger: Array = np.maximum(np.maximum(side, np.abs(boxes).max(axis=-1, initial=0.0)), 1.0)
    return larger


def iou_range(box: Array, boxes: Array, tolerance: float) -> tuple[Array, Array]:
    """Smallest and largest IoU of one box with (n, 4) others when every coordinate may be off by its tolerance."""
    box, boxes = box.astype(np.float64)[None], boxes.astype(np.float64)
    step = tolerance * np.maximum(unit(boxes), unit(box))[:, None]
    inner = np.minimum(box[:, 2:], boxes[:, 2:]) - np.maximum(box[:, :2], boxes[:, :2])
    sides, others = box[:, 2:] - box[:, :2], boxes[:, 2:] - boxes[:, :2]
    least, most = area_of(inner - 2 * step), area_of(inner + 2 * step)
    small = area_of(sides - 2 * step) + area_of(others - 2 * step)
    large = area_of(sides + 2 * step) + area_of(others + 2 * step)
    tiny = np.finfo(np.float64).tiny
    return least / np.maximum(large - least, tiny), most / np.maximum(np.maximum(small - most, most), tiny)


def area_of(sides: Array) -> Array:
    """(n, 2) widths and heights -> (n,) areas, negative sides as 0."""
    area: Array = np.maximum(sides, 0.0).prod(axis=1)
    return area
