"""Sliding windows of convolutions and poolings, and the sizes that they make, one axis at a time, in whole pixels.

Caffe's sources: conv_layer.cpp, deconv_layer.cpp, pooling_layer.cpp. Keras: "valid" rounds down and pads nothing, "same" gives
``ceil(size / stride)`` and pads with what is missing, the odd pixel at the bottom and right (TensorFlow's rule), so that the padding
depends on the size of the map.
"""

from __future__ import annotations

from dataclasses import dataclass

from ssdconv.ssd_ref.graph.params import Params


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


def conv_size(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """Output size of a convolution; 0 or less when the image is too small.

    C++ division rounds towards zero: an image that is too small by less than one stride still gives one pixel, and
    the missing rows count as zeros.
    """
    room = size + 2 * pad - (dilation * (kernel - 1) + 1)
    return (room // stride if room >= 0 else -(-room // stride)) + 1


def deconv_size(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """Output size of a deconvolution; 0 or less when the padding eats everything."""
    return stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * pad


def pool_window(p: Params, size: tuple[int, int]) -> Window:
    """Window of a Pooling layer over an image of ``size`` (height, width)."""
    stride, pad = _sides(p, "stride", "stride", 1, 1, 2), _sides(p, "pad", "pad", 0, 0, 2)
    if p.flag("global_pooling"):
        if stride != (1, 1) or pad != (0, 0):
            raise p.fail("global pooling takes neither stride nor pad", got=f"stride {stride}, pad {pad}")
        return Window(size, stride, pad, (1, 1))
    window = Window(_sides(p, "kernel_size", "kernel", None, 1, 2), stride, pad, (1, 1))
    if any(a >= k for a, k in zip(window.pad, window.kernel, strict=True)):
        raise p.fail("padding must be smaller than the pooling window", expected=f"< {window.kernel}", got=window.pad)
    return window


def pool_size(size: int, kernel: int, stride: int, pad: int, *, clip: bool, floor: bool = False) -> int:
    """Output size of a pooling: rounded up, and without a last window that would start behind image and padding.

    Args:
        clip: whether either axis is padded; only then does Caffe take away that last window.
        floor: ``round_mode: FLOOR`` of later Caffes.
    """
    room = size + 2 * pad - kernel
    out = (room // stride if floor else -(-room // stride)) + 1
    return out - 1 if clip and (out - 1) * stride >= size + pad else out


def pool_sizes(p: Params, size: tuple[int, int], window: Window) -> tuple[int, int]:
    """Output (height, width) of a Pooling layer with that window."""
    floor = p.choice("round_mode", None, ("CEIL", "FLOOR")) == "FLOOR" or not p.flag("ceil_mode")
    clip = any(window.pad)
    height, width = (
        pool_size(size[i], window.kernel[i], window.stride[i], window.pad[i], clip=clip, floor=floor) for i in (0, 1)
    )
    return height, width


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
    flat = [v for side in value for v in side] if isinstance(value, list | tuple) and _is_nested(value) else []
    numbers = Params({name: flat}, p.where).integers(name)
    if len(numbers) != 4:
        raise p.fail(f"{name} is not ((top, bottom), (left, right))", got=value)
    top, bottom, left, right = numbers
    return left, right, top, bottom


def _is_nested(value: list[object] | tuple[object, ...]) -> bool:
    return all(isinstance(side, list | tuple) and len(side) == 2 for side in value)
