"""Rows and columns of the maps that a staged network's priors stand on, from its layers alone. Imports no torch."""

from __future__ import annotations

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.backbones.plain import UNITS, PoolSpec, ScaleSpec
from ssdconv.ssd_ref.config import ConvSpec, Heads, Staged

Size = tuple[int, int]


def can_tell(staged: Staged | None) -> bool:
    """Whether ``grids_of`` knows the backbone (one without branches)."""
    return staged is not None and staged.backbone.kind in UNITS and staged.extras.pool == "none"


def grids_of(staged: Staged, size: Size) -> tuple[Size, ...]:
    """Rows and columns of each head's output, in the order of the maps.

    Args:
        staged: a network for which ``can_tell`` is true.
        size: input height and width in pixels.

    Raises:
        UsageError: the input is too small for the layers.
    """
    maps = []
    at = size
    for unit in UNITS[staged.backbone.kind](**staged.backbone.options):
        if isinstance(unit, PoolSpec):
            at = _pooled(at, unit)
        elif not isinstance(unit, ScaleSpec):
            at = _convolved(at, unit)
        if unit.name in staged.backbone.taps:
            maps.append(at)
    for stage in staged.extras.stages:
        for spec in stage:
            at = _convolved(at, spec)
        maps.append(at)
    grids = tuple(_headed(at, staged.heads) for at in maps)
    if any(side < 1 for grid in grids for side in grid):
        raise UsageError("the input is too small for this network's layers", got=f"{size[1]}x{size[0]} pixels")
    return grids


def _convolved(at: Size, spec: ConvSpec) -> Size:
    rows, columns = (_side(n, spec.kernel, spec.stride, spec.padding, spec.dilation) for n in at)
    return rows, columns


def _side(side: int, kernel: int, stride: int, padding: int | str, dilation: int) -> int:
    if isinstance(padding, str):
        return -(-side // stride)
    return (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _pooled(at: Size, spec: PoolSpec) -> Size:
    if spec.rounding == "same":
        return -(-at[0] // spec.stride), -(-at[1] // spec.stride)
    sides = []
    for side in at:
        room = side + 2 * spec.padding - spec.kernel
        steps = -(-room // spec.stride) if spec.rounding == "ceil" else room // spec.stride
        if spec.padding and spec.rounding == "ceil" and steps * spec.stride >= side + spec.padding:
            steps -= 1  # a window must start inside the image or its left padding
        sides.append(steps + 1)
    return sides[0], sides[1]


def _headed(at: Size, heads: Heads) -> Size:
    shrink = heads.kernel - 1 - 2 * heads.pad
    if heads.before is not None:
        at = _convolved(at, heads.before)
    return at[0] - shrink, at[1] - shrink
