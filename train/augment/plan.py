"""What augmentation does to one image, drawn before a pixel is touched.

A plan is a function of (spec, image size, objects, random numbers) alone. The faithful and the fast way carry out the same
plan, so that boxes are the same and pixels can be laid side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ssdconv.train.augment.spec import Interpolation

Boxes = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Change:
    """One photometric change: ``value`` is added (brightness, hue) or multiplied (contrast, saturation); for ``channels``
    it is the new order of the BGR channels.
    """

    kind: Literal["brightness", "contrast", "saturation", "hue", "channels"]
    value: float = 0.0
    order: tuple[int, int, int] = (0, 1, 2)


@dataclass(frozen=True)
class Place:
    """The image on a larger canvas: its top left corner, and the canvas' size, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Window:
    """The part that is cut out of what the stages before have left (the canvas, or the image), in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Plan:
    """One image's augmentation.

    Attributes:
        changes: photometric, in order.
        place, window: None where not done.
        crop_first: the window is cut out of the image, and what is cut out is placed.
        flip: mirrored.
        interpolation: of the resize.
        boxes: (g, 4) xyxy of the objects that stay, fractions of the result.
        index: (g,) which objects those are.
    """

    changes: tuple[Change, ...]
    place: Place | None
    window: Window | None
    flip: bool
    interpolation: Interpolation
    boxes: Boxes
    index: Indices
    crop_first: bool = False
