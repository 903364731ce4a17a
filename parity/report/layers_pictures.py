"""Detections of both sides on the images that were compared: a JPEG inside the page, the boxes as SVG above it."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssdconv.errors import SsdconvError
from ssdconv.parity.layers.results import Detection, DetectionResult, ParityReport

Image = npt.NDArray[np.uint8]
WIDTH = 520
QUALITY = 84
SHOWN = 12
CLEAR = 0.3
"""Boxes with a score above it are drawn, else the best ones."""


def images_of(report: ParityReport, photos: Sequence[Path] = ()) -> dict[str, Image]:
    """The images behind the report's inputs, BGR, by the input's name.

    Photos are paired by file name and must still be readable; the generated picture is made again; noise has no picture.
    """
    from ssdconv.parity.layers.inputs import synthetic_picture

    by_name = {Path(photo).name: Path(photo) for photo in photos}
    found: dict[str, Image] = {}
    for result in report.inputs:
        generated = re.fullmatch(r"synthetic picture, seed (\d+)", result.name)
        image = _read(by_name[result.name]) if result.name in by_name else None
        if generated is not None:
            image = synthetic_picture(int(generated[1]))
        if image is not None:
            found[result.name] = image
    return found


def _read(path: Path) -> Image | None:
    from ssdconv.ssd_ref.image_file import read_image

    try:
        return read_image(path)
    except SsdconvError:
        return None


def data_url(image: Image) -> tuple[str, int, int]:
    """The image as a JPEG data URL at most ``WIDTH`` pixels wide; then width and height of the original."""
    import cv2

    height, width = image.shape[:2]
    if width > WIDTH:
        image = cv2.resize(image, (WIDTH, max(1, round(height * WIDTH / width))), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode(), width, height


def both_sides(found: DetectionResult, image: Image, oracle: str, names: Sequence[str]) -> str:
    """Two figures side by side: the oracle's best boxes, and the converted network's."""
    url, width, height = data_url(image)
    only = {(b.side, b.label, b.score): ("boundary" if b.explained else "only") for b in found.one_sided}
    figures = []
    for side, title, rows in (
        ("oracle", oracle, found.oracle_best),
        ("reference", "converted", found.reference_best),
    ):
        clear = [r for r in rows if r.score > CLEAR][: 2 * SHOWN] or list(rows[:SHOWN])
        boxes = "".join(
            _drawn(r, only.get((side, r.label, r.score), "same"), width, height, names) for r in reversed(clear)
        )
        count = found.oracle if side == "oracle" else found.reference
        told = f"the best {len(clear)} of {count:,} boxes" if len(clear) < count else f"{count:,} boxes"
        figures.append(
            f'<figure class="photo"><svg viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="detections of {escape(title)}"><image href="{url}" width="{width}" height="{height}" '
            f'preserveAspectRatio="none"/>{boxes}</svg><figcaption><b>{escape(title)}</b>{told}</figcaption></figure>'
        )
    return f'<div class="sides">{"".join(figures)}</div>'


def label_of(label: int, names: Sequence[str]) -> str:
    """Name of a class, its number where the source tells no names."""
    return names[label] if label < len(names) else f"class {label}"


def _drawn(row: Detection, kind: str, width: int, height: int, names: Sequence[str]) -> str:
    x1, x2 = (min(max(v, -0.02), 1.02) * width for v in row.box[::2])
    y1, y2 = (min(max(v, -0.02), 1.02) * height for v in row.box[1::2])
    text = f"{label_of(row.label, names)} {row.score:.3f}"
    size = max(width / 36, 8.0)
    wide = size * 0.56 * len(text) + size * 0.4
    x = max(0.0, min(x1, width - wide))
    y = max(min(y1, height - size * 0.1), size * 1.2)
    return (
        f'<rect class="{kind}" x="{x1:.1f}" y="{y1:.1f}" width="{max(x2 - x1, 0):.1f}" height="{max(y2 - y1, 0):.1f}">'
        f"<title>{escape(text)}</title></rect>"
        f'<rect class="plate {kind}" x="{x:.1f}" y="{y - size * 1.2:.1f}" width="{wide:.1f}" height="{size * 1.2:.1f}"/>'
        f'<text class="plate" x="{x + size * 0.2:.1f}" y="{y - size * 0.28:.1f}" font-size="{size:.1f}">{escape(text)}</text>'
    )
