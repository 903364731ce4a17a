"""Shape arithmetic of Caffe's layers that only move, regroup or choose values: Reshape, Flatten, Permute, Slice, ArgMax, Crop.

Shapes are tuples of axis lengths, batch first. Sources: the layers of the same names in BVLC Caffe; permute_layer.cpp
of the SSD branch.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

from ssdconv.ssd_ref.caffe_layers.params import INT_MAX, Params

Shape = tuple[int, ...]
MAX_AXES = 32
"""Caffe's ``kMaxBlobAxes``."""


def reshape_to(p: Params, shape: Shape) -> Shape:
    """Output shape of a Reshape layer: dim 0 copies the input's axis, -1 takes what is left.

    Only the ``num_axes`` axes from ``axis`` on are replaced.
    """
    dims = p.message("shape").integers("dim", low=-1)
    if len(dims) > MAX_AXES:
        raise p.fail("more dims than Caffe's blobs have", expected=f"at most {MAX_AXES}", got=len(dims))
    rank = len(shape)
    start = p.integer("axis", 0, low=-INT_MAX)
    start = start + rank + 1 if start < 0 else start
    count = p.integer("num_axes", -1, low=-1)
    end = rank if count == -1 else start + count
    if not 0 <= start <= end <= rank:
        raise p.fail("axis and num_axes leave the blob", expected=f"within {rank} axes", got=(start, end))
    middle: list[int] = []
    for i, dim in enumerate(dims):
        if dim == 0 and start + i >= rank:
            raise p.fail("dim 0 copies an axis that the blob does not have", got=f"dim {i} of {dims} for {shape}")
        middle.append(shape[start + i] if dim == 0 else dim)
    if middle.count(-1) > 1:
        raise p.fail("more than one dim is -1", got=dims)
    wanted = prod(shape[start:end])
    if -1 in middle:
        known = prod(d for d in middle if d != -1)
        if known == 0 or wanted % known:
            raise p.fail("the blob cannot be divided that way", got=f"{shape} into {dims}")
        middle[middle.index(-1)] = wanted // known
    if prod(middle) != wanted:
        raise p.fail("the blob has another number of values", expected=prod(middle), got=f"{wanted} in {shape}")
    return shape[:start] + tuple(middle) + shape[end:]


def flatten_to(p: Params, shape: Shape) -> Shape:
    """Output shape of a Flatten layer: axes ``axis`` to ``end_axis`` (inclusive) become one."""
    axis, end = p.axis("axis", 1, len(shape)), p.axis("end_axis", -1, len(shape))
    if end < axis - 1:  # right before it, the layer puts in an axis of one
        raise p.fail("end_axis lies before axis", got=f"{axis}..{end}")
    return (*shape[:axis], prod(shape[axis : end + 1]), *shape[end + 1 :])


def permute_order(p: Params, rank: int) -> tuple[int, ...]:
    """New axis i is old axis ``order[i]``; axes that the layer does not name follow in order."""
    named = p.integers("order")
    if len(set(named)) != len(named) or any(axis >= rank for axis in named):
        raise p.fail(f"order is not a permutation of {rank} axes", got=named)
    return named + tuple(axis for axis in range(rank) if axis not in named)


def joined_axis(p: Params, old_name: str, rank: int) -> int:
    """The axis of Concat and Slice: ``axis``, or the older ``concat_dim`` and ``slice_dim``."""
    if old_name in p and "axis" not in p:
        return Params({"axis": p.integer(old_name, 1)}, p.where).axis("axis", 1, rank)
    return p.axis("axis", 1, rank)


def slice_sizes(p: Params, size: int, tops: int) -> tuple[int, ...]:
    """Lengths of the pieces of a Slice layer along its axis: between the slice points, or all equal."""
    points = p.integers("slice_point")
    if not points:
        if tops == 0 or size % tops:
            raise p.fail(f"{size} channels do not divide into {tops} equal tops")
        return (size // tops,) * tops
    if len(points) != tops - 1:
        raise p.fail("slice points and tops do not fit", expected=f"{tops - 1} points", got=points)
    edges = (0, *points, size)
    sizes = tuple(b - a for a, b in pairwise(edges))
    if min(sizes) <= 0:
        raise p.fail("slice points do not rise within the axis", expected=f"between 0 and {size}", got=points)
    return sizes


def argmax_to(p: Params, shape: Shape) -> Shape:
    """Output shape of an ArgMax layer: ``top_k`` places along ``axis``, or without one (N, 1, top_k, 1, …)."""
    count = p.integer("top_k", 1, low=1)
    axis = p.axis("axis", 1, len(shape)) if "axis" in p else None
    room = prod(shape[1:]) if axis is None else shape[axis]
    if count > room:
        raise p.fail("top_k is more than there are values", expected=f"<= {room}", got=count)
    if axis is not None:
        return (*shape[:axis], count, *shape[axis + 1 :])
    values = 2 if p.flag("out_max_val", False) else 1
    return (*shape[:1], values, count, *(1,) * (len(shape) - 3))


def crop_ranges(p: Params, shape: Shape, like: Shape) -> tuple[tuple[int, int], ...]:
    """Per axis of a Crop layer the (start, stop) that is kept; axes before ``axis`` stay whole."""
    axis = p.axis("axis", 2, len(shape))
    offsets = p.integers("offset")
    count = len(shape) - axis
    if len(offsets) not in (0, 1, count) or len(like) != len(shape):
        raise p.fail("offsets or blobs do not fit", expected=f"0, 1 or {count} offsets", got=offsets)
    full = offsets if len(offsets) == count else (offsets or (0,)) * count
    ranges = [(0, side) for side in shape[:axis]]
    for start, side, whole in zip(full, like[axis:], shape[axis:], strict=True):
        if start + side > whole:
            raise p.fail("the crop leaves the blob", expected=f"within {whole}", got=f"{start}..{start + side}")
        ranges.append((start, start + side))
    return tuple(ranges)
