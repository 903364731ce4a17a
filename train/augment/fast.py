"""A plan carried out in one step: only the visible part of the image is resampled, straight to its place in the result.

No canvas is built and colours are changed on the small image. Boxes are the plan's own. Pixels differ from the faithful way by
what exchanging colour changes and resampling does, by clipping to bytes where the source keeps floats, and at the rim between
image and canvas (less than half a pixel). Re-encoding to JPEG is left out, and Lanczos is done as cubic, which costs a twentieth.
"""

from __future__ import annotations

from math import ceil, floor

import cv2
import numpy as np
import numpy.typing as npt

from ssdconv.train.augment import yiq
from ssdconv.train.augment.fill import Colour
from ssdconv.train.augment.photometric import table, through_hsv
from ssdconv.train.augment.resizing import CODES
from ssdconv.train.augment.spec import AugmentSpec, Change, Photometric, Place, Plan, Window

Bytes = npt.NDArray[np.uint8]
_BLACK: Colour = (0.0, 0.0, 0.0)
_CODES = CODES | {"lanczos4": cv2.INTER_CUBIC}


def render(image: Bytes, plan: Plan, spec: AugmentSpec, size: tuple[int, int], fill: Colour | None) -> Bytes:
    """Carry out a plan; arguments as in ``faithful.render``, but always (height, width, 3) uint8."""
    height, width = size
    first = plan.window if plan.crop_first else None
    if first is not None:
        image = image[first.top : first.top + first.height, first.left : first.left + first.width]
    canvas = plan.place or Place(0, 0, image.shape[1], image.shape[0])
    cut = (None if first else plan.window) or Window(0, 0, canvas.width, canvas.height)
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


def _coloured(image: Bytes, plan: Plan, spec: Photometric | None) -> Bytes:
    """The plan's colour changes on bytes: neighbouring tables become one, neighbours in HSV share one visit."""
    if spec is None or not plan.changes:
        return image
    if spec.space == "yiq":
        return np.clip(np.rint(yiq.apply(image, plan.changes)), 0, 255).astype(np.uint8)
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


def _idle(change: Change) -> bool:
    return change.value == (1.0 if change.kind in ("contrast", "saturation") else 0.0)
