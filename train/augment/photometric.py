"""Colour changes: which ones are drawn, and how each source's arithmetic carries them out on BGR pixels.

Bytes (Caffe ``im_transforms.cpp``, ChainerCV ``random_distort``, jedol): every change maps each of the 256 values to one of
256, so tables are exact. Floats: ssd.pytorch goes through OpenCV's float HSV once per image even if nothing there changes, which
alters pixels that brightness has made negative; SSD.TensorFlow limits saturation and the result. GluonCV's changes
(``data/transforms/experimental/image.py``) are all affine in RGB, so one 3x4 matrix does them together: saturation mixes with the
grey 0.299 R + 0.587 G + 0.114 B; hue turns I and Q by an angle between rounded NTSC matrices, not exact inverses of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from ssdconv.train.augment.spec import ColourChange, Photometric

_GREY = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_FROM_YIQ = np.array([[1.0, 0.956, 0.621], [1.0, -0.272, -0.647], [1.0, -1.107, 1.705]])


def yiq_matrix(changes: Sequence[ColourChange]) -> npt.NDArray[np.float64]:
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


def in_yiq(image: npt.NDArray[Any], changes: Sequence[ColourChange]) -> npt.NDArray[np.float32]:
    """The changed BGR image in float32, not limited to 0..255."""
    if not changes:
        return image.astype(np.float32)
    rgb = yiq_matrix(changes)
    bgr = np.concatenate([rgb[::-1, 2::-1], rgb[::-1, 3:]], axis=1)
    return np.asarray(cv2.transform(image.astype(np.float32), bgr.astype(np.float32)))


Image = npt.NDArray[Any]
_ORDERS = tuple(permutations((0, 1, 2)))
_VALUES = np.arange(256)


def draw_changes(spec: Photometric, rng: np.random.Generator) -> tuple[ColourChange, ...]:
    """The changes of one image, in order."""
    changes = []
    for kind in spec.orders[int(rng.integers(len(spec.orders)))]:
        done, place = rng.random() < spec.probability, rng.random()
        if kind in ("brightness", "hue"):
            limit = spec.brightness if kind == "brightness" else spec.hue
            value = (2 * place - 1) * limit
            if kind == "hue" and spec.hue_step:
                value = np.floor(place * (2 * limit + 1)) - limit
            neutral = 0.0
        else:
            low, high = spec.contrast if kind == "contrast" else spec.saturation
            value, neutral = low + (high - low) * place, 1.0
        if done:
            changes.append(ColourChange(cast(Any, kind), float(value)))
        elif kind == "saturation" and _always_through_hsv(spec):
            changes.append(ColourChange("saturation", neutral))
    if spec.channel_shuffle and rng.random() < spec.channel_shuffle:
        changes.append(ColourChange("channels", order=cast(Any, _ORDERS[int(rng.integers(6))])))
    return tuple(changes)


def _always_through_hsv(spec: Photometric) -> bool:
    return spec.space == "hsv" and (spec.arithmetic == "float" or spec.visits == "once")


def apply_changes(image: npt.NDArray[np.uint8], changes: Sequence[ColourChange], spec: Photometric) -> Image:
    """The changed image: uint8, or float32 with ``arithmetic`` ``float``."""
    if spec.arithmetic != "float":
        return in_bytes(image, changes, spec)
    out = in_yiq(image, changes) if spec.space == "yiq" else _in_floats(image.astype(np.float32), changes, spec)
    return np.clip(out, 0.0, 255.0) if spec.clip else out


def in_bytes(image: npt.NDArray[np.uint8], changes: Sequence[ColourChange], spec: Photometric) -> npt.NDArray[np.uint8]:
    """All changes on bytes, each rounded or cut to bytes by itself."""
    out: Image = image
    left = list(changes)
    while left:
        change = left.pop(0)
        if change.kind == "channels":
            out = np.ascontiguousarray(out[..., change.order])
        elif change.kind in ("brightness", "contrast"):
            out = cv2.LUT(out, table(change, spec))
        else:
            together = [change]
            while spec.visits == "once" and left and left[0].kind in ("saturation", "hue"):
                together.append(left.pop(0))
            out = through_hsv(out, together, spec)
    return out


def through_hsv(
    image: npt.NDArray[np.uint8], changes: Sequence[ColourChange], spec: Photometric
) -> npt.NDArray[np.uint8]:
    """Saturation and hue changes on bytes, in one visit to HSV (hue 0..179)."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    tables = np.repeat(_VALUES.astype(np.uint8)[:, None], 3, axis=1)
    for change in changes:
        column = 1 if change.kind == "saturation" else 0
        tables[:, column] = table(change, spec)[tables[:, column]]
    return np.asarray(cv2.cvtColor(cv2.LUT(hsv, tables[:, None, :]), cv2.COLOR_HSV2BGR))


def table(change: ColourChange, spec: Photometric) -> npt.NDArray[np.uint8]:
    """(256,) what a change makes of each byte; of a hue, on OpenCV's scale of half degrees."""
    kind = np.dtype(
        np.float64 if spec.arithmetic == "truncate" else np.float32
    )  # cut off, no whole product may fall short
    values: npt.NDArray[Any] = _VALUES.astype(kind)
    amount = kind.type(change.value)
    if change.kind == "hue":
        values = values + (amount / 2 if spec.hue_unit == "degrees" else amount)
        if spec.hue_edge == "wrap":
            values = values % 180
    else:
        pivot = kind.type(spec.pivot if change.kind == "contrast" else 0.0)
        values = values + amount if change.kind == "brightness" else (values - pivot) * amount + pivot
    whole = np.trunc(values) if spec.arithmetic == "truncate" else np.rint(values)
    if change.kind == "hue" and spec.hue_edge == "wrap":
        whole = whole % 180
    return np.clip(whole, 0, 255).astype(np.uint8)


def _in_floats(
    image: npt.NDArray[np.float32], changes: Sequence[ColourChange], spec: Photometric
) -> npt.NDArray[np.float32]:
    out = image
    left = list(changes)
    while left:
        change = left.pop(0)
        if change.kind == "channels":
            out = out[..., change.order]
        elif change.kind == "brightness":
            out = out + np.float32(change.value)
        elif change.kind == "contrast":
            out = (out - np.float32(spec.pivot)) * np.float32(change.value) + np.float32(spec.pivot)
        else:
            together = [change]
            while left and left[0].kind in ("saturation", "hue"):
                together.append(left.pop(0))
            out = _float_hsv(out, together, spec)
    return np.ascontiguousarray(out)


def _float_hsv(
    image: npt.NDArray[np.float32], changes: Sequence[ColourChange], spec: Photometric
) -> npt.NDArray[np.float32]:
    """OpenCV's float HSV: hue in degrees, saturation 0..1, value on the image's own scale."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    for change in changes:
        if change.kind == "saturation":
            hsv[..., 1] = hsv[..., 1] * np.float32(change.value)
            if spec.clip:
                np.clip(hsv[..., 1], 0.0, 1.0, out=hsv[..., 1])
        else:
            hsv[..., 0] = (hsv[..., 0] + np.float32(change.value * (2 if spec.hue_unit == "half_degrees" else 1))) % 360
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))
