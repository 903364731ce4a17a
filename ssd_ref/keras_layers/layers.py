"""Convolutions, pooling, padding and normalisation of Keras, on (N, C, H, W).

Weights: Conv2D (out, C / groups, kernel_h, kernel_w); DepthwiseConv2D (C * multiplier, 1, kernel_h, kernel_w), the outputs of one
channel next to each other; SeparableConv2D both. A layer's ``activation`` is applied to its output, as Keras does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ssdconv.ssd_ref.caffe_layers.params import Params
from ssdconv.ssd_ref.caffe_layers.registry import CaffeLayer, layer
from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.keras_layers.windows import KerasWindow, edges, pair, window

Function = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Function] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "relu6": F.relu6,
    "elu": F.elu,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "swish": F.silu,
    "silu": F.silu,
    "exponential": torch.exp,
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
}
"""Keras' names of functions of one value (``hard_sigmoid`` is that of Keras 2)."""


def activation(p: Params) -> Function:
    """The function that a layer names under ``activation``."""
    return ACTIVATIONS[p.choice("activation", "linear", tuple(ACTIVATIONS))]


class _Learned(CaffeLayer):
    """Missing weights (no bias, no gamma) are None."""

    optional: tuple[str, ...] = ("bias",)

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        for name in self.optional:
            if name not in self._parameters:
                self.register_parameter(name, None)


class _Windowed(_Learned):
    kernel = "kernel_size"

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.window: KerasWindow = window(self.p, self.kernel)
        self.activation = activation(self.p)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        w = self.window
        left, right, top, bottom = w.pads((x.shape[2], x.shape[3]))
        if left == right and top == bottom:
            return F.conv2d(x, weight, bias, w.strides, (top, left), w.dilation, groups)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, w.strides, 0, w.dilation, groups)


@layer("Conv2D")
class Conv2D(_Windowed):
    """(N, C, H, W) -> (N, filters, h, w)."""

    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.convolve(x, self.weight, self.bias, self.p.integer("groups", 1, low=1)))


@layer("DepthwiseConv2D")
class DepthwiseConv2D(_Windowed):
    """(N, C, H, W) -> (N, C * multiplier, h, w)."""

    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.convolve(x, self.weight, self.bias, x.shape[1]))


@layer("SeparableConv2D")
class SeparableConv2D(_Windowed):
    """A depthwise convolution, then one of 1x1: (N, C, H, W) -> (N, filters, h, w)."""

    depthwise: Tensor
    pointwise: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        middle = self.convolve(x, self.depthwise, None, x.shape[1])
        return self.activation(F.conv2d(middle, self.pointwise, self.bias))


@layer("MaxPooling2D")
class MaxPooling2D(CaffeLayer):
    """The largest value of each window; padding never wins."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.window = window(self.p, "pool_size")

    def forward(self, x: Tensor) -> Tensor:
        pads = self.window.pads((x.shape[2], x.shape[3]))
        if any(pads):
            x = F.pad(x, pads, value=float("-inf"))
        return F.max_pool2d(x, self.window.kernel, self.window.strides)


@layer("AveragePooling2D")
class AveragePooling2D(CaffeLayer):
    """The mean of each window over the values that are there: padding does not count."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.window = window(self.p, "pool_size")

    def forward(self, x: Tensor) -> Tensor:
        pads, w = self.window.pads((x.shape[2], x.shape[3])), self.window
        if not any(pads):
            return F.avg_pool2d(x, w.kernel, w.strides)
        total = F.avg_pool2d(F.pad(x, pads), w.kernel, w.strides, divisor_override=1)
        there = F.pad(torch.ones_like(x[:1, :1]), pads)
        return total / F.avg_pool2d(there, w.kernel, w.strides, divisor_override=1)


@layer("GlobalAveragePooling2D")
class GlobalAveragePooling2D(CaffeLayer):
    """The mean of each channel: (N, C), or (N, C, 1, 1) with ``keepdims``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=self.p.flag("keepdims", False))


@layer("ZeroPadding2D")
class ZeroPadding2D(CaffeLayer):
    """Zeros around the map: ``padding`` is ((top, bottom), (left, right))."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, edges(self.p, "padding"))


@layer("Cropping2D")
class Cropping2D(CaffeLayer):
    """The map without its edges: ``cropping`` is ((top, bottom), (left, right))."""

    def forward(self, x: Tensor) -> Tensor:
        left, right, top, bottom = edges(self.p, "cropping")
        return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]


@layer("UpSampling2D")
class UpSampling2D(CaffeLayer):
    """Every value ``size`` times in each direction (nearest)."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = pair(self.p, "size", (2, 2), low=1)
        return x.repeat_interleave(rows, 2).repeat_interleave(columns, 3)


@layer("BatchNormalization")
class BatchNormalization(_Learned):
    """``(x - mean) / sqrt(variance + epsilon) * gamma + beta`` per channel, on the stored statistics.

    ``running_mean`` and ``running_var`` are buffers: training leaves them alone.
    """

    statistics = ("running_mean", "running_var")
    optional = ("weight", "bias")
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.eps = self.p.number("epsilon", 1e-3)

    def initial(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape) if name in ("bias", "running_mean") else torch.ones(shape)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


@layer("L2Normalization")
class L2Normalization(CaffeLayer):
    """``x / sqrt(max(sum(x^2), 1e-12)) * weight`` over channels: ssd_keras' layer, made of ``K.l2_normalize``."""

    weight: Tensor

    def initial(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.full(shape, 20.0)

    def forward(self, x: Tensor) -> Tensor:
        square = x.square().sum(1, keepdim=True)
        return x * torch.rsqrt(square.clamp(min=self.p.number("epsilon", 1e-12))) * self.weight[:, None, None]


@layer("Activation")
class Activation(CaffeLayer):
    """One of ``ACTIVATIONS``."""

    def forward(self, x: Tensor) -> Tensor:
        return activation(self.p)(x)


@layer("KerasReLU")
class KerasReLU(CaffeLayer):
    """Keras' ReLU layer: ``max_value`` caps, ``threshold`` moves the knee, ``negative_slope`` goes on below it."""

    def forward(self, x: Tensor) -> Tensor:
        knee, slope = self.p.number("threshold", 0.0), self.p.number("negative_slope", 0.0)
        cap = float(self.p.numbers("max_value")[0]) if "max_value" in self.p else float("inf")
        if knee == 0.0:
            above = x.clamp(0.0, cap)
            return above - slope * torch.relu(-x) if slope else above
        return torch.where(x >= knee, x.clamp(max=cap), slope * (x - knee))


@layer("Mean")
class Mean(CaffeLayer):
    """The mean of several blobs of one shape (Keras' Average)."""

    def forward(self, *blobs: Tensor) -> Tensor:
        total = blobs[0]
        for blob in blobs[1:]:
            total = total + blob
        return total / len(blobs)


@layer("Rescaling")
class Rescaling(CaffeLayer):
    """``x * scale + offset``."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.p.number("scale", 1.0) + self.p.number("offset", 0.0)


@layer("Gather")
class Gather(CaffeLayer):
    """The slices ``indices`` along ``axis``: channels turned round, coordinates in another order."""

    def forward(self, x: Tensor) -> Tensor:
        indices = torch.tensor(self.p.integers("indices"), device=x.device)
        return x.index_select(self.p.axis("axis", 1, x.dim()), indices)


@layer("PerChannel")
class PerChannel(CaffeLayer):
    """``(x - mean) / std`` with numbers per channel: pixels that are prepared inside the network."""

    def forward(self, x: Tensor) -> Tensor:
        for name, apply in (("mean", torch.sub), ("std", torch.div)):
            if values := self.p.numbers(name):
                x = apply(x, x.new_tensor(values).reshape(1, -1, 1, 1))
        return x
