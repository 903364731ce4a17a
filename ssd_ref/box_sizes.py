"""Widths and heights of the priors of one cell, from the parameters of Caffe's PriorBox layer.

Caffe's order for each minimum size: the square of that size, the square of ``sqrt(min * max)`` when a maximum is given,
then ``(min * sqrt(r), min / sqrt(r))`` for each aspect ratio r and, with ``flip``, for 1/r right after it.
Torch-free: network tables and the prototxt reader use it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ssdconv.errors import FormatError

_SAME_RATIO = 1e-6


def caffe_ratios(ratios: Sequence[float], flip: bool = True) -> tuple[float, ...]:
    """Aspect ratios (width / height) after the square, as Caffe expands them: repeats and 1 dropped, flips added.

    Values are float32, as the layer holds them; a ratio within 1e-6 of an earlier one counts as a repeat.

    Raises:
        FormatError: a ratio is not a positive number.
    """
    known = [1.0]
    for value in ratios:
        ratio = float(np.float32(value))
        if not 0 < ratio < math.inf:
            raise FormatError("an aspect ratio must be a positive number", got=value)
        if any(abs(ratio - other) < _SAME_RATIO for other in known):
            continue
        known.append(ratio)
        if flip:
            known.append(float(np.float32(1.0 / ratio)))
    return tuple(known[1:])


def caffe_box_sizes(
    min_sizes: Sequence[float],
    max_sizes: Sequence[float] = (),
    ratios: Sequence[float] = (),
    flip: bool = True,
    truncate: bool = True,
) -> tuple[tuple[float, float], ...]:
    """(width, height) in input pixels of each prior of a cell, in Caffe's order.

    Args:
        min_sizes, max_sizes: in input pixels; no maximum, or one per minimum.
        ratios: aspect ratios besides 1.
        flip: also use 1/ratio for each ratio.
        truncate: cut sizes to whole pixels first, as Caffe does (35.84 becomes 35), and round like its float32
            arithmetic, to the last bit. False is for sources that use the sizes as given, in double precision with
            one rounding to float32.

    Raises:
        FormatError: a size or ratio is not positive, a maximum is not above its minimum, or the counts differ.
    """
    if not min_sizes or (max_sizes and len(max_sizes) != len(min_sizes)):
        raise FormatError(
            "a prior layer needs minimum sizes, and no maximum or one for each",
            expected=f"{max(len(min_sizes), 1)} minimum and 0 or {max(len(min_sizes), 1)} maximum sizes",
            got=f"{len(min_sizes)} and {len(max_sizes)}",
        )
    expanded = caffe_ratios(ratios, flip)
    cells: list[tuple[float, float]] = []
    for index, declared in enumerate(min_sizes):
        small = _size(declared, truncate)
        cells.append((_f32(small), _f32(small)))
        if max_sizes:
            large = _size(max_sizes[index], truncate)
            if not max_sizes[index] > declared:
                raise FormatError("a maximum size must exceed its minimum", expected=f"> {declared}", got=large)
            middle = _f32(math.sqrt(small * large))
            cells.append((middle, middle))
        for ratio in expanded:
            if truncate:  # float32 at each step: the layer takes the root of a float
                root = np.sqrt(np.float32(ratio))
                cells.append((float(np.float32(small) * root), float(np.float32(small) / root)))
            else:
                cells.append((_f32(small * math.sqrt(ratio)), _f32(small / math.sqrt(ratio))))
    return tuple(cells)


def _size(value: float, truncate: bool) -> float:
    if not 0 < value < math.inf:
        raise FormatError("a prior size must be a positive number of pixels", got=value)
    return float(int(np.float32(value))) if truncate else float(value)


def _f32(value: float) -> float:
    return float(np.float32(value))
