"""A plan carried out as the source does it: every stage on the image at its own size, in the recipe's order."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ssdconv.train.augment.draw import on_canvas
from ssdconv.train.augment.fill import Colour
from ssdconv.train.augment.photometric import apply_changes
from ssdconv.train.augment.resizing import resized
from ssdconv.train.augment.spec import AugmentSpec, Plan, Stage

_JPEG_QUALITY = 95  # OpenCV's default, which Caffe leaves


def render(
    image: npt.NDArray[np.uint8], plan: Plan, spec: AugmentSpec, size: tuple[int, int], fill: Colour | None
) -> npt.NDArray[Any]:
    """Carry out a plan.

    Args:
        image: (H, W, 3) BGR.
        plan: drawn for this image's size.
        spec: what it was drawn from.
        size: the network's height and width.
        fill: BGR, of the canvas.

    Returns:
        (height, width, 3) BGR, uint8 or float32 as the recipe works.
    """
    out: npt.NDArray[Any] = image
    for stage in spec.stages:
        out = _stage(stage, out, plan, spec, size, fill or (0.0, 0.0, 0.0))
    if spec.rounded and out.dtype != np.uint8:
        out = np.clip(out * np.float32(255.5 / 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(out)


def _stage(
    stage: Stage, image: npt.NDArray[Any], plan: Plan, spec: AugmentSpec, size: tuple[int, int], fill: Colour
) -> npt.NDArray[Any]:
    if stage == "photometric" and spec.photometric is not None:
        changed = _again(apply_changes(image, plan.changes, spec.photometric), spec)
        return changed.astype(np.float32) if spec.precision == "float32" else changed
    if stage == "expand" and plan.place is not None:
        return _again(on_canvas(image, plan.place, fill), spec)
    if stage == "crop" and spec.crop is not None:
        if plan.window is None:
            return _again(image, spec)
        w = plan.window
        return _again(image[w.top : w.top + w.height, w.left : w.left + w.width], spec)
    if stage == "flip" and plan.flip:
        return cv2.flip(image, 1)
    return resized(image, size, plan.interpolation) if stage == "resize" else image


def _again(image: npt.NDArray[Any], spec: AugmentSpec) -> npt.NDArray[Any]:
    """Through a JPEG and back, where the source stores every stage's result as one."""
    if not spec.jpeg or image.dtype != np.uint8:
        return image
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
