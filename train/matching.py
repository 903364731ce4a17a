"""Which prior is responsible for which object: bipartite matching, then every prior with enough overlap.

Overlaps are those of the priors as a source's trainer computes them, to the last bit. A network's own priors
(``ssd_ref.priors``) are Caffe's: float32 centres, one rounding at the end. Other projects compute them in double precision, in
pixels or fractions, in another order of operations, which moves corners by units in the last place, and with them the priors
that lie at the threshold or tie for an object. A cell's sides are known as widths and heights; the trainers compute them from a
size, the next size and aspect ratios. These are recovered as decimal numbers, and counted only where they give the sides back to
float32's last bit.

Matching is batched on the device of its inputs, without a loop over images, objects or priors. The greedy bipartite step (best
pair of all first, then the best pair of what is left, …; caffe/src/caffe/util/bbox_util.cpp ``MatchBBox``, the same rule in
ChainerCV's ``MultiboxCoder.encode`` and MXNet's ``bipartite_matching``) is done in rounds: all pairs that are the best of
their object and of their prior at once are matched together, which gives the greedy result because such pairs cannot
take each other's place. A handful of rounds settles any image.
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
from ssdconv.ssd_ref.loss_rule import MatchRule, Numerics
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
        n = len(entry.box_sizes)
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
        centers = _grid(x * step_x, y * step_y, np.asarray(entry.box_sizes, np.float64))
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
    sides = (np.asarray(entry.box_sizes) / (width, height)).astype(single)
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
    plain = np.asarray(entry.box_sizes, np.float64) / (width, height) * times
    if height != width:
        return plain
    size, larger, ratios = _shape(entry.box_sizes)
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


IGNORED = -2
"""In ``Matches.object``: neither matched nor a negative."""


@dataclass(frozen=True)
class Matches:
    """Result of matching.

    Attributes:
        object: (N, P) int64, index of the matched object, -1 for none, -2 for priors that are left out.
        overlap: (N, P) best IoU of each prior with any object, 0 where the image has none.
    """

    object: Tensor
    overlap: Tensor

    @property
    def positive(self) -> Tensor:
        """(N, P) bool: priors with an object."""
        return self.object >= 0


@torch.no_grad()
def match(anchors: Anchors, targets: Targets, rule: MatchRule, boxes: Tensor | None = None) -> Matches:
    """Match the priors of each image.

    Args:
        anchors: the network's priors by the rule's arithmetic.
        targets: objects of N images.
        rule: of the recipe.
        boxes: (N, P, 4) corner form, to be matched instead of the priors.
    """
    if boxes is not None:
        anchors = Anchors.given(boxes, rule.numerics)
    corners = anchors.corners
    count, priors = len(targets.valid), corners.shape[-2]
    matched = torch.full((count, priors), -1, dtype=torch.int64, device=corners.device)
    if targets.valid.shape[1] == 0 or priors == 0:
        return Matches(matched, torch.zeros(matched.shape, dtype=corners.dtype, device=corners.device))
    iou = anchors.overlaps(targets.boxes)
    if anchors.order is not None:  # the first of equal priors is looked for in the source's order
        iou = iou[:, anchors.order]
    iou = torch.where(targets.valid[:, None, :], iou, -1.0)
    if rule.inside_only:
        outside = ((corners < 0) | (corners > 1)).any(-1).expand(count, priors) & targets.valid.any(1)[:, None]
        iou = torch.where(outside[..., None], 0.0, iou)
    overlap, best = iou.max(dim=2)
    if rule.forced == "greedy":
        matched = _greedy(iou.clone(), matched, rule.least)
    elif rule.forced != "none":
        matched = _per_object(iou, targets.valid, matched, rule)
    if rule.ties != "none":
        shared = (iou.gather(2, best[..., None])[..., 0] >= iou.amax(dim=1).gather(1, best)) & (overlap >= 0)
        if rule.ties == "overlapping":
            shared &= overlap > 0
        matched = torch.where((matched < 0) & shared, best, matched)
    if rule.threshold is not None:
        matched = torch.where((matched < 0) & (overlap >= rule.threshold), best, matched)
    if rule.inside_only:
        matched = torch.where(outside, IGNORED, matched)
    overlap = overlap.clamp_min(0.0)
    if anchors.order is not None:
        place = torch.empty_like(anchors.order)
        place[anchors.order] = torch.arange(priors, device=place.device)
        matched, overlap = matched[:, place], overlap[:, place]
    return Matches(matched, overlap)


def _greedy(iou: Tensor, matched: Tensor, least: float) -> Tensor:
    """(N, P, G) IoU, which is used up, and (N, P) -1 -> (N, P) matched objects. Ties: first prior, then first object."""
    objects = torch.arange(iou.shape[2], device=iou.device)
    while True:
        value, prior = iou.max(dim=1)  # best prior of each object: (N, G)
        rows = iou.gather(1, prior[:, :, None].expand(-1, -1, iou.shape[2]))  # (N, G, G): that prior's IoUs
        mutual = (rows.argmax(dim=2) == objects) & (value > least)
        if not bool(mutual.any()):
            return matched
        image, chosen = mutual.nonzero(as_tuple=True)
        taken = prior[image, chosen]
        matched[image, taken] = chosen
        iou[image, taken, :] = -1.0
        iou[image, :, chosen] = -1.0


def _per_object(iou: Tensor, valid: Tensor, matched: Tensor, rule: MatchRule) -> Tensor:
    """The best prior of each object; the rule says which object keeps a prior that several want."""
    overlap, prior = iou.max(dim=1)  # (N, G)
    index = torch.arange(iou.shape[2], device=iou.device).expand_as(prior)
    order, rank = index, index
    if rule.equal == "numpy_argsort":
        prior, order = _by_argsort(iou, valid)
        rank = torch.empty_like(order).scatter_(1, order, index)
    elif rule.forced != "per_object":  # rank objects by overlap, the one to keep last, then the largest rank wins
        key, least = torch.where(valid, overlap, -torch.inf), rule.forced == "per_object_least"
        order = key.argsort(dim=1, descending=True, stable=True)  # the first of equal ones first
        order = order if least else order.flip(1)
        rank = torch.empty_like(order).scatter_(1, order, index)
    rank = torch.where(valid, rank, -1)
    won = torch.full_like(matched, -1).scatter_reduce(1, prior, rank, "amax", include_self=True)
    return torch.where(won < 0, matched, order.gather(1, won.clamp_min(0)))


def _by_argsort(iou: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """jedol's order: all pairs by numpy's default sort, backwards; each object takes the first pair that it comes to.

    That sort is not stable, and where the processor has vectors for it, newer numpy sorts doubles otherwise than numpy 1.16
    did. Long doubles are sorted by the old code everywhere.

    Returns:
        (N, G) prior of each object, and (N, G) objects in the order in which they came, those that do not count last.
    """
    count, _, objects = iou.shape
    priors, orders = np.zeros((count, objects), np.int64), np.zeros((count, objects), np.int64)
    for image in range(count):
        real = valid[image].nonzero()[:, 0].cpu().numpy()
        rest = [g for g in range(objects) if g not in set(real.tolist())]
        table = iou[image].cpu().numpy()[:, real]
        pairs = np.argsort(table.ravel().astype(np.longdouble))[::-1]
        columns = pairs % max(len(real), 1)
        _, first = np.unique(columns, return_index=True)
        priors[image, real] = pairs[first] // max(len(real), 1)
        orders[image] = [*real[np.argsort(first, kind="stable")], *rest]
    return torch.from_numpy(priors).to(iou.device), torch.from_numpy(orders).to(iou.device)
