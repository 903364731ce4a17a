"""Seeded detection sets of the size of VOC2007 test and COCO val2017."""

from __future__ import annotations

import numpy as np

from ssdconv.parity.accuracy.detections import DetectionSet, Truth


def synthetic(
    images: int,
    classes: int,
    objects: int,
    detections: int,
    *,
    seed: int = 0,
    crowds: float = 0.0,
    difficult: float = 0.0,
    ties: bool = True,
) -> tuple[Truth, DetectionSet]:
    """Objects scattered over images, and detections that are mostly jittered objects; ``ties``: scores have four digits."""
    rng = np.random.default_rng(seed)

    def boxes(n: int) -> np.ndarray:
        corner = np.column_stack([rng.uniform(0, 400, n), rng.uniform(0, 300, n)])
        return np.round(np.column_stack([corner, corner + rng.uniform(5, 220, (n, 2))]), 2)

    image = np.sort(rng.integers(0, images, objects))
    label = rng.integers(0, classes, objects)
    truth_boxes = boxes(objects)
    names = tuple(str(i + 1) for i in range(images))
    kinds = tuple(f"class{k}" for k in range(classes))
    sides = truth_boxes[:, 2:] - truth_boxes[:, :2]
    truth = Truth(
        kinds, names, 0, np.tile([640.0, 480.0], (images, 1)), image, label, truth_boxes,
        rng.random(objects) < difficult, rng.random(objects) < crowds, sides[:, 0] * sides[:, 1],
    )  # fmt: skip
    near = rng.integers(0, objects, detections)
    found = truth_boxes[near] + rng.normal(0, 10, (detections, 4))
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    stray = rng.random(detections) < 0.4
    where = np.where(stray, rng.integers(0, images, detections), image[near])
    scores = rng.random(detections)
    scores = np.round(scores, 4) if ties else scores
    return truth, DetectionSet(kinds, names, where, label[near], scores, found, written=True)
