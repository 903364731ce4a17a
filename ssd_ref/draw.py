"""Detections drawn into a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from ssdconv.ssd_ref.postprocess import Detections

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN = 0.618034  # neighbouring labels get hues far apart


def draw(
    image: npt.NDArray[np.uint8],
    detections: Detections,
    class_names: Sequence[str] = (),
    threshold: float = 0.0,
) -> npt.NDArray[np.uint8]:
    """Boxes with class names and scores on a copy of the picture; lines and letters scale with its size.

    Args:
        image: (H, W, 3) uint8, BGR.
        detections: boxes in pixels of this image (``Detections.scaled``).
        class_names: names by label; without them the label's number stands.
        threshold: only detections with a score above it.

    Returns:
        (H, W, 3) uint8, BGR; the best detections lie on top.
    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    unit = max(min(height, width) / 400, 0.5)
    line = max(round(1.6 * unit), 1)
    found = detections.cpu().above(threshold)
    rows = list(zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True))[::-1]
    corners = [_corners(box, width, height) for box, _, _ in rows]
    for (x0, y0, x1, y1), (_, label, _) in zip(corners, rows, strict=True):
        cv2.rectangle(canvas, (x0, y0), (x1, y1), colour(label), line, cv2.LINE_AA)
    for (x0, y0, _, _), (_, label, score) in zip(corners, rows, strict=True):  # letters last: no box crosses them
        name = class_names[label] if label < len(class_names) else str(label)
        _tag(canvas, f"{name} {score:.2f}", x0, y0, colour(label), unit, line)
    return canvas


def colour(label: int) -> tuple[int, int, int]:
    """A vivid BGR colour per label, far from its neighbours' and the same in every picture."""
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1, 0.85, 0.95)
    return round(blue * 255), round(green * 255), round(red * 255)


def _corners(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    limits = (width - 1, height - 1, width - 1, height - 1)
    x0, y0, x1, y1 = (round(min(max(value, 0), limit)) for value, limit in zip(box, limits, strict=True))
    return x0, y0, x1, y1


def _tag(
    canvas: npt.NDArray[np.uint8], text: str, x: int, y: int, back: tuple[int, int, int], unit: float, line: int
) -> None:
    """A filled label above (x, y), or just below it where there is no room, always inside the picture."""
    height, width = canvas.shape[:2]
    size, weight, pad = 0.42 * unit, max(round(unit), 1), max(round(3 * unit), 1)
    (wide, high), base = cv2.getTextSize(text, _FONT, size, weight)
    if wide + 2 * pad > width:  # a narrow picture: smaller letters rather than a cut name
        size *= max((width - 2 * pad) / wide, 0.1)
        (wide, high), base = cv2.getTextSize(text, _FONT, size, weight)
    tall = high + base + pad
    left = min(max(x - line // 2, 0), max(width - wide - 2 * pad, 0))
    top = y - tall if y >= tall else min(y, max(height - tall, 0))
    cv2.rectangle(canvas, (left, top), (left + wide + 2 * pad, top + tall), back, cv2.FILLED)
    blue, green, red = back
    ink = (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 140 else (255, 255, 255)
    cv2.putText(canvas, text, (left + pad, top + high + pad // 2), _FONT, size, ink, weight, cv2.LINE_AA)
