"""Checked reading of a Caffe layer's parameter message.

Parameters arrive as plain JSON data from files that nobody vouches for: every number is checked for kind and range,
and every complaint names the layer. Defaults are those of Caffe's ``caffe.proto``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssdconv.errors import FormatError

INT_MAX = 2**31 - 1
"""Largest count, size or offset that Caffe can address."""


class Params:
    """Typed access to one layer's parameter message.

    Args:
        data: field name -> value; repeated fields are lists.
        where: "layer NAME (TYPE)" for error messages.
    """

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data = data
        self.where = where

    def __contains__(self, name: str) -> bool:
        return name in self.data

    def fail(self, what: str, *, expected: object = None, got: object = None, hint: str | None = None) -> FormatError:
        """An error that names the layer, for the caller to raise."""
        return FormatError(what, where=self.where, expected=expected, got=got, hint=hint)

    def integer(self, name: str, default: int, low: int = 0, high: int = INT_MAX) -> int:
        """A whole number within [low, high]."""
        values = self.integers(name, low, high)
        if len(values) > 1:
            raise self.fail(f"{name} is given {len(values)} times", expected="one value")
        return values[0] if values else default

    def integers(self, name: str, low: int = 0, high: int = INT_MAX) -> tuple[int, ...]:
        """A repeated whole number, each within [low, high]; empty when absent."""
        values = _listed(self.data.get(name))
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise self.fail(f"{name} is out of range", expected=f"a whole number in {low}..{high}", got=repr(value))
        return tuple(values)

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        values = self.numbers(name)
        if len(values) > 1:
            raise self.fail(f"{name} is given {len(values)} times", expected="one value")
        return values[0] if values else default

    def numbers(self, name: str) -> tuple[float, ...]:
        """A repeated finite number; empty when absent."""
        values = _listed(self.data.get(name))
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
                raise self.fail(f"{name} is not a finite number", got=repr(value))
        return tuple(float(value) for value in values)

    def flag(self, name: str, default: bool) -> bool:
        """A boolean."""
        value = self.data.get(name, default)
        if not isinstance(value, bool):
            raise self.fail(f"{name} is not true or false", got=repr(value))
        return value

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        """The name of an enum value among ``allowed``."""
        value = self.data.get(name, default)
        if value not in allowed:
            raise self.fail(f"{name} is not supported", expected=" or ".join(allowed), got=repr(value))
        return str(value)

    def message(self, name: str) -> Params:
        """A message field; empty when absent."""
        value = self.data.get(name, {})
        if not isinstance(value, Mapping):
            raise self.fail(f"{name} is not a message", got=repr(value))
        return Params(value, self.where)

    def axis(self, name: str, default: int, rank: int, *, end: bool = False) -> int:
        """An axis counted from the front; negative ones count from the back, as in Caffe.

        ``end`` allows ``rank`` itself (one past the last axis).
        """
        value = self.integer(name, default, low=-INT_MAX)
        top = rank if end else rank - 1
        if not -rank <= value <= top:
            raise self.fail(f"{name} does not exist in a blob of {rank} axes", got=value)
        return value + rank if value < 0 else value


@dataclass(frozen=True)
class Window:
    """Kernel, stride, padding per side and dilation of a sliding window, each per axis: (height, width) in pixels for images."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]


def conv_window(p: Params, axes: int = 2) -> Window:
    """Window of a Convolution or Deconvolution: ``kernel_size`` once, per axis, or as ``kernel_h`` and ``kernel_w``."""
    return Window(
        kernel=_sides(p, "kernel_size", "kernel", None, 1, axes),
        stride=_sides(p, "stride", "stride", 1, 1, axes),
        pad=_sides(p, "pad", "pad", 0, 0, axes),
        dilation=_sides(p, "dilation", None, 1, 1, axes),
    )


def pool_window(p: Params, size: tuple[int, int]) -> Window:
    """Window of a Pooling layer over an image of ``size`` (height, width)."""
    stride, pad = _sides(p, "stride", "stride", 1, 1, 2), _sides(p, "pad", "pad", 0, 0, 2)
    if p.flag("global_pooling", False):
        if stride != (1, 1) or pad != (0, 0):
            raise p.fail("global pooling takes neither stride nor pad", got=f"stride {stride}, pad {pad}")
        return Window(size, stride, pad, (1, 1))
    window = Window(_sides(p, "kernel_size", "kernel", None, 1, 2), stride, pad, (1, 1))
    if any(a >= k for a, k in zip(window.pad, window.kernel, strict=True)):
        raise p.fail("padding must be smaller than the pooling window", expected=f"< {window.kernel}", got=window.pad)
    return window


def _sides(p: Params, name: str, stem: str | None, default: int | None, low: int, axes: int) -> tuple[int, ...]:
    if stem is not None and (f"{stem}_h" in p or f"{stem}_w" in p):
        if p.integers(name):
            raise p.fail(f"{name} is given together with {stem}_h or {stem}_w")
        if axes != 2:
            raise p.fail(f"{stem}_h and {stem}_w are for images", got=f"{axes} axes beyond the channels")
        missing = -1 if default is None else default
        height, width = p.integer(f"{stem}_h", missing, low), p.integer(f"{stem}_w", missing, low)
        if missing in (height, width) and default is None:
            raise p.fail(f"{stem}_h and {stem}_w must both be given")
        return height, width
    values = p.integers(name, low)
    if not values:
        if default is None:
            raise p.fail(f"{name} is missing")
        return (default,) * axes
    if len(values) not in (1, axes):
        raise p.fail(f"{name} is given for {len(values)} axes", expected=f"1 or {axes}")
    return values if len(values) == axes else values * axes


def _listed(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
