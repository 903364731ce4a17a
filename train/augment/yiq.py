"""GluonCV's colour changes: all of them are affine in RGB, so one 3x4 matrix does them together.

Facts: ``gluoncv/data/transforms/experimental/image.py``: saturation mixes with the grey 0.299 R + 0.587 G + 0.114 B; hue turns
I and Q by an angle between rounded NTSC matrices, which are not exact inverses of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ssdconv.train.augment.spec import Change

_GREY = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_FROM_YIQ = np.array([[1.0, 0.956, 0.621], [1.0, -0.272, -0.647], [1.0, -1.107, 1.705]])


def matrix(changes: Sequence[Change]) -> npt.NDArray[np.float64]:
    """(3, 4): RGB and a one to changed RGB."""
    whole = np.eye(3, 4)
    for change in changes:
        step, shift = np.eye(3), np.zeros(3)
        if change.kind == "brightness":
            shift[:] = change.value
        elif change.kind == "contrast":
            step *= change.value
        elif change.kind == "saturation":
            step = step * change.value + (1 - change.value) * np.tile(_GREY, (3, 1))
        elif change.kind == "hue":
            cosine, sine = np.cos(change.value * np.pi), np.sin(change.value * np.pi)
            turn = np.array([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])
            step = _FROM_YIQ @ turn @ _TO_YIQ
        whole = step @ whole
        whole[:, 3] += shift
    return whole


def apply(image: npt.NDArray[Any], changes: Sequence[Change]) -> npt.NDArray[np.float32]:
    """The changed BGR image in float32, not limited to 0..255."""
    if not changes:
        return image.astype(np.float32)
    rgb = matrix(changes)
    bgr = np.concatenate([rgb[::-1, 2::-1], rgb[::-1, 3:]], axis=1)
    return np.asarray(cv2.transform(image.astype(np.float32), bgr.astype(np.float32)))
