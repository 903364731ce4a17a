"""Whether a source whose code fixes pixels, priors and layers would compute the same from a network's tensors.

Checkpoints of one source can be written for another one. Its code then feeds its own pixels in its own channel order and
decodes with its own priors, so the first layer may have to be turned, and differences that would show must be refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ssdconv.converters.ops import flip_channels
from ssdconv.converters.tensors import Array
from ssdconv.errors import MappingError
from ssdconv.ssd_ref.config import Pixels, SSDConfig

FIRST_LAYER = "backbone.conv1_1.conv.weight"
"""The reference tensor whose input channels are the image's."""


def first_layer_as(order: str, config: SSDConfig, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors with the first convolution's input channels in ``order``: for a source whose code feeds that order.

    The network then reads pixels of ``order`` with the mean reversed too, and computes the same.
    """
    out = dict(tensors)
    if config.pixels.order != order:
        out[FIRST_LAYER] = np.ascontiguousarray(flip_channels().apply(tensors[FIRST_LAYER]))
    return out


def same_extras(config: SSDConfig, other: SSDConfig) -> bool:
    """Whether two VGG16 SSDs have the same layers after the backbone, up to their width."""
    assert config.staged is not None and other.staged is not None
    mine, theirs = (
        [[(s.name, s.kernel, s.stride, s.padding, s.dilation) for s in stage] for stage in c.staged.extras.stages]
        for c in (config, other)
        if c.staged is not None
    )
    options = (dict(config.staged.backbone.options), dict(other.staged.backbone.options))
    for option in options:
        option.pop("width", None)
    anchors = [[len(m.cells) for m in c.priors] for c in (config, other)]
    return mine == theirs and options[0] == options[1] and anchors[0] == anchors[1]


def check_pixels(config: SSDConfig, mean: Sequence[float], source: str) -> None:
    """Raise unless the network reads pixels of 0..255 with ``mean`` subtracted, in either channel order.

    How images are resized may differ: that moves pixels by less than a level, and is told in the documentation.

    Args:
        mean: what ``source`` subtracts, in RGB.

    Raises:
        MappingError: it was trained on other pixels than ``source`` would feed.
    """
    factors, shifts = raw_pixels(config.pixels)
    if config.pixels.order == "BGR":
        shifts = shifts[::-1]
    same = all(math.isclose(f, 1.0, rel_tol=1e-6) for f in factors)
    if not same or any(abs(a - b) > 0.01 for a, b in zip(shifts, mean, strict=True)):
        raise MappingError(
            f"{source} would feed this network other pixels than it was trained on",
            where=config.name,
            expected=f"RGB mean {tuple(mean)}, scale 1",
            got=f"RGB mean {tuple(round(s, 3) for s in shifts)}, scale {tuple(round(f, 5) for f in factors)}",
        )


def raw_pixels(pixels: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Factor and mean per channel on pixels of 0..255: the input is ``(x - mean) * factor``."""
    factors = tuple(pixels.scale / (pixels.unit * s) for s in pixels.std)
    return factors, tuple(m * pixels.unit for m in pixels.mean)


def prior_gap(config: SSDConfig, other: SSDConfig) -> float:
    """Largest difference in pixels between the prior sizes of two networks with equally many anchors per cell.

    Sizes beyond the image count as the image's: whether they are clamped is the source's way of decoding.
    """
    side = float(max(config.pixels.size))
    gaps = [
        abs(min(a, side) - min(b, side))
        for mine, theirs in zip(config.priors, other.priors, strict=True)
        for cell, twin in zip(mine.cells, theirs.cells, strict=True)
        for a, b in zip(cell, twin, strict=True)
    ]
    return max(gaps, default=0.0)
