"""Convolution, DepthwiseConvolution, ConvolutionDepthwise and Deconvolution.

Layouts: blobs (N, C, H, W). Convolution weight (out, C / group, kernel_h, kernel_w), Deconvolution weight
(C, out / group, kernel_h, kernel_w), bias (out,), as Caffe and torch both store them.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ssdconv.ssd_ref.caffe_layers.names import DEPTHWISE
from ssdconv.ssd_ref.caffe_layers.params import conv_window
from ssdconv.ssd_ref.caffe_layers.registry import CaffeLayer, layer
from ssdconv.ssd_ref.config import LayerSpec


class _Convolving(CaffeLayer):
    weight: Tensor
    bias: Tensor | None

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.window = conv_window(self.p)
        self.group = self.p.integer("group", 1, low=1)
        if len(spec.blobs) < 2:
            self.register_parameter("bias", None)


@layer("Convolution", *DEPTHWISE)
class Convolution(_Convolving):
    """Cross-correlation with zero padding on both sides: (N, C, H, W) -> (N, out, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.window
        missing = [max(w.dilation[i] * (w.kernel[i] - 1) + 1 - x.shape[2 + i] - 2 * w.pad[i], 0) for i in (0, 1)]
        if any(missing):  # Caffe rounds a negative size up to one pixel and reads zeros behind the image
            x = F.pad(x, (0, missing[1], 0, missing[0]))
        return F.conv2d(x, self.weight, self.bias, w.stride, w.pad, w.dilation, self.group)


@layer("Deconvolution")
class Deconvolution(_Convolving):
    """Transposed convolution: (N, C, H, W) -> (N, out, h, w) with h = stride * (H - 1) + extent - 2 * pad."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.window
        return F.conv_transpose2d(x, self.weight, self.bias, w.stride, w.pad, 0, self.group, w.dilation)
