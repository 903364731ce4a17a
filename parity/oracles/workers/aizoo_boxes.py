"""From loc and class scores to boxes as AIZOOTech/FaceMaskDetection's scripts do, in NumPy alone; Python 3.8 on.

Written from the facts of its ``utils`` (anchor_generator, anchor_decode, nms): anchors in fractions of the image, variances 0.1 and 0.2,
each prior with its better class, one NMS for both classes, areas with 0.001 added to the sides.
"""

# ruff: noqa: B905 - zip(strict=) is younger than Python 3.8

import numpy as np

GRIDS = (33, 17, 9, 5, 3)
SIZES = ((0.04, 0.056), (0.08, 0.11), (0.16, 0.22), (0.32, 0.45), (0.64, 0.72))


def anchors():
    """(5972, 4): centre x and y, width and height."""
    rows = []
    for grid, (small, large) in zip(GRIDS, SIZES):
        shapes = [(small, small), (large, large)]
        shapes += [(small * ratio**0.5, small / ratio**0.5) for ratio in (0.62, 0.42)]
        for y in range(grid):
            for x in range(grid):
                rows += [((x + 0.5) / grid, (y + 0.5) / grid, w, h) for w, h in shapes]
    return np.array(rows)


def decode(loc):
    """(5972, 4) raw loc -> xyxy in fractions of the image, float64."""
    base, loc = anchors(), loc.astype("f8")
    centre = base[:, :2] + 0.1 * loc[:, :2] * base[:, 2:]
    half = base[:, 2:] * np.exp(0.2 * loc[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], 1)


def detect(loc, scores, threshold=0.5, overlap=0.4):
    """Rows (n, 6): label, score, xyxy; best first."""
    boxes, label, best = decode(loc), scores.argmax(1), scores.max(1)
    left = [i for i in np.argsort(-best, kind="stable") if best[i] > threshold]
    kept = []
    while left:
        first = left.pop(0)
        kept.append(first)
        left = [i for i in left if iou(boxes[first], boxes[i]) <= overlap]
    return np.array([[label[i], best[i], *boxes[i]] for i in kept], "f8").reshape(-1, 6)


def iou(a, b, margin=1e-3):
    """Overlap over union, the union with the margin in both areas."""
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    shared = sides[0] * sides[1]
    areas = sum((box[2] - box[0] + margin) * (box[3] - box[1] + margin) for box in (a, b))
    return shared / (areas - shared)
