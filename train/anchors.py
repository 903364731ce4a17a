"""The priors as a source's trainer computes them, to match objects with: the same to the last bit.

A network's own priors (``ssd_ref.priors``) are Caffe's: float32 centres, one rounding at the end. Other projects compute them
in double precision, in pixels or fractions, in another order of operations, which moves corners by units in the last place,
and with them the priors that lie at the threshold or tie for an object.

A cell's sides are known as widths and heights; the trainers compute them from a size, the next size and aspect ratios. These
are recovered as decimal numbers, and counted only where they give the sides back to float32's last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssdconv.ssd_ref.boxes import to_centers, to_corners
from ssdconv.ssd_ref.config import PriorMap
from ssdconv.ssd_ref.loss_rule import Numerics
from ssdconv.ssd_ref.priors import prior_boxes, prior_corners

IN_PIXELS = ("chainer", "gluon")
"""Arithmetics whose priors are pixels of the network's input; the others' are fractions of the image."""

_F64 = npt.NDArray[np.float64]
_Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Anchors:
    """Priors ready to be matched.

    Attributes:
        corners: (P, 4) xmin, ymin, xmax, ymax in the numerics' unit and dtype, in the reference's order.
        centers: (P, 4) float64 cx, cy, w, h as the source has them, fractions, to encode offsets with; None where only the
            corners are known.
        scale: (4,) float64: width, height, width, height of the image in that unit.
        order: (P,) the source's order: index of its i-th prior; None where it is the reference's.
        numerics: see ``rules.Numerics``.
    """

    corners: Tensor
    centers: Tensor | None
    scale: Tensor
    order: Tensor | None
    numerics: Numerics

    @classmethod
    def of(
        cls,
        maps: Sequence[PriorMap],
        image_size: tuple[int, int],
        numerics: Numerics,
        device: torch.device | str | None = None,
    ) -> Anchors:
        """Priors of a network; equal arguments give the same object, so do not write to it."""
        return _cached(tuple(maps), tuple(image_size), numerics, torch.device(device or "cpu"))

    @classmethod
    def given(cls, corners: Tensor, numerics: Numerics | None = None, size: tuple[float, float] = (1, 1)) -> Anchors:
        """Corners (P, 4) that are known already, in the numerics' unit; ``size`` is the image's height and width in it."""
        numerics = numerics or Numerics()
        height, width = size
        scale = torch.tensor([width, height, width, height], dtype=torch.float64, device=corners.device)
        return cls(corners.to(getattr(torch, numerics.dtype)), None, scale, None, numerics)

    def overlaps(self, boxes: Tensor) -> Tensor:
        """IoU of every prior with every object.

        Args:
            boxes: (..., G, 4) corner form, fractions of the image, float64.

        Returns:
            (..., P, G) in the numerics' dtype; 0 where an intersection has no area.
        """
        priors, objects = self.corners, boxes.to(torch.float64) * self.scale
        if self.numerics.form == "centers":
            objects = to_corners(to_centers(objects))
        narrow = objects.to(getattr(torch, self.numerics.object_areas or self.numerics.dtype))
        sides = (narrow[..., 2:] - narrow[..., :2]).clamp(min=0)
        return _iou(priors, narrow.to(priors.dtype), (sides[..., 0] * sides[..., 1]).to(priors.dtype))


def _iou(priors: Tensor, objects: Tensor, areas: Tensor) -> Tensor:
    ax0, ay0, ax1, ay1 = (priors[..., i].unsqueeze(-1) for i in range(4))
    bx0, by0, bx1, by1 = (objects[..., i].unsqueeze(-2) for i in range(4))
    inter = (torch.minimum(ax1, bx1).sub_(torch.maximum(ax0, bx0))).clamp_(min=0)
    inter *= (torch.minimum(ay1, by1).sub_(torch.maximum(ay0, by0))).clamp_(min=0)
    own = (ax1 - ax0).clamp(min=0) * (ay1 - ay0).clamp(min=0)
    union = (own + areas.unsqueeze(-2)).sub_(inter)
    return torch.where(inter > 0, inter / union, torch.zeros((), dtype=inter.dtype, device=inter.device))


@lru_cache(maxsize=16)
def _cached(
    maps: tuple[PriorMap, ...], image_size: tuple[int, int], numerics: Numerics, device: torch.device
) -> Anchors:
    height, width = image_size
    size = np.array([width, height, width, height], np.float64)
    unit = size if numerics.units == "pixels" else np.ones(4)
    with torch.inference_mode(False):
        natural = size if numerics.priors in IN_PIXELS else np.ones(4)
        parts = [_priors(entry, image_size, numerics.priors, natural) for entry in maps]
        corners, centers = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        if not np.array_equal(natural, unit):  # another unit than the arithmetic's own
            corners = corners.astype(np.float64) / natural * unit
        order = _order(maps, numerics.cell_order)
        return Anchors(
            torch.from_numpy(corners.astype(numerics.dtype)).to(device),
            torch.from_numpy(centers.astype(np.float64) / natural).to(device),
            torch.from_numpy(unit).to(device),
            None if order is None else torch.from_numpy(order).to(device),
            numerics,
        )


def _order(maps: Sequence[PriorMap], kind: str) -> npt.NDArray[np.int64] | None:
    if kind == "reference":
        return None
    parts, start = [], 0
    for entry in maps:
        n = len(entry.cells)
        cell = [1, 0] if kind == "middle_first" else [0, 1]
        cell = [*cell, *range(2, n, 2), *range(3, n, 2)] if n > 2 else list(range(n))
        places = np.arange(start, start + entry.count).reshape(-1, n)
        parts.append(places[:, cell].reshape(-1))
        start += entry.count
    return np.concatenate(parts)


def _priors(entry: PriorMap, image_size: tuple[int, int], kind: str, unit: _F64) -> tuple[_Array, _Array]:
    """(P, 4) corners and (P, 4) centre form of one map by a project's arithmetic, in its unit.

    Maps that refer to another image, or are clipped in a way that only their own source has, are the network's own.
    """
    if kind == "caffe" or entry.image is not None or entry.clip == "pixels":
        own = prior_corners((entry,), image_size), prior_boxes((entry,), image_size)
        return own[0].double().numpy() * unit, own[1].double().numpy() * unit
    height, width = image_size
    rows, columns = entry.grid
    first_y, first_x = entry.offsets
    y, x = np.arange(rows) + first_y, np.arange(columns) + first_x
    step_y, step_x = entry.step
    if kind == "ssd.pytorch":  # fractions, rounded to float32 once
        centers = _grid(x / (width / step_x), y / (height / step_y), _sides(entry, image_size))
        return _both(entry, centers.astype(np.float32), 1.0, 1.0)
    if kind == "simple-ssd":  # fractions
        return _both(entry, _grid(x * (step_x / width), y * (step_y / height), _sides(entry, image_size)), 1.0, 1.0)
    if kind == "chainer":  # pixels
        return _both(entry, _grid(x * step_x, y * step_y, _sides(entry)), width, height)
    if kind == "gluon":  # pixels in double precision, kept as float32
        centers = _grid(x * step_x, y * step_y, np.asarray(entry.cells, np.float64))
        return _both(entry, centers.astype(np.float32), width, height)
    size = np.array([width, height, width, height], np.float64)
    if kind == "ssd_keras":  # the larger square is the root of fractions, times the image's side
        shorter = min(image_size)
        y = np.linspace(first_y * step_y, (first_y + rows - 1) * step_y, rows)
        x = np.linspace(first_x * step_x, (first_x + columns - 1) * step_x, columns)
        sides = _sides(entry, (shorter, shorter), shorter, upright=False)
        centers = _centers(_both(entry, _grid(x, y, sides), width, height)[0] / size)
        return _to_corners(centers), centers
    if kind == "jedol":  # sides in float32 around the centre, centres in float64
        sides = _sides(entry, upright=False)
        around = np.stack([-sides[:, 0] / 2, -sides[:, 1] / 2, sides[:, 0] / 2, sides[:, 1] / 2], 1).astype(np.float32)
        middle = np.stack(np.broadcast_arrays((x * step_x)[None], (y * step_y)[:, None]) * 2, -1)
        corners = ((around + middle[:, :, None]) / size).reshape(-1, 4)
        return corners, _centers(corners)
    single = np.float32  # hikapok: all of it
    y = (np.arange(rows, dtype=single) + single(first_y)) * single(step_y) / single(height)
    x = (np.arange(columns, dtype=single) + single(first_x)) * single(step_x) / single(width)
    sides = (np.asarray(entry.cells) / (width, height)).astype(single)
    corners = _both(entry, _grid(x, y, sides).astype(single), 1.0, 1.0)[0]
    extent = corners[:, 2:] - corners[:, :2]
    return corners, np.concatenate([corners[:, :2] + extent / 2, extent], 1)


def _both(entry: PriorMap, centers: _Array, width: float, height: float) -> tuple[_Array, _Array]:
    """Corners and centres, clipped to the image where the network's priors are."""
    limits = np.array([width, height, width, height], centers.dtype)
    if entry.clip == "centers":
        centers = np.clip(centers, 0, limits)
    corners = _to_corners(centers)
    if entry.clip == "corners":
        corners = np.clip(corners, 0, limits)
        centers = _centers(corners)
    return corners, centers


def _grid(x: _Array, y: _Array, sides: _Array) -> _Array:
    """(P, 4) centre form of every cell."""
    out = np.empty((len(y), len(x), len(sides), 4), np.result_type(x, sides))
    out[..., 0], out[..., 1] = x[None, :, None], y[:, None, None]
    out[..., 2:] = sides
    return out.reshape(-1, 4)


def _to_corners(centers: _Array) -> _Array:
    half = centers[:, 2:] / 2
    return np.concatenate([centers[:, :2] - half, centers[:, :2] + half], 1)


def _centers(corners: _Array) -> _Array:
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)


def _sides(
    entry: PriorMap, image_size: tuple[float, float] = (1.0, 1.0), times: float = 1.0, upright: bool = True
) -> _F64:
    """(cells, 2) widths and heights.

    Args:
        image_size: sizes are divided by it before anything else is done with them.
        times: sides are multiplied by it before aspect ratios come in.
        upright: a ratio below 1 is its inverse with the sides exchanged; else its own root is taken.
    """
    height, width = image_size
    plain = np.asarray(entry.cells, np.float64) / (width, height) * times
    if height != width:
        return plain
    size, larger, ratios = _shape(entry.cells)
    low, high = size / width, larger / width
    named = [(low * times,) * 2, (sqrt(low * high) * times,) * 2][: len(plain)]
    low *= times
    for ratio in ratios:
        if ratio < 1 and upright:
            root = sqrt(round(1 / ratio, 3))
            named.append((low / root, low * root))
        else:
            named.append((low * sqrt(ratio), low / sqrt(ratio)))
    found = np.asarray(named, np.float64)
    return found if np.allclose(found, plain, rtol=2e-7, atol=0) else plain


def _shape(cells: Sequence[tuple[float, float]]) -> tuple[float, float, list[float]]:
    """Size, next size and aspect ratios of the priors of a cell, as decimal numbers."""
    side = cells[0][0]
    larger = cells[1][0] ** 2 / side if len(cells) > 1 else side
    return round(side, 3), round(larger, 3), [round(w / h, 3) if w > h else 1 / round(h / w, 3) for w, h in cells[2:]]
