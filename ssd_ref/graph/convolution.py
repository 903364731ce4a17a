"""Convolutions: Caffe's Convolution, DepthwiseConvolution, ConvolutionDepthwise and Deconvolution; Keras' Conv2D and its kin.

Layouts: blobs (N, C, H, W), for Caffe's also with any axes before the channels' (``axis``) and up to three behind it. Convolution weight
(out, C / group, kernel_h, kernel_w), Deconvolution weight (C, out / group, kernel_h, kernel_w), bias (out,), as Caffe and torch
both store them. DepthwiseConv2D (C * multiplier, 1, kernel_h, kernel_w), the outputs of one channel next to each other.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.graph.activations import activation
from ssdconv.ssd_ref.graph.operation import Operation, ParamMessage, Result, Shapes, operation
from ssdconv.ssd_ref.graph.windows import conv_size, conv_window, deconv_size, window

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import functional as F
else:
    from ssdconv.ssd_ref.graph.operation import F

DEPTHWISE = ("DepthwiseConvolution", "ConvolutionDepthwise")
CONVOLUTIONS = ("Convolution", *DEPTHWISE, "Deconvolution")
MAX_SIDES = 3
"""Axes that a convolution slides along."""
MESSAGE = ParamMessage(
    "convolution_param",
    106,
    """
        num_output:u32=1 bias_term:b=2 pad:u32*=3 kernel_size:u32*=4 group:u32=5 stride:u32*=6 weight_filler:Filler=7
        bias_filler:Filler=8 pad_h:u32=9 pad_w:u32=10 kernel_h:u32=11 kernel_w:u32=12 stride_h:u32=13 stride_w:u32=14
        engine:Engine=15 axis:i32=16 force_nd_im2col:b=17 dilation:u32*=18
    """,
    {"bias_term": True, "pad": [0], "stride": [1], "dilation": [1], "group": 1, "axis": 1},
)


class _Convolving(Operation):
    """A top for every bottom, all through the same weights."""

    @classmethod
    def learned(cls, spec: LayerSpec) -> tuple[str, ...]:
        return ("weight", "bias") if spec.params.get("bias_term", True) else ("weight",)

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms, 1, 10**6)
        p, x = self.p, bottoms[0]
        if len(set(bottoms)) != 1:
            raise p.fail("the bottoms have different shapes", expected=x, got=bottoms[1:])
        depthwise = self.spec.type in DEPTHWISE
        axis = p.axis("axis", None, len(x))
        before, c, sides = x[:axis], x[axis], x[axis + 1 :]
        if len(sides) > MAX_SIDES or (depthwise and (axis, len(x)) != (1, 4)):
            expected = f"at most {MAX_SIDES} of them"
            raise p.fail("convolution over these axes is not supported", expected=expected, got=x)
        out, w = p.integer("num_output", 0, low=1), conv_window(p, len(sides))
        if out < 1:
            raise p.fail("num_output is missing")
        group = p.integer("group", c if depthwise else None, low=1)
        if c % group or out % group or (depthwise and group != c):
            raise p.fail("group does not divide the channels", got=f"group {group}, {c} channels in, {out} out")
        back = isinstance(self, Deconvolution)
        size = deconv_size if back else conv_size
        steps = (size(side, w.kernel[i], w.stride[i], w.pad[i], w.dilation[i]) for i, side in enumerate(sides))
        top = (*before, out, *steps)
        weight = (c, out // group, *w.kernel) if back else (out, c // group, *w.kernel)
        return (top,) * len(bottoms), (weight, (out,)) if p.flag("bias_term") else (weight,)

    def run(self, *blobs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        tops = tuple(self._along(x, weight, bias) for x in blobs)
        return tops if len(tops) > 1 else tops[0]

    def _along(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """One bottom, its axes before the channels' taken as one batch."""
        axes = weight.dim() - 2
        if axes and x.dim() == axes + 2:
            return self.convolved(x, weight, bias, axes)
        before, inner = x.shape[: x.dim() - axes - 1], x.shape[x.dim() - axes - 1 :]
        y = x.reshape(prod(before), *inner)
        if axes:
            y = self.convolved(y, weight, bias, axes)
        else:  # no axis to slide along: a product of channels
            y = self.convolved(y[..., None], weight[..., None], bias, 0)[..., 0]
        return y.reshape(*before, *y.shape[1:])

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, axes: int) -> Tensor:
        """(N, C, ...) -> (N, out, ...)."""
        raise NotImplementedError


@operation("Convolution", *DEPTHWISE, message=MESSAGE)
class Convolution(_Convolving):
    """Cross-correlation with zero padding on both sides: (N, C, H, W) -> (N, out, h, w)."""

    def completed(self, bottoms: Shapes) -> LayerSpec:
        if self.spec.type not in DEPTHWISE:
            return self.spec
        return replace(self.spec, params={**self.spec.params, "group": bottoms[0][1]})  # said or not

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, axes: int) -> Tensor:
        w = conv_window(self.p, axes)
        missing = [max(w.dilation[i] * (w.kernel[i] - 1) + 1 - x.shape[2 + i] - 2 * w.pad[i], 0) for i in range(axes)]
        if any(missing):  # Caffe rounds a negative size up to one pixel and reads zeros behind the image
            x = F.pad(x, [side for behind in reversed(missing) for side in (0, behind)])
        stride, pad, dilation = (w.stride, w.pad, w.dilation) if axes else (1, 0, 1)
        convolve = (F.conv1d, F.conv1d, F.conv2d, F.conv3d)[axes]
        y: Tensor = convolve(x, weight, bias, stride, pad, dilation, self.p.integer("group", low=1))
        return y


@operation("Deconvolution", message=MESSAGE)
class Deconvolution(_Convolving):
    """Transposed convolution: (N, C, H, W) -> (N, out, h, w) with h = stride * (H - 1) + extent - 2 * pad."""

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, axes: int) -> Tensor:
        w = conv_window(self.p, axes)
        stride, pad, dilation = (w.stride, w.pad, w.dilation) if axes else (1, 0, 1)
        transposed = (F.conv_transpose1d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes]
        y: Tensor = transposed(x, weight, bias, stride, pad, 0, self.p.integer("group", low=1), dilation)
        return y


class _KerasConvolution(Operation):
    """Padding by Keras' rule; the layer's ``activation`` is applied to its output."""

    kernels: tuple[str, ...] = ("weight",)

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.window = window(self.p, "kernel_size")
        self.activation = activation(self.p)

    @classmethod
    def learned(cls, spec: LayerSpec) -> tuple[str, ...]:
        return (*cls.kernels, "bias") if spec.params.get("use_bias", True) else cls.kernels

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        w = self.window
        left, right, top, bottom = w.pads((x.shape[2], x.shape[3]))
        if left == right and top == bottom:
            return F.conv2d(x, weight, bias, w.strides, (top, left), w.dilation, groups)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, w.strides, 0, w.dilation, groups)


@operation("Conv2D", family="keras")
class Conv2D(_KerasConvolution):
    """(N, C, H, W) -> (N, filters, h, w)."""

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.activation(self.convolved(x, weight, bias, self.p.integer("groups", 1, low=1)))


@operation("DepthwiseConv2D", family="keras")
class DepthwiseConv2D(_KerasConvolution):
    """(N, C, H, W) -> (N, C * multiplier, h, w)."""

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.activation(self.convolved(x, weight, bias, x.shape[1]))


@operation("SeparableConv2D", family="keras")
class SeparableConv2D(_KerasConvolution):
    """A depthwise convolution, then one of 1x1: (N, C, H, W) -> (N, filters, h, w)."""

    kernels = ("depthwise", "pointwise")

    def run(self, x: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.activation(F.conv2d(self.convolved(x, depthwise, None, x.shape[1]), pointwise, bias))
