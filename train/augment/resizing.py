"""The resize to the network's size with a drawn interpolation."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ssdconv.ssd_ref.preprocess import resize as by_rule
from ssdconv.train.augment.spec import Interpolation

CODES: dict[Interpolation, int] = {
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "nearest": cv2.INTER_NEAREST,
    "cubic": cv2.INTER_CUBIC,
    "lanczos4": cv2.INTER_LANCZOS4,
    "tf1_linear": cv2.INTER_LINEAR,
}
"""OpenCV's code; for ``tf1_linear`` the nearest relative."""


def resized(image: npt.NDArray[Any], size: tuple[int, int], interpolation: Interpolation) -> npt.NDArray[Any]:
    """The image warped to (height, width), of its own type (``tf1_linear``: float32)."""
    if interpolation == "tf1_linear":
        return by_rule(image, size, "tf1_bilinear")
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=CODES[interpolation]))
