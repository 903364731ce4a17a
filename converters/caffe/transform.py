"""Pixels of a Caffe net: its input blob's size, and the ``transform_param`` of its data layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ssdconv.converters.caffe.net import CaffeLayer, Shape
from ssdconv.converters.caffe.specs import short_float
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.caffe_layers.params import INT_MAX, Params
from ssdconv.ssd_ref.config import Pixels
from ssdconv.ssd_ref.evidence import PIXELS_ASSUMED, PIXELS_RESIZE, Notice


def input_size(shape: Shape, data: Iterable[CaffeLayer], where: str) -> tuple[int, int] | None:
    """(height, width) in pixels: from the input blob's shape, else from ``resize_param`` or ``crop_size``, None where none tells.

    Raises:
        FormatError: neither a colour nor a grey image, or a size out of range.
    """
    if shape:
        if len(shape) != 4 or shape[1] not in (1, 3) or not all(0 < side <= INT_MAX for side in shape):
            expected = "(N, 3, height, width), or (N, 1, height, width) for grey"
            raise FormatError("the input is no image", where=where, expected=expected, got=shape)
        return shape[2], shape[3]
    for layer in data:
        p = _transform(layer)
        resize = p.message("resize_param")
        height, width = resize.integer("height", 0), resize.integer("width", 0)
        if not height or not width:
            crop = p.integer("crop_size", 0)
            height, width = p.integer("crop_h", crop), p.integer("crop_w", crop)
        if height and width:
            return height, width
    return None


def channels_told(data: Iterable[CaffeLayer]) -> int:
    """1 where a data layer reads pictures in grey (``force_gray``, ``is_color: false``), 3 where one forces colour, else 0."""
    for layer in data:
        p = _transform(layer)
        if p.flag("force_gray", False):
            return 1
        if p.flag("force_color", False):
            return 3
        image = Params(layer.params, f"layer {layer.name!r} ({layer.type})").message("image_data_param")
        if not image.flag("is_color", True):
            return 1
    return 0


def pixels(size: tuple[int, int], data: Iterable[CaffeLayer], channels: int = 3) -> tuple[Pixels, tuple[str, ...]]:
    """Pixels (BGR as OpenCV reads them, or grey) and what had to be assumed.

    The mean is ``mean_value`` (one, or one per channel: blue, green, red), the scale ``scale``; Caffe subtracts first, then multiplies.
    The first data layer that tells either is believed.

    Raises:
        FormatError: a mean of neither one value nor one per channel.
    """
    order: Literal["BGR", "GRAY"] = "BGR" if channels == 3 else "GRAY"
    for layer in data:
        p = _transform(layer)
        told = [name for name in ("mean_value", "mean_file", "scale") if name in p]
        if not told:
            continue
        means = p.numbers("mean_value") or (0.0,)
        if len(means) not in (1, channels):
            raise p.fail(f"mean_value must be given once, or for each of {channels} channels", got=means)
        mean = tuple(short_float(v) for v in (means * channels if len(means) == 1 else means))
        warnings = []
        if "mean_file" in p and "mean_value" not in p:
            warnings.append(Notice(PIXELS_ASSUMED, "the mean is in a file of its own (mean_file): mean 0 is assumed"))
        elif "mean_value" not in p:
            warnings.append(Notice(PIXELS_ASSUMED, "the net does not tell its pixel mean: mean 0 is assumed"))
        mode = p.message("resize_param").data.get("resize_mode", "WARP")
        if mode != "WARP":
            text = f"the net was fed with resize_mode {mode}; images are warped to the input size instead"
            warnings.append(Notice(PIXELS_RESIZE, text))
        return Pixels(size, order, mean, (1.0,) * channels, scale=short_float(p.number("scale", 1.0))), tuple(warnings)
    untold = "the net does not tell its pixel mean and scale: mean 0 and scale 1 are assumed"
    return Pixels(size, order), (Notice(PIXELS_ASSUMED, untold),)


def _transform(layer: CaffeLayer) -> Params:
    return Params(layer.params, f"layer {layer.name!r} ({layer.type})").message("transform_param")
