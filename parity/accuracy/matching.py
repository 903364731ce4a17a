"""Matching for both metrics: detections paired with the objects of their image and class without a loop over either, and
what is left of it: per class the detections in order of score, each true, false or ignored; curves and AP from that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssdconv.parity.accuracy.detections import Bools, Floats, Ints

TRUE, FALSE, IGNORED = 1, 0, -1
RECALLS_11: Floats = np.arange(0.0, 1.1, 0.1)
"""0, 0.1, ... 1 as numpy's arange has them (0.30000000000000004 is the fourth), like the Python evaluators."""


@dataclass(frozen=True, eq=False)
class MatchTable:
    """One class (at one overlap threshold).

    Attributes:
        scores: (n,) float64, descending.
        image: (n,) int64, index of the image.
        status: (n,) int8: TRUE, FALSE or IGNORED.
        positives: (images,) int64, objects to be found per image.
    """

    scores: Floats
    image: Ints
    status: NDArray[np.int8]
    positives: Ints

    @property
    def npos(self) -> int:
        """Objects to be found."""
        return int(self.positives.sum())

    @property
    def true_positives(self) -> int:
        """Objects found, at the lowest score."""
        return int((self.status == TRUE).sum())


def curve(table: MatchTable) -> tuple[Floats, Floats]:
    """(recall, precision), each (n,), after every detection; precision is 0 until the first that counts."""
    true = np.cumsum(table.status == TRUE, dtype=np.float64)
    false = np.cumsum(table.status == FALSE, dtype=np.float64)
    recall = true / table.npos if table.npos else np.full(len(true), np.nan)
    return recall, true / np.maximum(true + false, 1.0)


def ap_11point(recall: Floats, precision: Floats) -> float:
    """VOC2007: sum over recalls 0, 0.1, ... 1 of the best precision at that recall or beyond, each divided by 11."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    total = 0.0
    for start in np.searchsorted(recall, RECALLS_11, side="left").tolist():
        total += (float(best[start]) if start < len(best) else 0.0) / 11.0
    return total


def ap_area(recall: Floats, precision: Floats) -> float:
    """VOC2010 and later: area under the monotonically decreasing envelope of the curve."""
    steps = np.concatenate([[0.0], recall, [1.0]])
    envelope = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    where = np.flatnonzero(steps[1:] != steps[:-1])
    return float(np.sum((steps[where + 1] - steps[where]) * envelope[where + 1]))


def average_precision(table: MatchTable, kind: str) -> float:
    """AP of one class, 0..1, by ``kind`` "11point" or "area"; NaN where there is nothing to be found."""
    if not table.npos:
        return float("nan")
    recall, precision = curve(table)
    return ap_11point(recall, precision) if kind == "11point" else ap_area(recall, precision)


def mean_ap(values: Sequence[float]) -> float:
    """Mean over the classes that have objects; NaN if none has."""
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else float("nan")


@dataclass(frozen=True, eq=False)
class Pairs:
    """All (detection, object) pairs, grouped by detection.

    Attributes:
        owner: (m,) int64: detections that have at least one object in their image and class, ascending.
        start: (m,) int64: where each owner's pairs begin.
        count: (m,) int64: how many it has.
        detection, object: (pairs,) int64: indices of both sides; an owner's objects are in annotation order.
    """

    owner: Ints
    start: Ints
    count: Ints
    detection: Ints
    object: Ints


def pair_up(det_group: Ints, gt_group: Ints, groups: int) -> Pairs:
    """Pair every detection with every object of its group (group = class x image)."""
    order = np.argsort(gt_group, kind="stable")
    ends = np.cumsum(np.bincount(gt_group, minlength=groups))
    sizes = np.diff(ends, prepend=0)
    owner = np.flatnonzero(sizes[det_group])
    group = det_group[owner]
    count = sizes[group]
    start = np.cumsum(count) - count
    within = np.arange(int(count.sum()), dtype=np.int64) - np.repeat(start, count)
    objects = order[np.repeat(ends[group] - count, count) + within]
    return Pairs(owner, start, count, np.repeat(owner, count), objects)


def box_overlaps(a: Floats, b: Floats, extra: float) -> Floats:
    """Intersection over union of (n, 4) xyxy boxes, row by row; 0 where the union is empty.

    Args:
        extra: added to every side: 1.0 for inclusive corners, else 0.0.
    """
    ax1, ay1, ax2, ay2 = a.T
    bx1, by1, bx2, by2 = b.T
    width = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1) + extra, 0.0)
    height = np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1) + extra, 0.0)
    shared = width * height
    union = (ax2 - ax1 + extra) * (ay2 - ay1 + extra) + (bx2 - bx1 + extra) * (by2 - by1 + extra) - shared
    result: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result


def first_best(pairs: Pairs, overlap: Floats) -> tuple[Floats, Ints]:
    """Per owner: its best overlap, and the first object that has it."""
    best = np.maximum.reduceat(overlap, pairs.start)
    hits = np.flatnonzero(overlap == np.repeat(best, pairs.count))
    place = np.searchsorted(hits, pairs.start)
    return best, pairs.object[hits[place]]


def first_claims(objects: Ints, count: int) -> Bools:
    """True for the first row that names each object; objects are numbered below ``count``."""
    rows = np.arange(len(objects))
    first = np.empty(count, np.int64)
    first[objects[::-1]] = rows[::-1]  # of repeated indices numpy keeps the last assignment
    result: Bools = first[objects] == rows
    return result
