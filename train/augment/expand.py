"""Zooming out: where the image lies on a larger canvas, and the canvas itself."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ssdconv.train.augment.fill import Colour
from ssdconv.train.augment.plan import Place
from ssdconv.train.augment.spec import Expand


def draw_expand(expand: Expand, size: tuple[int, int], rng: np.random.Generator) -> Place | None:
    """Draw a place for an image of (width, height); None for no expansion. One ratio serves both sides, in all sources."""
    if rng.random() >= expand.probability:
        return None
    ratio = rng.uniform(*expand.ratio)
    width, height = int(size[0] * ratio), int(size[1] * ratio)
    free = np.asarray([width - size[0], height - size[1]])
    if expand.offsets == "whole":
        free = free + 1
    elif expand.offsets == "uncut":
        free = np.asarray(size) * ratio - np.asarray(size)
    drawn = rng.random(2) * free
    return Place(int(drawn[0]), int(drawn[1]), width, height)


def on_canvas(image: npt.NDArray[Any], place: Place, fill: Colour) -> npt.NDArray[Any]:
    """The image on its canvas, of its own type; fills of byte images are rounded."""
    bottom = place.height - place.top - image.shape[0]
    right = place.width - place.left - image.shape[1]
    return np.asarray(
        cv2.copyMakeBorder(image, place.top, bottom, place.left, right, cv2.BORDER_CONSTANT, value=(*fill, 0.0))
    )
