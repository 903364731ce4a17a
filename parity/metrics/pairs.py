"""Ragged pairing of detections with the objects of the same image and class, without a loop over either."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssdconv.parity.metrics.detections import Bools, Floats, Ints


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


def overlaps(a: Floats, b: Floats, extra: float) -> Floats:
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
