"""Convolution, DepthwiseConvolution, ConvolutionDepthwise and Deconvolution.

Layouts: blobs (N, C, H, W), or with any axes before the channels' (``axis``) and up to three behind it. Convolution weight
(out, C / group, kernel_h, kernel_w), Deconvolution weight (C, out / group, kernel_h, kernel_w), bias (out,), as Caffe and torch
both store them. Several bottoms of one shape go through the same weights, each to a top of its own.
"""

from __future__ import annotations

from math import prod

from torch import Tensor
from torch.nn import functional as F

from ssdconv.ssd_ref.caffe_layers.names import DEPTHWISE
from ssdconv.ssd_ref.caffe_layers.params import conv_window
from ssdconv.ssd_ref.caffe_layers.registry import CaffeLayer, layer
from ssdconv.ssd_ref.config import LayerSpec

_CONV = (F.conv1d, F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


class _Convolving(CaffeLayer):
    weight: Tensor
    bias: Tensor | None

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.axes = len(spec.blobs[0]) - 2
        self.window = conv_window(self.p, self.axes)
        self.group = self.p.integer("group", 1, low=1)
        if len(spec.blobs) < 2:
            self.register_parameter("bias", None)

    def forward(self, *blobs: Tensor) -> Tensor | tuple[Tensor, ...]:
        tops = tuple(self._along(x) for x in blobs)
        return tops if len(tops) > 1 else tops[0]

    def _along(self, x: Tensor) -> Tensor:
        """One bottom, its axes before the channels' taken as one batch."""
        if self.axes and x.dim() == self.axes + 2:
            return self.convolved(x, self.weight)
        before, inner = x.shape[: x.dim() - self.axes - 1], x.shape[x.dim() - self.axes - 1 :]
        y = x.reshape(prod(before), *inner)
        if self.axes:
            y = self.convolved(y, self.weight)
        else:  # no axis to slide along: a product of channels
            y = self.convolved(y[..., None], self.weight[..., None])[..., 0]
        return y.reshape(*before, *y.shape[1:])

    def convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, C, ...) -> (N, out, ...)."""
        raise NotImplementedError


@layer("Convolution", *DEPTHWISE)
class Convolution(_Convolving):
    """Cross-correlation with zero padding on both sides: (N, C, H, W) -> (N, out, h, w)."""

    def convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        w = self.window
        missing = [
            max(w.dilation[i] * (w.kernel[i] - 1) + 1 - x.shape[2 + i] - 2 * w.pad[i], 0) for i in range(self.axes)
        ]
        if any(missing):  # Caffe rounds a negative size up to one pixel and reads zeros behind the image
            x = F.pad(x, [side for behind in reversed(missing) for side in (0, behind)])
        stride, pad, dilation = (w.stride, w.pad, w.dilation) if self.axes else (1, 0, 1)
        y: Tensor = _CONV[self.axes](x, weight, self.bias, stride, pad, dilation, self.group)
        return y


@layer("Deconvolution")
class Deconvolution(_Convolving):
    """Transposed convolution: (N, C, H, W) -> (N, out, h, w) with h = stride * (H - 1) + extent - 2 * pad."""

    def convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        w = self.window
        stride, pad, dilation = (w.stride, w.pad, w.dilation) if self.axes else (1, 0, 1)
        y: Tensor = _TRANSPOSE[self.axes](x, weight, self.bias, stride, pad, 0, self.group, dilation)
        return y
