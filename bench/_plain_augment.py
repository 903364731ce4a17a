"""SSD augmentation as it is usually written with numpy and OpenCV: one stage after the other on the whole float image, crops
tried one by one. The peer of ``augment.py``.
"""

from __future__ import annotations

import cv2
import numpy as np


def augment(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    size: int,
    mean: tuple[float, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 BGR image and pixel boxes -> (3, size, size) float32 minus mean, boxes as fractions, labels."""
    work = colours(image.astype(np.float32), rng)
    if rng.random() < 0.5:
        work, boxes = expand(work, boxes, rng, mean)
    work, boxes, labels = crop(work, boxes, labels, rng)
    height, width = work.shape[:2]
    if rng.random() < 0.5:
        work = work[:, ::-1]
        boxes = boxes.copy()
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    work = cv2.resize(np.ascontiguousarray(work), (size, size)) - np.asarray(mean, np.float32)
    return np.ascontiguousarray(work.transpose(2, 0, 1)), boxes / [width, height, width, height], labels


def colours(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue, each with probability 0.5."""
    if rng.random() < 0.5:
        image = image + np.float32(rng.uniform(-32, 32))
    early = rng.random() < 0.5
    if early and rng.random() < 0.5:
        image = image * np.float32(rng.uniform(0.5, 1.5))
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    if rng.random() < 0.5:
        hsv[..., 1] *= np.float32(rng.uniform(0.5, 1.5))
    if rng.random() < 0.5:
        hsv[..., 0] += np.float32(rng.uniform(-18, 18))
        hsv[..., 0][hsv[..., 0] > 360] -= 360
        hsv[..., 0][hsv[..., 0] < 0] += 360
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if not early and rng.random() < 0.5:
        image = image * np.float32(rng.uniform(0.5, 1.5))
    return image


def expand(
    image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator, mean: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """On a canvas of 1 to 4 times the size."""
    height, width, depth = image.shape
    ratio = rng.uniform(1, 4)
    left, top = int(rng.uniform(0, width * ratio - width)), int(rng.uniform(0, height * ratio - height))
    canvas = np.zeros((int(height * ratio), int(width * ratio), depth), image.dtype)
    canvas[:] = mean
    canvas[top : top + height, left : left + width] = image
    return canvas, boxes + np.array([left, top, left, top])


def crop(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A limit is drawn, then up to 50 windows; objects whose centre is inside stay."""
    height, width = image.shape[:2]
    while True:
        limit = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)[rng.integers(7)]
        if limit is None or not len(boxes):
            return image, boxes, labels
        for _ in range(50):
            w, h = rng.uniform(0.3 * width, width), rng.uniform(0.3 * height, height)
            if not 0.5 <= h / w <= 2:
                continue
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            rect = np.array([int(left), int(top), int(left + w), int(top + h)])
            low, high = np.maximum(boxes[:, :2], rect[:2]), np.minimum(boxes[:, 2:], rect[2:])
            both = np.prod(np.clip(high - low, 0, None), axis=1)
            area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(rect[2:] - rect[:2])
            if (both / (area - both)).max() < limit:
                continue
            centre = (boxes[:, :2] + boxes[:, 2:]) / 2
            inside = ((rect[:2] < centre) & (centre < rect[2:])).all(axis=1)
            if not inside.any():
                continue
            kept = np.clip(boxes[inside], np.tile(rect[:2], 2), np.tile(rect[2:], 2)) - np.tile(rect[:2], 2)
            return image[rect[1] : rect[3], rect[0] : rect[2]], kept, labels[inside]
