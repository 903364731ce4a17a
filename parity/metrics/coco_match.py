"""COCO's matching as match tables (area "all", 100 detections), vectorised, for resampling, curves and worst images.

The rule (pycocotools, cocoeval.py): per image, category and threshold, in order of score, a detection takes the free
object it overlaps best, if the overlap reaches the threshold; of equal ones the last. Crowds are never used up, come
second to any free ordinary object, and what matches them is ignored; the overlap with a crowd is intersection over the
detection's own area. Since an object's being free depends on the detections before, all groups advance together, one
rank at a time: at most 100 steps for a whole data set.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ssdconv.parity.metrics.detections import Detections, Floats, Ints
from ssdconv.parity.metrics.matches import FALSE, IGNORED, TRUE, MatchTable
from ssdconv.parity.metrics.pairs import Pairs, pair_up
from ssdconv.parity.metrics.truth import Truth

THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
PER_GROUP = 100
_LIMIT = 1e10  # COCO's area range "all" ends at (1e5)^2


def _overlaps(det: Floats, gt: Floats, crowd: np.ndarray) -> Floats:
    """Rows of xywh boxes: IoU, or intersection over the detection's area for crowds."""
    ax, ay, aw, ah = det.T
    bx, by, bw, bh = gt.T
    width = np.minimum(ax + aw, bx + bw) - np.maximum(ax, bx)
    height = np.minimum(ay + ah, by + bh) - np.maximum(ay, by)
    shared = np.where((width > 0) & (height > 0), width * height, 0.0)
    own = aw * ah
    union = np.where(crowd, own, own + bw * bh - shared)
    result: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result


def _steps(pairs: Pairs, rank: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Owners (positions in ``pairs.owner``) by rank within their group."""
    order = np.argsort(rank[pairs.owner], kind="stable")
    ranks = rank[pairs.owner][order]
    edges = np.flatnonzero(np.diff(ranks, prepend=-1, append=ranks[-1] + 1 if len(ranks) else 0))
    return [(order[a:b], ranks[a:b]) for a, b in pairwise(edges.tolist())]


def match_coco(truth: Truth, detections: Detections) -> tuple[list[tuple[MatchTable, ...]], Ints]:
    """Per IoU threshold, one table per category; and the rows of the detections in the order of the joined tables.

    Args:
        truth: boxes x, y, x+w, y+h (a set of origin 0).
        detections: aligned with ``truth``.
    """
    images, classes = len(truth.image_ids), len(truth.classes)
    groups = images * classes
    group = detections.labels * images + detections.image
    order = np.lexsort((-detections.scores, group))
    rank = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    order, rank = order[rank < PER_GROUP], rank[rank < PER_GROUP]
    group = group[order]
    corners = detections.boxes[order]
    det = (
        detections.xywh[order]
        if detections.xywh is not None
        else np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    )
    gt = np.hstack([truth.boxes[:, :2], truth.boxes[:, 2:] - truth.boxes[:, :2]])
    spare = truth.crowd | (truth.area > _LIMIT)
    gt_group = truth.labels * images + truth.image
    pairs = pair_up(group, gt_group, groups)
    count, status = len(THRESHOLDS), np.full((len(THRESHOLDS), len(order)), FALSE, np.int8)
    status[:, det[:, 2] * det[:, 3] > _LIMIT] = IGNORED
    overlap = _overlaps(det[pairs.detection], gt[pairs.object], truth.crowd[pairs.object])
    needed = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    free = np.ones((count, len(gt)), np.bool_)
    for owners, _ in _steps(pairs, rank):
        sizes = pairs.count[owners]
        starts = np.cumsum(sizes) - sizes
        rows = np.arange(int(sizes.sum())) + np.repeat(pairs.start[owners] - starts, sizes)
        objects, value = pairs.object[rows], overlap[rows]
        crowd = truth.crowd[objects]
        reaches = (value >= needed) & (free[:, objects] | crowd)
        # ordinary objects first: lift them above every crowd (overlaps are at most 1)
        lifted = np.where(reaches, value + np.where(spare[objects], 0.0, 2.0), -1.0)
        best = np.maximum.reduceat(lifted, starts, axis=1)
        at = np.where(lifted == np.repeat(best, sizes, axis=1), np.arange(len(rows)), -1)
        chosen = objects[np.maximum.reduceat(at, starts, axis=1)]
        hit = best >= 0
        outcome = np.where(spare[chosen], IGNORED, TRUE).astype(np.int8)
        columns = pairs.owner[owners]
        status[:, columns] = np.where(hit, outcome, status[:, columns])
        level, place = np.nonzero(hit)
        free[level, chosen[level, place]] = False
    positives = np.bincount(gt_group[~spare], minlength=groups).reshape(classes, images).astype(np.int64)
    label, image, score = group // images, group % images, detections.scores[order]
    # within a category COCO joins the images in ascending id, then sorts by score, ties in that order
    final = np.lexsort((-score, label))
    edges = np.searchsorted(label[final], np.arange(classes + 1)).tolist()
    tables = [
        tuple(
            MatchTable(score[final[a:b]], image[final[a:b]], status[t, final[a:b]], positives[c])
            for c, (a, b) in enumerate(pairwise(edges))
        )
        for t in range(count)
    ]
    return tables, order[final]
