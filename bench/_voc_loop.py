"""The usual way to evaluate VOC, one detection after the other in plain Python: the peer to measure and test against.

Per class a dictionary of objects by image, detections sorted by score, and for each detection the overlaps with that
image's objects, as in the Python evaluators that go with old detectors. It is written for reading, not for speed.
"""

from __future__ import annotations

import math

import numpy as np

from ssdconv.parity.accuracy.detections import DetectionSet, Truth
from ssdconv.parity.accuracy.voc import Convention


def _ap(hits: list[int], misses: list[int], npos: int, kind: str) -> float:
    """AP from running counts of true and false detections."""
    if npos == 0:
        return math.nan
    recall = [h / npos for h in hits]
    precision = [h / (h + m) if h + m else 0.0 for h, m in zip(hits, misses, strict=True)]
    if kind == "11point":
        total = 0.0
        for level in np.arange(0.0, 1.1, 0.1).tolist():
            total += max((p for r, p in zip(recall, precision, strict=True) if r >= level), default=0.0) / 11.0
        return total
    area, before, best = 0.0, 0.0, 0.0
    envelope = []
    for p in reversed(precision):
        best = max(best, p)
        envelope.append(best)
    for r, p in zip(recall, reversed(envelope), strict=True):
        area += (r - before) * p
        before = r
    return area


def evaluate_loop(
    truth: Truth, detections: DetectionSet, rule: Convention, shortcut: bool = False
) -> tuple[list[float], list[int]]:
    """(AP, true positives) per class; detections aligned and as a file holds them.

    Args:
        shortcut: take the AP from the vectorised function, so that only the matching is timed (the quadratic maximum
            above is slower than what people use).
    """
    extra = 1.0 if rule.plus_one else 0.0
    shift = rule.gt_shift if truth.origin == 1 else 0.0
    ap, found = [], []
    for label in range(len(truth.classes)):
        objects: dict[int, list[list[float]]] = {}
        flags: dict[int, list[bool]] = {}
        taken: dict[int, list[bool]] = {}
        npos = 0
        for row in np.flatnonzero(truth.labels == label).tolist():
            hard = bool(truth.difficult[row]) and rule.difficult != "count"
            if hard and rule.difficult == "drop":
                continue
            image = int(truth.image[row])
            objects.setdefault(image, []).append([v + shift for v in truth.boxes[row].tolist()])
            flags.setdefault(image, []).append(hard)
            taken.setdefault(image, []).append(False)
            npos += not hard
        rows = np.flatnonzero(detections.labels == label).tolist()
        if rule.ties == "reversed":
            rows.reverse()
        scores = detections.scores.tolist()
        rows.sort(key=lambda r: -scores[r])
        hits, misses, hit, miss = [], [], 0, 0
        for row in rows:
            image = int(detections.image[row])
            x1, y1, x2, y2 = detections.boxes[row].tolist()
            best, which = -math.inf, -1
            for j, (a1, b1, a2, b2) in enumerate(objects.get(image, [])):
                width = max(min(x2, a2) - max(x1, a1) + extra, 0.0)
                height = max(min(y2, b2) - max(y1, b1) + extra, 0.0)
                shared = width * height
                union = (x2 - x1 + extra) * (y2 - y1 + extra) + (a2 - a1 + extra) * (b2 - b1 + extra) - shared
                overlap = shared / union if union > 0 else 0.0
                if overlap > best:
                    best, which = overlap, j
            if best > rule.iou_threshold or (best == rule.iou_threshold and not rule.strict):
                if not flags[image][which]:
                    if taken[image][which]:
                        miss += 1
                    else:
                        taken[image][which] = True
                        hit += 1
            else:
                miss += 1
            hits.append(hit)
            misses.append(miss)
        found.append(hit)
        if shortcut:
            from ssdconv.parity.accuracy.matching import ap_11point

            true, false = np.asarray(hits, float), np.asarray(misses, float)
            ap.append(ap_11point(true / max(npos, 1), true / np.maximum(true + false, 1.0)) if npos else math.nan)
        else:
            ap.append(_ap(hits, misses, npos, rule.ap))
    return ap, found
