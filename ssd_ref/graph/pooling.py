"""Pooling: Caffe's MAX and AVE with its rounding, clipping and divisor; Keras' poolings. All over (N, C, H, W)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.graph.operation import Operation, ParamMessage, Result, Shapes, operation
from ssdconv.ssd_ref.graph.windows import Window, pool_sizes, pool_window, window

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F
else:
    from ssdconv.ssd_ref.graph.operation import F, torch


@operation(
    "Pooling",
    message=ParamMessage(
        "pooling_param",
        121,
        """
            pool:PoolMethod=1 kernel_size:u32=2 stride:u32=3 pad:u32=4 kernel_h:u32=5 kernel_w:u32=6 stride_h:u32=7
            stride_w:u32=8 pad_h:u32=9 pad_w:u32=10 engine:Engine=11 global_pooling:b=12 round_mode:RoundMode=13
            ceil_mode:b=1013
        """,
        {"pool": "MAX", "pad": 0, "stride": 1, "global_pooling": False, "round_mode": "CEIL", "ceil_mode": True},
    ),
)
class Pooling(Operation):
    """(N, C, H, W) -> (N, C, h, w); MAX gives as a second top the place of each maximum, row * W + column, as a number.

    The output size is rounded up (``windows.pool_size``); windows are clipped to the image. AVE divides by the window clipped to image
    plus padding, so that padding counts as zeros but what lies beyond it does not count.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.maximum = self.p.choice("pool", None, ("MAX", "AVE")) == "MAX"

    def shapes(self, bottoms: Shapes) -> Result:
        n, c, h, w = self.image(bottoms)
        top = (n, c, *pool_sizes(self.p, (h, w), pool_window(self.p, (h, w))))
        return (top,) * (2 if self.maximum and len(self.spec.tops) == 2 else 1), ()

    def run(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        size = (x.shape[2], x.shape[3])
        w = pool_window(self.p, size)
        out = pool_sizes(self.p, size, w)
        if len(self.spec.tops) == 2:
            return _with_places(x, out, w)
        if _torch_agrees(size, out, w):
            if self.maximum:
                return F.max_pool2d(x, w.kernel, w.stride, w.pad, ceil_mode=True)
            return F.avg_pool2d(x, w.kernel, w.stride, w.pad, ceil_mode=True, count_include_pad=True)
        # What every window covers, laid out in full; rows beyond the last window are cut off.
        edges = _edges(size, out, w)
        if self.maximum:
            return F.max_pool2d(F.pad(x, edges, value=torch.finfo(torch.float32).min), w.kernel, w.stride)
        # Not divisor_override, which torch's ONNX exporter ignores.
        total = F.avg_pool2d(F.pad(x, edges), w.kernel, w.stride) * (w.kernel[0] * w.kernel[1])
        rows, columns = (torch.tensor(_counts(out[i], size[i], w, i), dtype=x.dtype, device=x.device) for i in (0, 1))
        return total / (rows[:, None] * columns[None, :])


def _edges(size: tuple[int, int], out: tuple[int, int], w: Window) -> tuple[int, int, int, int]:
    """Columns and rows to add (or, negative, to cut) before and behind so that the windows cover just the image."""
    after = [(out[i] - 1) * w.stride[i] + w.kernel[i] - w.pad[i] - size[i] for i in (0, 1)]
    return w.pad[1], after[1], w.pad[0], after[0]


def _with_places(x: Tensor, out: tuple[int, int], w: Window) -> tuple[Tensor, Tensor]:
    """Maxima, and the first place of each in its window; -1 where a window lies beyond the image."""
    height, width = x.shape[2], x.shape[3]
    padded = F.pad(x, _edges((height, width), out, w), value=torch.finfo(torch.float32).min)
    top, place = F.max_pool2d(padded, w.kernel, w.stride, return_indices=True)
    row = place.div(padded.shape[3], rounding_mode="floor") - w.pad[0]
    column = place % padded.shape[3] - w.pad[1]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return top, torch.where(inside, row * width + column, -1).to(x.dtype)


def _torch_agrees(size: tuple[int, int], out: tuple[int, int], w: Window) -> bool:
    """Whether torch's own rounding up gives Caffe's output size, with no last window to take away.

    ONNX keeps a last window that starts in the padding, which torch takes away, and its exporter does not tell.
    """
    for i in (0, 1):
        if 2 * w.pad[i] > w.kernel[i] or size[i] + 2 * w.pad[i] < w.kernel[i]:
            return False
        theirs = -(-(size[i] + 2 * w.pad[i] - w.kernel[i]) // w.stride[i]) + 1
        if (theirs - 1) * w.stride[i] >= size[i] + w.pad[i] or theirs != out[i]:
            return False
    return True


def _counts(out: int, size: int, w: Window, axis: int) -> list[int]:
    """Per output row (or column) the number of rows that AVE divides by."""
    starts = [i * w.stride[axis] - w.pad[axis] for i in range(out)]
    return [min(start + w.kernel[axis], size + w.pad[axis]) - start for start in starts]


@operation("MaxPooling2D", family="keras")
class MaxPooling2D(Operation):
    """The largest value of each window; padding never wins."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.window = window(self.p, "pool_size")

    def run(self, x: Tensor) -> Tensor:
        pads = self.window.pads((x.shape[2], x.shape[3]))
        if any(pads):
            x = F.pad(x, pads, value=float("-inf"))
        return F.max_pool2d(x, self.window.kernel, self.window.strides)


@operation("AveragePooling2D", family="keras")
class AveragePooling2D(Operation):
    """The mean of each window over the values that are there: padding does not count."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.window = window(self.p, "pool_size")

    def run(self, x: Tensor) -> Tensor:
        pads, w = self.window.pads((x.shape[2], x.shape[3])), self.window
        if not any(pads):
            return F.avg_pool2d(x, w.kernel, w.strides)
        total = F.avg_pool2d(F.pad(x, pads), w.kernel, w.strides, divisor_override=1)
        there = F.pad(torch.ones_like(x[:1, :1]), pads)
        return total / F.avg_pool2d(there, w.kernel, w.strides, divisor_override=1)


@operation("GlobalAveragePooling2D", family="keras")
class GlobalAveragePooling2D(Operation):
    """The mean of each channel: (N, C), or (N, C, 1, 1) with ``keepdims``."""

    def run(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=self.p.flag("keepdims", False))
