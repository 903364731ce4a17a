"""PASCAL VOC evaluation, vectorised over the whole data set, float64, under a named convention.

The rule (VOCevaldet.m): in order of score, each detection looks at the object of its image and class that it overlaps
best, taken or not. If the overlap reaches the threshold, it is ignored when that object is difficult, true when the
object was not yet found, and false otherwise; below the threshold it is false. Since the choice of object does not
depend on what was matched before, all overlaps are computed at once and the first claim of each object wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ssdconv.parity.metrics.conventions import Convention, frames
from ssdconv.parity.metrics.detections import Detections, Ints
from ssdconv.parity.metrics.matches import FALSE, IGNORED, TRUE, MatchTable, average_precision, mean_ap
from ssdconv.parity.metrics.pairs import first_best, first_claims, overlaps, pair_up
from ssdconv.parity.metrics.truth import Truth


@dataclass(frozen=True, eq=False)
class VocScores:
    """Outcome of a VOC evaluation.

    Attributes:
        classes: names in label order.
        ap: AP per class, 0..1, NaN for classes without objects.
        mean: mean over the classes that have objects.
        tables: per class, what was matched.
        order: (n,) int64: the rows of the detections in the order of the concatenated tables.
    """

    classes: tuple[str, ...]
    ap: tuple[float, ...]
    mean: float
    tables: tuple[MatchTable, ...]
    order: Ints


def _by_class_and_score(detections: Detections, classes: int, ties: str) -> tuple[Ints, list[int]]:
    """Row numbers by class, then descending score, then as ``ties`` says; and where each class begins."""
    small = detections.labels.astype(np.int16)  # 16 bits: numpy then sorts by radix
    rows = np.argsort(small, kind="stable")
    edges = np.searchsorted(small[rows], np.arange(classes + 1)).tolist()
    for a, b in pairwise(edges):
        mine = rows[a:b] if ties == "given" else rows[a:b][::-1]
        rows[a:b] = mine[np.argsort(-detections.scores[mine], kind="stable")]
    return rows, edges


def match(
    truth: Truth, detections: Detections, rule: Convention, input_size: tuple[int, int] | None = None
) -> tuple[tuple[MatchTable, ...], Ints]:
    """Match detections with objects.

    Args:
        detections: aligned with ``truth`` (``Detections.aligned``).
        input_size: see ``conventions.frames``.

    Returns:
        One table per class, and the order of rows in them.
    """
    boxes, detections = frames(rule, truth, detections, input_size)
    gt_image, gt_labels, difficult = truth.image, truth.labels, truth.difficult
    if rule.difficult == "drop":
        kept = ~difficult
        boxes, gt_image, gt_labels, difficult = boxes[kept], gt_image[kept], gt_labels[kept], difficult[kept]
    elif rule.difficult == "count":
        difficult = np.zeros_like(difficult)
    images, classes = len(truth.image_ids), len(truth.classes)
    claim = np.full(len(detections), -1, np.int64)  # the object that each detection reaches
    group = detections.labels * images + detections.image
    pairs = pair_up(group, gt_labels * images + gt_image, classes * images)
    if len(pairs.owner):
        extra = 1.0 if rule.plus_one else 0.0
        overlap = overlaps(detections.boxes[pairs.detection], boxes[pairs.object], extra)
        best, found = first_best(pairs, overlap)
        hit = best > rule.iou_threshold if rule.strict else best >= rule.iou_threshold
        claim[pairs.owner[hit]] = found[hit]
    order, edges = _by_class_and_score(detections, classes, rule.ties)
    status = np.full(len(order), FALSE, np.int8)
    claimed = claim[order]
    places = np.flatnonzero(claimed >= 0)
    hard = difficult[claimed[places]]
    status[places[hard]] = IGNORED
    easy = places[~hard]
    status[easy[first_claims(claimed[easy], len(boxes))]] = TRUE
    positives = np.bincount((gt_labels * images + gt_image)[~difficult], minlength=classes * images)
    tables = tuple(
        MatchTable(
            detections.scores[order[a:b]],
            detections.image[order[a:b]],
            status[a:b],
            positives[c * images : (c + 1) * images].astype(np.int64),
        )
        for c, (a, b) in enumerate(pairwise(edges))
    )
    return tables, order


def evaluate_voc(
    truth: Truth, detections: Detections, rule: Convention, input_size: tuple[int, int] | None = None
) -> VocScores:
    """AP per class and their mean; arguments as for ``match``."""
    tables, order = match(truth, detections, rule, input_size)
    ap = tuple(average_precision(table, rule.ap) for table in tables)
    return VocScores(truth.classes, ap, mean_ap(ap), tables, order)
