"""Reversible operations between a source's tensor layout and the reference's.

Every op knows the shape it makes, and its exact inverse: ``op.inverse().apply(op.apply(x))`` is ``x``, bit for bit.
No op does arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ssdconv.converters.tensors import Array

Shape = tuple[int, ...]


class Op(Protocol):
    """One step of a mapping entry."""

    def shape(self, shape: Shape) -> Shape:
        """Shape after the op; raises ValueError when the op cannot take ``shape``."""

    def apply(self, array: Array) -> Array:
        """The array after the op (a view where possible)."""

    def inverse_for(self, shape: Shape) -> Op:
        """The op that undoes this one on an input of ``shape``."""


@dataclass(frozen=True)
class Transpose:
    """Reorder axes: ``Transpose((3, 2, 0, 1))`` takes HWIO to OIHW."""

    order: tuple[int, ...]

    def shape(self, shape: Shape) -> Shape:
        if sorted(self.order) != list(range(len(shape))):
            raise ValueError(f"cannot transpose {shape} by {self.order}")
        return tuple(shape[i] for i in self.order)

    def apply(self, array: Array) -> Array:
        return array.transpose(self.order)

    def inverse_for(self, shape: Shape) -> Transpose:
        return Transpose(tuple(int(i) for i in np.argsort(self.order)))

    def __str__(self) -> str:
        return f"transpose{self.order}"


@dataclass(frozen=True)
class Reshape:
    """Give the same elements another shape, such as (1, 512, 1, 1) to (512,)."""

    to: Shape

    def shape(self, shape: Shape) -> Shape:
        count = 1
        for side in shape:
            count *= side
        wanted = 1
        for side in self.to:
            wanted *= side
        if count != wanted:
            raise ValueError(f"cannot reshape {shape} to {self.to}")
        return self.to

    def apply(self, array: Array) -> Array:
        return array.reshape(self.to)

    def inverse_for(self, shape: Shape) -> Reshape:
        return Reshape(shape)

    def __str__(self) -> str:
        return f"reshape{self.to}"


@dataclass(frozen=True)
class Take:
    """Reorder the slices along one axis: ``out[i] = in[order[i]]`` (anchors, loc coordinates, RGB/BGR)."""

    order: tuple[int, ...]
    axis: int = 0
    label: str = "reorder"

    def shape(self, shape: Shape) -> Shape:
        if self.axis >= len(shape) or sorted(self.order) != list(range(shape[self.axis])):
            raise ValueError(f"cannot {self.label} axis {self.axis} of {shape} with {len(self.order)} indices")
        return shape

    def apply(self, array: Array) -> Array:
        return np.take(array, self.order, axis=self.axis)

    def inverse_for(self, shape: Shape) -> Take:
        return Take(tuple(int(i) for i in np.argsort(self.order)), self.axis, self.label)

    def __str__(self) -> str:
        return f"{self.label}[axis {self.axis}]"


def flip_channels(channels: int = 3, axis: int = 1) -> Take:
    """RGB <-> BGR of a first convolution's input axis."""
    return Take(tuple(reversed(range(channels))), axis, "rgb<->bgr")


def permute_anchors(order: Sequence[int], values: int, axis: int = 0, inner: Sequence[int] | None = None) -> Take:
    """Reorder a head's output channels anchor by anchor, and the values within an anchor.

    Args:
        order: new anchor ``i`` is old anchor ``order[i]``.
        values: channels per anchor: 4 for loc, the class count for conf.
        inner: order of the values within an anchor ((1, 0, 3, 2) swaps dy,dx,dh,dw to dx,dy,dw,dh).
    """
    within = tuple(inner) if inner is not None else tuple(range(values))
    return Take(tuple(a * values + v for a in order for v in within), axis, "anchors")


def apply_all(ops: Sequence[Op], array: Array) -> Array:
    """The array after all ops in order."""
    for op in ops:
        array = op.apply(array)
    return array


def shape_after(ops: Sequence[Op], shape: Shape) -> Shape:
    """The shape after all ops in order; raises ValueError where an op does not fit."""
    for op in ops:
        shape = op.shape(shape)
    return shape


def inverse(ops: Sequence[Op], shape: Shape) -> tuple[Op, ...]:
    """The ops that undo ``ops`` on an input of ``shape``."""
    undo: list[Op] = []
    for op in ops:
        undo.append(op.inverse_for(shape))
        shape = op.shape(shape)
    return tuple(reversed(undo))
