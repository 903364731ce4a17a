"""The worst images with objects and detections drawn: a reduced JPEG inside the page, the boxes as SVG above it."""

from __future__ import annotations

import base64
from html import escape

import numpy as np

from ssdconv.errors import SsdconvError
from ssdconv.parity.accuracy.result import EvaluationResult, Shown, WorstImage

WIDTH = 460
QUALITY = 82


def _picture(path: str) -> str | None:
    """The image as a data URL, at most ``WIDTH`` pixels wide; None if it cannot be read any more."""
    import cv2

    from ssdconv.ssd_ref.image_file import read_image

    try:
        image = read_image(path)
    except SsdconvError:
        return None
    if image.shape[1] > WIDTH:
        height = max(1, round(image.shape[0] * WIDTH / image.shape[1]))
        image = np.asarray(cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)
    done, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode() if done else None


def _drawn(shown: Shown, classes: tuple[str, ...], image: WorstImage) -> str:
    x1, y1, x2, y2 = shown.box
    box = (
        f'<rect class="{shown.status}" x="{x1:.1f}" y="{y1:.1f}" '
        f'width="{max(x2 - x1, 0):.1f}" height="{max(y2 - y1, 0):.1f}">'
        f"<title>{escape(classes[shown.label])}, {shown.status}</title></rect>"
    )
    if shown.score is None:
        return box
    size = max(image.width / 30, 9.0)
    text = f"{classes[shown.label]} {shown.score:.2f}"
    wide, x = size * 0.56 * len(text) + size * 0.4, max(x1, 0.0)
    x = max(0.0, min(x, image.width - wide))
    y = y1 if y1 >= size * 1.25 else min(y1 + size * 1.25, image.height)
    return (
        f'{box}<rect class="plate {shown.status}" x="{x:.1f}" y="{y - size * 1.2:.1f}" '
        f'width="{wide:.1f}" height="{size * 1.2:.1f}"/>'
        f'<text class="plate" x="{x + size * 0.2:.1f}" y="{y - size * 0.28:.1f}" '
        f'font-size="{size:.1f}">{escape(text)}</text>'
    )


def gallery(result: EvaluationResult) -> str:
    """Figures of the worst images that are on disk; empty when none is."""
    classes = tuple(c.name for c in result.classes)
    figures = []
    for image in result.worst:
        picture = None if image.path is None else _picture(image.path)
        if picture is None:
            continue
        order = {"object": 0, "difficult": 0, "ignored": 1, "true": 2, "false": 3}
        boxes = "".join(_drawn(b, classes, image) for b in sorted(image.boxes, key=lambda b: order[b.status]))
        figures.append(
            f'<figure class="photo"><svg viewBox="0 0 {image.width} {image.height}" role="img" '
            f'aria-label="image {escape(image.image_id)} with boxes"><image href="{picture}" width="{image.width}" '
            f'height="{image.height}" preserveAspectRatio="none"/>{boxes}</svg>'
            f"<figcaption><b>{escape(image.image_id)}</b> {image.false} false, {image.missed} missed</figcaption></figure>"
        )
    return "".join(figures)


def listing(result: EvaluationResult) -> str:
    """The worst images as table rows, for when they are not on disk."""
    return "".join(
        f"<tr><td>{escape(w.image_id)}</td><td>{w.width} x {w.height}</td><td>{w.false}</td><td>{w.missed}</td></tr>"
        for w in result.worst
    )
