"""Layers that work on each value alone, with Caffe's formulas and parameter names. Any shape in, the same shape out."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ssdconv.ssd_ref.caffe_layers.registry import CaffeLayer, layer


@layer("ReLU")
class ReLU(CaffeLayer):
    """``max(x, 0) + negative_slope * min(x, 0)``."""

    def forward(self, x: Tensor) -> Tensor:
        slope = self.p.number("negative_slope", 0.0)
        return F.leaky_relu(x, slope) if slope else torch.relu(x)


@layer("PReLU")
class PReLU(CaffeLayer):
    """``max(x, 0) + weight * min(x, 0)``; weight (C,) over axis 1, or () with ``channel_shared``."""

    weight: Tensor

    def initial(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.full(shape, 0.25)

    def forward(self, x: Tensor) -> Tensor:
        slope = self.weight.reshape((1, -1) + (1,) * (x.dim() - 2))
        return torch.relu(x) - slope * torch.relu(-x)


@layer("ReLU6")
class ReLU6(CaffeLayer):
    """``min(max(x, 0), 6) + negative_slope * min(x, 0)``."""

    def forward(self, x: Tensor) -> Tensor:
        slope = self.p.number("negative_slope", 0.0)
        return x.clamp(0.0, 6.0) - slope * torch.relu(-x) if slope else x.clamp(0.0, 6.0)


@layer("Clip")
class Clip(CaffeLayer):
    """``min(max(x, min), max)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.p.number("min", 0.0), self.p.number("max", 0.0))


@layer("ELU")
class ELU(CaffeLayer):
    """``x`` above 0, ``alpha * (exp(x) - 1)`` below, with the difference taken as it stands: torch's own is more exact."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0) + self.p.number("alpha", 1.0) * (x.clamp(max=0).exp() - 1)


@layer("Sigmoid")
class Sigmoid(CaffeLayer):
    """``1 / (1 + exp(-x))``."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)


@layer("TanH")
class TanH(CaffeLayer):
    """Hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


@layer("AbsVal")
class AbsVal(CaffeLayer):
    """Absolute value."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


@layer("Swish")
class Swish(CaffeLayer):
    """``x / (1 + exp(-beta * x))``."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.p.number("beta", 1.0) * x)


@layer("BNLL")
class BNLL(CaffeLayer):
    """``log(1 + exp(x))``, without overflow, in ONNX too."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


@layer("Exp")
class Exp(CaffeLayer):
    """``base ^ (shift + scale * x)``; base -1 stands for e."""

    def forward(self, x: Tensor) -> Tensor:
        log_base = _log_base(self.p.number("base", -1.0))
        inner, shift = self.p.number("scale", 1.0) * log_base, self.p.number("shift", 0.0)
        return math.exp(shift * log_base) * torch.exp(inner * x)


@layer("Log")
class Log(CaffeLayer):
    """Logarithm to ``base`` of ``shift + scale * x``; base -1 stands for e."""

    def forward(self, x: Tensor) -> Tensor:
        value = x * self.p.number("scale", 1.0) + self.p.number("shift", 0.0)
        return torch.log(value) / _log_base(self.p.number("base", -1.0))


@layer("Power")
class Power(CaffeLayer):
    """``(shift + scale * x) ^ power``."""

    def forward(self, x: Tensor) -> Tensor:
        value = x * self.p.number("scale", 1.0) + self.p.number("shift", 0.0)
        power = self.p.number("power", 1.0)
        return value if power == 1.0 else value.pow(power)


@layer("Threshold")
class Threshold(CaffeLayer):
    """1 above ``threshold``, else 0."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > self.p.number("threshold", 0.0)).to(x.dtype)


@layer("Dropout")
class Dropout(CaffeLayer):
    """Nothing: Caffe scales while training, so a trained net drops nothing and scales nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def _log_base(base: float) -> float:
    return 1.0 if base == -1.0 else math.log(base)
