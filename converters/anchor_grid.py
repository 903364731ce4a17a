"""Prior maps from the boxes of a file: what the anchors of a graph are a grid of, whatever made them.

Anchors that lie on no grid are refused: the reference's priors are grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ssdconv.converters.tensors import Array
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import PriorMap
from ssdconv.ssd_ref.priors import prior_corners

TOLERANCE = 1e-6
"""Of the image: a few roundings of a float32 near 1."""


def prior_maps(
    corners: Array,
    grids: Sequence[tuple[int, int, int]],
    size: tuple[int, int],
    variances: tuple[float, float, float, float],
    where: str,
) -> tuple[PriorMap, ...]:
    """The maps whose priors are the given boxes, in the boxes' own order of cells and of anchors within a cell.

    Args:
        corners: (P, 4) xmin, ymin, xmax, ymax as fractions of the image, float32 as the source computes them.
        grids: rows, columns and anchors of a cell of each feature map, in the heads' order.
        size: input height and width in pixels.
        variances: of every prior.
        where: for messages.

    Raises:
        FormatError: the boxes are not the grids' cells one after the other, each with the same anchors.
    """
    wanted = sum(rows * columns * count for rows, columns, count in grids)
    if wanted != len(corners):
        raise FormatError(
            "the anchors are not as many as the heads' boxes", where=where, expected=wanted, got=len(corners)
        )
    maps: list[PriorMap] = []
    start = 0
    for rows, columns, count in grids:
        stop = start + rows * columns * count
        part = np.asarray(corners[start:stop], np.float64).reshape(rows, columns, count, 4)
        maps.append(_map(part, (rows, columns), size, variances, where, len(maps)))
        start = stop
    return tuple(maps)


def _map(
    part: Array,
    grid: tuple[int, int],
    size: tuple[int, int],
    variances: tuple[float, float, float, float],
    where: str,
    index: int,
) -> PriorMap:
    """One map: cells from the anchors' sides, steps and offsets from their centres."""
    height, width = size
    middle = (part[..., :2] + part[..., 2:]) / 2 * (width, height)
    sides = (part[..., 2:] - part[..., :2]) * (width, height)
    clipped = bool(part.min() >= 0 and part.max() <= 1 and (part == 0).any() and (part == 1).any())
    centre = (grid[0] // 2, grid[1] // 2)
    cells = np.median(sides, axis=(0, 1)) if not clipped else sides[centre]
    clip: Literal["none", "corners"] = "corners" if clipped else "none"
    rows, columns = np.median(middle[..., 1], axis=(1, 2)), np.median(middle[..., 0], axis=(0, 2))
    steps, offsets = [], []
    for line, count, length in ((rows, grid[0], height), (columns, grid[1], width)):
        step, offset = _line(line, count, length)
        steps.append(step)
        offsets.append(offset)
    found = PriorMap(
        grid=grid,
        step=(steps[0], steps[1]),
        box_sizes=tuple((_short(w, width), _short(h, height)) for w, h in cells),
        offset=offsets[0] if offsets[0] == offsets[1] else (offsets[0], offsets[1]),
        clip=clip,
        variances=variances,
        arithmetic="double",
    )
    again = prior_corners((found,), size).numpy().reshape(part.shape)
    worst = float(np.abs(again - part).max())
    if not worst <= TOLERANCE * max(1.0, float(np.abs(part).max())):
        raise FormatError(
            f"the anchors of map {index} are no grid of {grid[0]}x{grid[1]} cells with the same boxes in each",
            where=where,
            expected=f"within {TOLERANCE} of the image",
            got=f"{worst:.3g} off",
            hint="priors that are no grid cannot be told by a config",
        )
    return found


def _line(line: Array, count: int, length: int) -> tuple[float, float]:
    """Step and offset of evenly spaced centres, in pixels and steps; the usual ones where rounding allows."""
    even = length / count
    usual = (np.arange(count) + 0.5) * even
    if np.abs(line - usual).max() <= TOLERANCE * length:
        return even, 0.5
    step = float(line[-1] - line[0]) / (count - 1) if count > 1 else even
    near = round(step)
    if abs(step - near) <= TOLERANCE * length / max(count - 1, 1):
        step = float(near)
    step = step or even
    offset = float(line[0]) / step
    return step, 0.5 if abs(offset - 0.5) * step <= TOLERANCE * length else round(offset, 6)


def _short(value: float, length: int) -> float:
    """The shortest decimal within a quarter of a float32's rounding near 1, in pixels of an image ``length`` long."""
    for digits in range(2, 10):
        near = float(f"{value:.{digits}g}")
        if abs(near - value) <= 3e-8 * length:
            return near
    return value
