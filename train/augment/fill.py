"""The colour of a canvas around a smaller image."""

from __future__ import annotations

from typing import Literal

from ssdconv.ssd_ref.config import Pixels

Colour = tuple[float, float, float]


def fill_value(pixels: Pixels, fill: Literal["mean", "mean_uint8", "zero"]) -> Colour:
    """The fill in BGR on 0..255: the network's mean pixel, the mean cut to whole numbers, or black."""
    if fill == "zero":
        return (0.0, 0.0, 0.0)
    first, second, third = (m * pixels.unit for m in (pixels.mean * 3 if pixels.channels == 1 else pixels.mean))
    colour = (first, second, third) if pixels.order != "RGB" else (third, second, first)
    return colour if fill == "mean" else (float(int(colour[0])), float(int(colour[1])), float(int(colour[2])))
