"""Scale, Bias and InnerProduct: products and sums with learned (or computed) values."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from ssdconv.ssd_ref.caffe_layers.registry import CaffeLayer, layer
from ssdconv.ssd_ref.config import LayerSpec


def _along(value: Tensor, axis: int, rank: int) -> Tensor:
    """``value`` with its first axis at ``axis`` of a blob of ``rank`` axes, ready to broadcast."""
    return value.reshape((1,) * axis + tuple(value.shape) + (1,) * (rank - axis - value.dim()))


class _AlongAxis(CaffeLayer):
    bias: Tensor | None

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        if "bias" not in self._parameters:
            self.register_parameter("bias", None)

    def initial(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape) if name == "bias" else torch.ones(shape)

    def start(self, x: Tensor, value: Tensor) -> int:
        """Axis of ``x`` at which ``value`` starts."""
        return self.p.axis("axis", 1, x.dim()) if value.dim() else 0


@layer("Scale")
class Scale(_AlongAxis):
    """``x * weight (+ bias)`` from ``axis`` on; with two bottoms the second one is the weight.

    ``weight`` has the lengths of ``num_axes`` axes of x from ``axis`` on: (C,) by default, () for ``num_axes: 0``.
    """

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        value = self._parameters["weight"] if weight is None else weight
        assert value is not None
        y = x * _along(value, self.start(x, value), x.dim())
        return y if self.bias is None else y + _along(self.bias, self.start(x, self.bias), x.dim())


@layer("Bias")
class Bias(_AlongAxis):
    """``x + bias`` from ``axis`` on; with two bottoms the second one is the bias."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        value = self.bias if bias is None else bias
        assert value is not None
        return x + _along(value, self.start(x, value), x.dim())


@layer("InnerProduct")
class InnerProduct(CaffeLayer):
    """Axes from ``axis`` on, flattened to K values, times weight (out, K), or (K, out) with ``transpose``.

    (N, C, H, W) -> (N, out) for the default axis 1.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.transpose = self.p.flag("transpose", False)
        if "bias" not in self._parameters:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        axis = self.p.axis("axis", 1, x.dim())
        flat = x.reshape(*x.shape[:axis], prod(x.shape[axis:]))
        return F.linear(flat, self.weight.T if self.transpose else self.weight, self.bias)
