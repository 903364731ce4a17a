"""From match tables to what a report shows: thinned curves, the score histogram, and the worst images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssdconv.data.records import Dataset
from ssdconv.parity.metrics.detections import Detections, Ints
from ssdconv.parity.metrics.matches import FALSE, IGNORED, TRUE, MatchTable, curve
from ssdconv.parity.metrics.result import Box, Curve, Histogram, Shown, WorstImage
from ssdconv.parity.metrics.truth import Truth

POINTS = 200
BINS = 20
_STATUS = {TRUE: "true", FALSE: "false", IGNORED: "ignored"}


def thinned(name: str, table: MatchTable) -> Curve:
    """The precision-recall curve after each true detection, at most ``POINTS`` of them, the last included."""
    found = np.flatnonzero(table.status == TRUE)
    if not table.npos or not len(found):
        return Curve(name, (), ())
    recall, precision = curve(table)
    if len(found) > POINTS:
        found = found[np.unique(np.linspace(0, len(found) - 1, POINTS).round().astype(int))]
    return Curve(name, tuple(recall[found].round(5).tolist()), tuple(precision[found].round(5).tolist()))


def histogram(tables: Sequence[MatchTable]) -> Histogram:
    """Counts of true and false detections in 20 score bins from 0 to the best score (at least 1)."""
    top = max([1.0, *(float(t.scores.max()) for t in tables if len(t.scores))])
    low = min([0.0, *(float(t.scores.min()) for t in tables if len(t.scores))])
    edges = np.linspace(low, top, BINS + 1)
    counts = []
    for status in (TRUE, FALSE):
        scores = [t.scores[t.status == status] for t in tables]
        counts.append(np.histogram(np.concatenate(scores) if scores else np.zeros(0), edges)[0])
    return Histogram(tuple(edges.tolist()), tuple(counts[0].tolist()), tuple(counts[1].tolist()))


def _box(values: np.ndarray, shift: float) -> Box:
    x1, y1, x2, y2 = (round(float(v) - shift, 2) for v in values)
    return x1, y1, x2, y2


def worst_images(
    dataset: Dataset,
    truth: Truth,
    detections: Detections,
    tables: Sequence[MatchTable],
    order: Ints,
    count: int,
    floor: float,
    frame: float = 0.0,
) -> tuple[WorstImage, ...]:
    """The images with most mistakes: false detections with a score of at least ``floor``, and objects not found by
    such.

    Args:
        detections: aligned with ``truth``.
        frame: the coordinate that the first pixel has in the detections.
        order: rows of the detections in the order of the joined tables.
    """
    images = len(truth.image_ids)
    status = np.concatenate([t.status for t in tables]) if tables else np.zeros(0, np.int8)
    sure = detections.scores[order] >= floor
    image = detections.image[order]
    false = np.bincount(image[sure & (status == FALSE)], minlength=images)
    found = np.bincount(image[sure & (status == TRUE)], minlength=images)
    missed = sum((t.positives for t in tables), np.zeros(images, np.int64)) - found
    worst = np.argsort(-(false + missed), kind="stable")[:count]
    paths = {r.image_id: r for r in dataset.take([truth.image_ids[i] for i in worst.tolist()])}
    result = []
    for i in worst.tolist():
        if false[i] + missed[i] == 0:
            break
        name = truth.image_ids[i]
        record = paths[name]
        boxes = [
            Shown(
                int(truth.labels[o]),
                _box(truth.boxes[o], truth.origin),
                "difficult" if truth.difficult[o] else "object",
            )
            for o in np.flatnonzero(truth.image == i).tolist()
        ]
        for place in np.flatnonzero(sure & (image == i)).tolist():
            row = int(order[place])
            boxes.append(
                Shown(
                    int(detections.labels[row]),
                    _box(detections.boxes[row], frame),
                    _STATUS[int(status[place])],
                    round(float(detections.scores[row]), 4),
                )
            )
        path = str(record.path) if record.path is not None and record.path.is_file() else None
        result.append(WorstImage(name, path, record.width, record.height, int(false[i]), int(missed[i]), tuple(boxes)))
    return tuple(result)
