"""Sizes and padding of Keras' sliding windows. Imports no torch: converters use it to know shapes.

"valid" rounds down and pads nothing. "same" gives ``ceil(size / stride)`` and pads with what is missing, the odd pixel at the bottom
and right (TensorFlow's rule), so that the padding depends on the size of the map.
"""

from __future__ import annotations

from dataclasses import dataclass

from ssdconv.ssd_ref.caffe_layers.params import Params


@dataclass(frozen=True)
class KerasWindow:
    """Kernel, strides and dilation as (height, width); ``same`` for SAME padding."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    same: bool

    def out(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the output for a map of ``size``; 0 or less where the window does not fit."""
        return (self._out(size, 0), self._out(size, 1))

    def _out(self, size: tuple[int, int], axis: int) -> int:
        if self.same:
            return -(-size[axis] // self.strides[axis])
        return (size[axis] - self._extent(axis)) // self.strides[axis] + 1

    def pads(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """(left, right, top, bottom) in pixels, the order of ``torch.nn.functional.pad``."""
        if not self.same:
            return (0, 0, 0, 0)
        edges = []
        for axis in (1, 0):
            missing = max((self._out(size, axis) - 1) * self.strides[axis] + self._extent(axis) - size[axis], 0)
            edges += [missing // 2, missing - missing // 2]
        return (edges[0], edges[1], edges[2], edges[3])

    def _extent(self, axis: int) -> int:
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1


def window(p: Params, kernel: str) -> KerasWindow:
    """The window of a layer; ``kernel`` is the parameter with its kernel ("kernel_size", "pool_size")."""
    return KerasWindow(
        pair(p, kernel, low=1),
        pair(p, "strides", (1, 1), low=1),
        pair(p, "dilation_rate", (1, 1), low=1),
        p.choice("padding", "valid", ("valid", "same")) == "same",
    )


def pair(p: Params, name: str, default: tuple[int, int] | None = None, low: int = 0) -> tuple[int, int]:
    """A parameter of two whole numbers, (height, width); one number counts for both."""
    values = p.integers(name, low)
    if not values and default is not None:
        return default
    if len(values) not in (1, 2):
        raise p.fail(f"{name} is not one number or two", got=p.data.get(name))
    return values[0], values[-1]


def edges(p: Params, name: str) -> tuple[int, int, int, int]:
    """``[[top, bottom], [left, right]]`` as (left, right, top, bottom)."""
    value = p.data.get(name)
    flat = [v for side in value for v in side] if isinstance(value, list | tuple) and _nested(value) else []
    numbers = Params({name: flat}, p.where).integers(name)
    if len(numbers) != 4:
        raise p.fail(f"{name} is not ((top, bottom), (left, right))", got=value)
    top, bottom, left, right = numbers
    return left, right, top, bottom


def _nested(value: list[object] | tuple[object, ...]) -> bool:
    return all(isinstance(side, list | tuple) and len(side) == 2 for side in value)
