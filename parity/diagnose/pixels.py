"""Known mistakes in preparing pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, get_args

from ssdconv.parity.diagnose.hypothesis import THREADS, ConfigHypothesis
from ssdconv.parity.diagnose.net import Net, Role
from ssdconv.ssd_ref.config import Pixels, Resize, SSDConfig

Changes = Iterator[tuple[str, Callable[[Net], Net]]]
Triple = tuple[float, ...]

MEANS: tuple[Triple, ...] = (
    (104.0, 117.0, 123.0),
    (103.939, 116.779, 123.68),
    (103.94, 116.78, 123.68),
    (127.5, 127.5, 127.5),
    (0.406, 0.456, 0.485),
    (0.0, 0.0, 0.0),
)
"""Means in BGR: Caffe's SSD, keras.applications, SSD.TensorFlow, MobileNet-SSD, ImageNet on 0..1, none."""
STDS: tuple[Triple, ...] = ((1.0, 1.0, 1.0), (0.225, 0.224, 0.229), (127.5, 127.5, 127.5))
SCALES = (1.0, 0.007843, 1 / 127.5, 1 / 255.0)


def _set(**fields: Any) -> Callable[[Net], Net]:
    return lambda net: net.with_pixels(replace(net.config.pixels, **fields))


def _reversed(net: Net) -> Net:
    pixels = net.config.pixels
    return net.with_pixels(replace(pixels, order=_other(pixels), mean=pixels.mean[::-1], std=pixels.std[::-1]))


def _other(pixels: Pixels) -> Any:
    return "RGB" if pixels.order == "BGR" else "BGR"


def _of_channels(bgr: Triple, pixels: Pixels) -> Triple:
    """A mean or deviation in BGR as these pixels have it; of grey ones the middle."""
    return (bgr[1],) if pixels.channels == 1 else bgr[::-1] if pixels.order == "RGB" else bgr


def order(net: Net, truth: SSDConfig | None) -> Changes:
    """The other channel order, with the means going along or staying."""
    own = net.config.pixels
    if own.channels == 1:
        return
    yield f"pixels are {own.order} instead of {_other(own)}", _set(order=_other(own))
    if own.mean[::-1] != own.mean or own.std[::-1] != own.std:
        yield f"pixels and mean are {own.order} instead of {_other(own)}", _reversed


def mean_order(net: Net, truth: SSDConfig | None) -> Changes:
    """Mean and deviation in the other order than the channels."""
    own = net.config.pixels
    if own.mean[::-1] != own.mean or own.std[::-1] != own.std:
        change = _set(mean=own.mean[::-1], std=own.std[::-1])
        yield f"mean {_text(own.mean)} belongs to {_other(own)} pixels, these are {own.order}", change


def mean(net: Net, truth: SSDConfig | None) -> Changes:
    """Other means, then the same with the unit that they belong to."""
    own = net.config.pixels
    asked = [truth.pixels.mean] if truth else []
    known = [_of_channels(m, own) for m in MEANS]
    for value in _new([*asked, *known], own.mean):
        if value != own.mean[::-1] or value in asked:
            yield f"mean {_text(own.mean)} instead of {_text(value)}", _set(mean=value)


def std(net: Net, truth: SSDConfig | None) -> Changes:
    """Other deviations."""
    own = net.config.pixels
    asked = [truth.pixels.std] if truth else []
    known = [_of_channels(s, own) for s in STDS]
    for value in _new([*asked, *known], own.std):
        yield f"deviation {_text(own.std)} instead of {_text(value)}", _set(std=value)


def scale(net: Net, truth: SSDConfig | None) -> Changes:
    """Another factor, or pixels of 0..1 for 0..255."""
    own = net.config.pixels
    for value in _new([*([truth.pixels.scale] if truth else []), *SCALES], own.scale):
        yield f"pixels are multiplied by {own.scale:g} instead of {value:g}", _set(scale=value)
    for unit in _new([*([truth.pixels.unit] if truth else []), 1.0, 255.0], own.unit):
        yield f"pixels are divided by {own.unit:g} instead of {unit:g}", _set(unit=unit)


def resize(net: Net, truth: SSDConfig | None) -> Changes:
    """Another resize rule."""
    own = net.config.pixels.resize
    asked = [truth.pixels.resize] if truth else []
    for rule in _new([*asked, *get_args(Resize)], own):
        yield f"resized by {own} instead of {rule}", _set(resize=rule)


def _new(values: list[Any], own: Any) -> Iterator[Any]:
    return iter(v for v in dict.fromkeys(values) if v != own)


def _text(values: Triple) -> str:
    return ", ".join(f"{v:g}" for v in values)


FIX = "set `pixels` of the config as the source has it, or convert again naming the network: `--network NAME`"
INPUT: frozenset[Role] = frozenset({"input"})

PIXELS: tuple[ConfigHypothesis, ...] = (
    ConfigHypothesis(
        "pixel-order", "the image is fed in the other channel order",
        "OpenCV reads BGR and PIL reads RGB; feeding the wrong one costs about 5 mAP and raises no error.",
        f"{THREADS}amdegroot/ssd.pytorch/issues/44", "pixels", INPUT, FIX, order,
    ),
    ConfigHypothesis(
        "mean-order", "the mean is subtracted in the other channel order",
        "The means of red and blue differ by 19 levels, and are exchanged.",
        "fact: trap 2, mean order", "pixels", INPUT, FIX, mean_order,
    ),
    ConfigHypothesis(
        "mean", "another mean is subtracted",
        "Sources subtract different means (104, 117, 123; 103.94, 116.78, 123.68; 127.5; none).",
        f"{THREADS}weiliu89/caffe/issues/456", "pixels", INPUT, FIX, mean,
    ),
    ConfigHypothesis(
        "scale", "pixels are scaled differently",
        "Some sources work on 0..255, some on 0..1 or -1..1 (MobileNet-SSD multiplies by 0.007843).",
        f"{THREADS}manishsoni1908/Mobilenet-ssd-keras/issues/12", "pixels", INPUT, FIX, scale,
    ),
    ConfigHypothesis(
        "std", "pixels are divided by another deviation",
        "GluonCV divides by ImageNet's deviation per channel, Caffe's SSD by nothing.",
        "fact: input pixels of GluonCV", "pixels", INPUT, FIX, std,
    ),
    ConfigHypothesis(
        "resize", "images are resized by another rule",
        "OpenCV, PIL, TensorFlow 1 and MXNet's interp=9 give different pixels; measured cost 2 to 3 mAP with PIL.",
        f"{THREADS}rwightman/pytorch-pretrained-gluonresnet/issues/1", "pixels", INPUT, FIX, resize,
    ),
)  # fmt: skip
