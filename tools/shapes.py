"""A generated VOCdevkit: pictures of simple shapes to try training on, where no real data set is at hand.

Every image has a noisy background of two colours and one to three filled shapes of random size, colour and turn, drawn one
over the other. Boxes are those of the whole shape, also where another one covers it, as VOC's annotators drew them; a shape of
which less than 60 % is visible, or whose sides are shorter than a twelfth of the image's, is ``difficult``. An image is a
function of (seed, split, its number) alone.

    python tools/shapes.py FOLDER    # 300 images for training, 100 to hold out
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssdconv.errors import UsageError

SHAPES = ("circle", "square", "triangle", "cross")
"""Class names in label order."""

_VISIBLE = 0.6
_SMALL = 1 / 12
_OUTLINES: dict[str, NDArray[np.float64]] = {
    "square": np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float),
    "triangle": np.array([(0, -1.1), (1, 0.8), (-1, 0.8)], float),
    "cross": np.array(
        [
            *((-1, -0.35), (-0.35, -0.35), (-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35)),
            *((1, 0.35), (0.35, 0.35), (0.35, 1), (-0.35, 1), (-0.35, 0.35), (-1, 0.35)),
        ]
    ),
}
_TURN = {"square": 0.2, "triangle": 0.4, "cross": 0.3}
"""Largest turn in radians, either way."""


@dataclass(frozen=True)
class Shape:
    """One drawn object: class name, its box (xmin, ymin, xmax, ymax, 1-based inclusive pixels), VOC's flag."""

    name: str
    box: tuple[int, int, int, int]
    difficult: bool


def draw_image(
    rng: np.random.Generator, width: int, height: int, names: Sequence[str] = SHAPES
) -> tuple[NDArray[np.uint8], list[Shape]]:
    """A picture (height, width, 3) uint8 BGR and its objects, the hindmost first."""
    import cv2

    low = rng.integers(40, 216, (2, 3))
    ramp = np.linspace(0.0, 1.0, width)[None, :, None]
    image = np.broadcast_to(low[0] * (1 - ramp) + low[1] * ramp, (height, width, 3))
    image = np.clip(image + rng.normal(0.0, 12.0, (height, width, 3)), 0, 255).astype(np.uint8)
    owner = np.full((height, width), -1, np.int32)
    drawn: list[tuple[str, tuple[int, int, int, int], int]] = []
    for number in range(int(rng.integers(1, 4))):
        name = names[int(rng.integers(len(names)))]
        half = min(width, height) * float(np.exp(rng.uniform(np.log(0.09), np.log(0.3))))
        aspect = float(np.exp(rng.uniform(-0.25, 0.25)))
        half_x, half_y = half * aspect, half / aspect
        centre = rng.uniform((half_x + 2, half_y + 2), (width - half_x - 2, height - half_y - 2))
        mask = np.zeros((height, width), np.uint8)
        if name == "circle":
            axes = (round(half_x), round(half_y))
            cv2.ellipse(mask, (round(centre[0]), round(centre[1])), axes, 0, 0, 360, 1, -1)
        else:
            turn = rng.uniform(-_TURN[name], _TURN[name])
            spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            corners = _OUTLINES[name] @ spin.T * 0.85 * (half_x, half_y) + centre
            cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 1)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        inside = mask == 1
        background = image[inside].mean(0)
        colour = rng.integers(0, 256, 3)
        while np.abs(colour - background).max() < 80:  # a shape has to stand out from what it lies on
            colour = rng.integers(0, 256, 3)
        image[inside] = np.clip(colour + rng.normal(0.0, 6.0, (int(inside.sum()), 3)), 0, 255).astype(np.uint8)
        owner[inside] = number
        box = (int(columns[0]) + 1, int(rows[0]) + 1, int(columns[-1]) + 1, int(rows[-1]) + 1)
        drawn.append((name, box, int(inside.sum())))
    shapes = []
    for number, (name, box, area) in enumerate(drawn):
        tiny = min((box[2] - box[0] + 1) / width, (box[3] - box[1] + 1) / height) < _SMALL
        shapes.append(Shape(name, box, bool(tiny or (owner == number).sum() < _VISIBLE * area)))
    return image, shapes


def write_shapes(
    root: str | Path,
    counts: dict[str, int] | None = None,
    *,
    size: tuple[int, int] = (160, 120),
    seed: int = 0,
    year: str = "2007",
    only: Sequence[str] = SHAPES,
) -> Path:
    """Write ``root/VOC<year>`` with Annotations, ImageSets and JPEGImages.

    Args:
        root: the VOCdevkit; made where it is missing.
        counts: images per split; default 300 ``train`` and 100 ``val``.
        size: width and height of the images.
        seed: of everything drawn.
        only: classes that are drawn.

    Returns:
        ``root``.

    Raises:
        UsageError: images too small to draw on, or no images.
    """
    import cv2

    counts = {"train": 300, "val": 100} if counts is None else counts
    if min(size) < 32 or not counts or min(counts.values()) < 1:
        raise UsageError("nothing to draw", expected="images of 32 pixels or more, at least one a split", got=f"{size}")
    base = Path(root) / f"VOC{year}"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    first = 1
    for place, (split, count) in enumerate(sorted(counts.items())):
        names = []
        for number in range(count):
            rng = np.random.default_rng((seed, place, number))
            image, shapes = draw_image(rng, *size, only)
            name = f"{first + number:06d}"
            cv2.imwrite(str(base / "JPEGImages" / f"{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
            (base / "Annotations" / f"{name}.xml").write_text(annotation_xml(name, size, shapes))
            names.append(name)
        (base / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        first += count
    return Path(root)


def annotation_xml(name: str, size: tuple[int, int], shapes: Sequence[Shape]) -> str:
    """A VOC annotation file; ``size`` is width and height."""
    objects = "".join(
        f"<object><name>{s.name}</name><difficult>{int(s.difficult)}</difficult><bndbox>"
        f"<xmin>{s.box[0]}</xmin><ymin>{s.box[1]}</ymin><xmax>{s.box[2]}</xmax><ymax>{s.box[3]}</ymax></bndbox></object>\n"
        for s in shapes
    )
    return (
        f"<annotation><filename>{name}.jpg</filename>\n"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>\n{objects}</annotation>\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a small VOC data set of drawn shapes.")
    parser.add_argument("folder", help="where to; made if it is not there")
    print(write_shapes(parser.parse_args().folder))
