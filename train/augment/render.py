"""A plan carried out on an image: faithfully, as the source does it, or fast.

Faithful: every stage on the image at its own size, in the recipe's order. Fast: only the visible part of the image is resampled,
straight to its place in the result; no canvas is built and colours are changed on the small image. Boxes are the plan's own. Pixels
differ from the faithful way by what exchanging colour changes and resampling does, by clipping to bytes where the source keeps
floats, and at the rim between image and canvas (less than half a pixel). Re-encoding to JPEG is left out, and Lanczos is done as
cubic, which costs a twentieth.
"""

from __future__ import annotations

from math import ceil, floor
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from ssdconv.ssd_ref.config import Preprocess
from ssdconv.ssd_ref.preprocess import resize as by_rule
from ssdconv.train.augment.photometric import apply_changes, in_yiq, table, through_hsv
from ssdconv.train.augment.spec import (
    AugmentPlan,
    AugmentSpec,
    CanvasPlace,
    ColourChange,
    CropWindow,
    Interpolation,
    Photometric,
    Stage,
)

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


def on_canvas(image: npt.NDArray[Any], place: CanvasPlace, fill: Colour) -> npt.NDArray[Any]:
    """The image on its canvas, of its own type; fills of byte images are rounded."""
    bottom = place.height - place.top - image.shape[0]
    right = place.width - place.left - image.shape[1]
    return np.asarray(
        cv2.copyMakeBorder(image, place.top, bottom, place.left, right, cv2.BORDER_CONSTANT, value=(*fill, 0.0))
    )


Colour = tuple[float, float, float]


def fill_value(pixels: Preprocess, fill: Literal["mean", "mean_uint8", "zero"]) -> Colour:
    """The fill in BGR on 0..255: the network's mean pixel, the mean cut to whole numbers, or black."""
    if fill == "zero":
        return (0.0, 0.0, 0.0)
    first, second, third = (m * pixels.unit for m in (pixels.mean * 3 if pixels.channels == 1 else pixels.mean))
    colour = (first, second, third) if pixels.order != "RGB" else (third, second, first)
    return colour if fill == "mean" else (float(int(colour[0])), float(int(colour[1])), float(int(colour[2])))


_JPEG_QUALITY = 95  # OpenCV's default, which Caffe leaves


def render_faithful(
    image: npt.NDArray[np.uint8], plan: AugmentPlan, spec: AugmentSpec, size: tuple[int, int], fill: Colour | None
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
    stage: Stage, image: npt.NDArray[Any], plan: AugmentPlan, spec: AugmentSpec, size: tuple[int, int], fill: Colour
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


Bytes = npt.NDArray[np.uint8]
_BLACK: Colour = (0.0, 0.0, 0.0)
_CODES = CODES | {"lanczos4": cv2.INTER_CUBIC}


def render_fast(
    image: Bytes, plan: AugmentPlan, spec: AugmentSpec, size: tuple[int, int], fill: Colour | None
) -> Bytes:
    """Carry out a plan; arguments as in ``render_faithful``, but always (height, width, 3) uint8."""
    height, width = size
    first = plan.window if plan.crop_first else None
    if first is not None:
        image = image[first.top : first.top + first.height, first.left : first.left + first.width]
    canvas = plan.place or CanvasPlace(0, 0, image.shape[1], image.shape[0])
    cut = (None if first else plan.window) or CropWindow(0, 0, canvas.width, canvas.height)
    x, y, wide, high = cut.left - canvas.left, cut.top - canvas.top, cut.width, cut.height
    across = _Axis(x, wide, image.shape[1], width)
    down = _Axis(y, high, image.shape[0], height)
    colours = spec.photometric if "photometric" in spec.stages else None
    code = _CODES[plan.interpolation]
    if across.inside and down.inside:
        small = cv2.resize(image[y : y + high, x : x + wide], (width, height), interpolation=code)
        out = _coloured(np.asarray(small, np.uint8), plan, colours)
    elif across.first < across.last and down.first < down.last:
        small = _coloured(_part(image, across, down, code), plan, colours)
        rims = (down.first, height - down.last, across.first, width - across.last)
        out = np.asarray(
            cv2.copyMakeBorder(small, *rims, cv2.BORDER_CONSTANT, value=(*(fill or _BLACK), 0.0)), np.uint8
        )
    else:
        out = np.full((height, width, 3), np.rint(fill or _BLACK), np.uint8)
    return np.asarray(cv2.flip(out, 1), np.uint8) if plan.flip else out


class _Axis:
    """Along one axis: result pixel i covers the image from ``start + i * step`` to ``start + (i + 1) * step``.

    ``first`` and ``last`` bound the result's pixels whose centre lies on the image; ``inside``: all of them do.
    """

    def __init__(self, start: int, extent: int, image: int, target: int) -> None:
        self.start, self.step, self.image = start, extent / target, image
        self.inside = start >= 0 and start + extent <= image
        self.first = max(ceil(-start / self.step - 0.5), 0)
        self.last = min(ceil((image - start) / self.step - 0.5), target)

    def source(self) -> tuple[int, int]:
        """Whole pixels of the image that the result's pixels cover, as nearly as can be; at least one."""
        low = min(max(floor(self.start + self.first * self.step + 0.5), 0), self.image - 1)
        high = min(max(floor(self.start + self.last * self.step + 0.5), low + 1), self.image)
        return low, high


def _part(image: Bytes, across: _Axis, down: _Axis, code: int) -> Bytes:
    """The visible part of the image in the result's scale, (last - first) pixels each way."""
    size = (across.last - across.first, down.last - down.first)
    if code != cv2.INTER_LINEAR and across.step > 1 and down.step > 1:
        (x0, x1), (y0, y1) = across.source(), down.source()
        return np.asarray(cv2.resize(image[y0:y1, x0:x1], size, interpolation=code), np.uint8)
    code = cv2.INTER_LINEAR if code == cv2.INTER_AREA else code
    shift = [a.start + (a.first + 0.5) * a.step - 0.5 for a in (across, down)]
    to_image = np.array([[across.step, 0.0, shift[0]], [0.0, down.step, shift[1]]])
    warped = cv2.warpAffine(image, to_image, size, flags=code | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)


def _coloured(image: Bytes, plan: AugmentPlan, spec: Photometric | None) -> Bytes:
    """The plan's colour changes on bytes: neighbouring tables become one, neighbours in HSV share one visit."""
    if spec is None or not plan.changes:
        return image
    if spec.space == "yiq":
        return np.clip(np.rint(in_yiq(image, plan.changes)), 0, 255).astype(np.uint8)
    out, left = image, [c for c in plan.changes if c.kind == "channels" or not _idle(c)]
    while left:
        change = left.pop(0)
        if change.kind == "channels":
            out = np.ascontiguousarray(out[..., change.order])
        elif change.kind in ("brightness", "contrast"):
            values = table(change, spec)
            while left and left[0].kind in ("brightness", "contrast"):
                values = table(left.pop(0), spec)[values]
            out = np.asarray(cv2.LUT(out, values), np.uint8)
        else:
            together = [change]
            while left and left[0].kind in ("saturation", "hue"):
                together.append(left.pop(0))
            out = through_hsv(out, together, spec)
    return out


def _idle(change: ColourChange) -> bool:
    return change.value == (1.0 if change.kind in ("contrast", "saturation") else 0.0)
