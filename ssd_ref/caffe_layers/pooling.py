"""Pooling: MAX and AVE over (N, C, H, W), with Caffe's rounding, clipping and divisor.

The output size is rounded up; windows are clipped to the image. AVE divides by the window clipped to image plus
padding, so that padding counts as zeros but what lies beyond it does not count.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssdconv.ssd_ref.caffe_layers.geometry import pool_sizes
from ssdconv.ssd_ref.caffe_layers.params import Window, pool_window
from ssdconv.ssd_ref.caffe_layers.registry import CaffeLayer, layer
from ssdconv.ssd_ref.config import LayerSpec


@layer("Pooling")
class Pooling(CaffeLayer):
    """(N, C, H, W) -> (N, C, h, w); MAX gives as a second top the place of each maximum, row * W + column, as a number."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.maximum = self.p.choice("pool", "MAX", ("MAX", "AVE")) == "MAX"

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        size = (x.shape[2], x.shape[3])
        w = pool_window(self.p, size)
        out = pool_sizes(self.p, size, (w.kernel, w.stride, w.pad))
        if self.tops == 2:
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
