"""Images prepared by the source project's own code, against ours: the link of the pixels, where that code can be run.

Differences are in levels of a picture (0..255), whatever the network's units. Rounding explains 0.01 of a level; a resize that rounds to
whole levels may fall on the other side of a half now and then, so a few values per hundred thousand may be off by one level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ssdconv.converters.tensors import Array
from ssdconv.parity.inputs import Image
from ssdconv.ssd_ref.config import Pixels

OriginalPixels = Callable[[Sequence[Image]], list[Array]]
"""From images as ``ssd_ref.image_file`` reads them (BGR uint8) to tensors (3, height, width)."""
ROUNDING = 0.01
ONE_LEVEL = 1.01
OFTEN = 1e-4
"""Share of values that may fall on the other side of a half."""


def differing_pixels(
    prepared: Sequence[tuple[str, Array]], original: Sequence[Array], pixels: Pixels
) -> tuple[str, tuple[str, ...]]:
    """What was compared, in words, and the inputs that differ by more than rounding.

    Args:
        prepared: (input's name, (1, C, height, width)) as prepared here.
        original: the same images as the project's code prepares them.
        pixels: the units.
    """
    worst, bad = 0.0, []
    level = np.array([pixels.scale / (pixels.unit * s) for s in pixels.std], np.float64).reshape(-1, 1, 1)
    for (name, mine), theirs in zip(prepared, original, strict=True):
        if mine[0].shape != theirs.shape:
            bad.append(f"{name}: {mine[0].shape} instead of {theirs.shape}")
            continue
        off = np.abs(mine[0].astype(np.float64) - theirs.astype(np.float64)) / level
        often = float((off > ROUNDING).mean())
        worst = max(worst, float(off.max()))
        if not off.max() <= ONE_LEVEL or often > OFTEN:
            bad.append(f"{name}: up to {off.max():.3g} levels off, {often:.1%} of the values by more than rounding")
    return f"{len(prepared)} inputs, at most {worst:.1e} of a level off", tuple(bad)
