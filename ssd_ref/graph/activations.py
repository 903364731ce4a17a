"""Operations on each value alone, with the sources' formulas and parameter names. Any shape in, the same shape out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.graph.operation import Operation, ParamMessage, Result, Shape, Shapes, operation
from ssdconv.ssd_ref.graph.params import Params

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F
else:
    from ssdconv.ssd_ref.graph.operation import F, torch


class _Pointwise(Operation):
    """All parameters are numbers."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        for name in self.p.data:
            self.p.number(name, 0.0)

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        return bottoms, ()


@operation(
    "ReLU", message=ParamMessage("relu_param", 123, "negative_slope:f=1 engine:Engine=2", {"negative_slope": 0.0})
)
class ReLU(_Pointwise):
    """``max(x, 0) + negative_slope * min(x, 0)``."""

    def run(self, x: Tensor) -> Tensor:
        slope = self.p.number("negative_slope")
        return F.leaky_relu(x, slope) if slope else torch.relu(x)


@operation(
    "PReLU", message=ParamMessage("prelu_param", 131, "filler:Filler=1 channel_shared:b=2", {"channel_shared": False})
)
class PReLU(Operation):
    """``max(x, 0) + weight * min(x, 0)``; weight (C,) over axis 1, or () with ``channel_shared``."""

    @classmethod
    def learned(cls, spec: LayerSpec) -> tuple[str, ...]:
        return ("weight",)

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        if len(bottoms[0]) < 2:
            raise self.p.fail("needs a channel axis", got=bottoms[0])
        return bottoms, (() if self.p.flag("channel_shared") else (bottoms[0][1],),)

    def initial(self, name: str, shape: Shape) -> Tensor:
        return torch.full(shape, 0.25)

    def run(self, x: Tensor, weight: Tensor) -> Tensor:
        slope = weight.reshape((1, -1) + (1,) * (x.dim() - 2))
        return torch.relu(x) - slope * torch.relu(-x)


@operation(
    "ReLU6",
    message=ParamMessage(
        "relu6_param", 100000, "negative_slope:f=1", {"negative_slope": 0.0}, elsewhere=frozenset({2060})
    ),
)
class ReLU6(_Pointwise):
    """``min(max(x, 0), 6) + negative_slope * min(x, 0)``."""

    def run(self, x: Tensor) -> Tensor:
        slope = self.p.number("negative_slope")
        return x.clamp(0.0, 6.0) - slope * torch.relu(-x) if slope else x.clamp(0.0, 6.0)


@operation("Clip", message=ParamMessage("clip_param", 148, "min:f=1 max:f=2", elsewhere=frozenset({100027})))
class Clip(_Pointwise):
    """``min(max(x, min), max)``."""

    def shapes(self, bottoms: Shapes) -> Result:
        if not ("min" in self.p and "max" in self.p):
            raise self.p.fail("min and max must both be given")
        return super().shapes(bottoms)

    def run(self, x: Tensor) -> Tensor:
        return x.clamp(self.p.number("min", 0.0), self.p.number("max", 0.0))


@operation("ELU", message=ParamMessage("elu_param", 140, "alpha:f=1", {"alpha": 1.0}))
class ELU(_Pointwise):
    """``x`` above 0, ``alpha * (exp(x) - 1)`` below, with the difference taken as it stands: torch's own is more exact."""

    def run(self, x: Tensor) -> Tensor:
        return x.clamp(min=0) + self.p.number("alpha") * (x.clamp(max=0).exp() - 1)


@operation("Sigmoid", message=ParamMessage("sigmoid_param", 124, "engine:Engine=1"))
class Sigmoid(_Pointwise):
    """``1 / (1 + exp(-x))``."""

    def run(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)


@operation("TanH", message=ParamMessage("tanh_param", 127, "engine:Engine=1"))
class TanH(_Pointwise):
    """Hyperbolic tangent."""

    def run(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


@operation("AbsVal")
class AbsVal(_Pointwise):
    """Absolute value."""

    def run(self, x: Tensor) -> Tensor:
        return x.abs()


@operation("Swish", message=ParamMessage("swish_param", 147, "beta:f=1", {"beta": 1.0}))
class Swish(_Pointwise):
    """``x / (1 + exp(-beta * x))``."""

    def run(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.p.number("beta") * x)


@operation("BNLL")
class BNLL(_Pointwise):
    """``log(1 + exp(x))``, without overflow, in ONNX too."""

    def run(self, x: Tensor) -> Tensor:
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


class _Based(_Pointwise):
    """``base`` -1 stands for e."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        base = self.p.number("base")
        if base != -1.0 and (base <= 0 or (base == 1.0 and spec.type == "Log")):
            raise self.p.fail("base must be -1 (for e) or positive, and not 1 for a logarithm", got=base)
        self.log_base = 1.0 if base == -1.0 else math.log(base)
        self.scale, self.shift = self.p.number("scale"), self.p.number("shift")


@operation(
    "Exp",
    message=ParamMessage("exp_param", 111, "base:f=1 scale:f=2 shift:f=3", {"base": -1.0, "scale": 1.0, "shift": 0.0}),
)
class Exp(_Based):
    """``base ^ (shift + scale * x)``."""

    def run(self, x: Tensor) -> Tensor:
        return math.exp(self.shift * self.log_base) * torch.exp(self.scale * self.log_base * x)


@operation(
    "Log",
    message=ParamMessage("log_param", 134, "base:f=1 scale:f=2 shift:f=3", {"base": -1.0, "scale": 1.0, "shift": 0.0}),
)
class Log(_Based):
    """Logarithm to ``base`` of ``shift + scale * x``."""

    def run(self, x: Tensor) -> Tensor:
        return torch.log(x * self.scale + self.shift) / self.log_base


@operation(
    "Power",
    message=ParamMessage(
        "power_param", 122, "power:f=1 scale:f=2 shift:f=3", {"power": 1.0, "scale": 1.0, "shift": 0.0}
    ),
)
class Power(_Pointwise):
    """``(shift + scale * x) ^ power``."""

    def run(self, x: Tensor) -> Tensor:
        value = x * self.p.number("scale") + self.p.number("shift")
        power = self.p.number("power")
        return value if power == 1.0 else value.pow(power)


@operation("Threshold", message=ParamMessage("threshold_param", 128, "threshold:f=1", {"threshold": 0.0}))
class Threshold(_Pointwise):
    """1 above ``threshold``, else 0."""

    def run(self, x: Tensor) -> Tensor:
        return (x > self.p.number("threshold")).to(x.dtype)


@operation("Dropout", message=ParamMessage("dropout_param", 108, "dropout_ratio:f=1"))
class Dropout(Operation):
    """Nothing: Caffe scales while training, so a trained net drops nothing and scales nothing."""

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        return bottoms, ()

    def run(self, x: Tensor) -> Tensor:
        return x


Function = Callable[["Tensor"], "Tensor"]
ACTIVATIONS: dict[str, Function] = {
    "linear": lambda x: x,
    "relu": lambda x: torch.relu(x),
    "relu6": lambda x: F.relu6(x),
    "elu": lambda x: F.elu(x),
    "selu": lambda x: F.selu(x),
    "sigmoid": lambda x: torch.sigmoid(x),
    "tanh": lambda x: torch.tanh(x),
    "softplus": lambda x: F.softplus(x),
    "softsign": lambda x: F.softsign(x),
    "swish": lambda x: F.silu(x),
    "silu": lambda x: F.silu(x),
    "exponential": lambda x: torch.exp(x),
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
}
"""Keras' names of functions of one value (``hard_sigmoid`` is that of Keras 2)."""


def activation(p: Params) -> Function:
    """The function that a Keras layer names under ``activation``."""
    return ACTIVATIONS[p.choice("activation", "linear", tuple(ACTIVATIONS))]


@operation("Activation", family="keras")
class Activation(Operation):
    """One of ``ACTIVATIONS``."""

    def run(self, x: Tensor) -> Tensor:
        return activation(self.p)(x)


@operation("KerasReLU", family="keras")
class KerasReLU(Operation):
    """Keras' ReLU layer: ``max_value`` caps, ``threshold`` moves the knee, ``negative_slope`` goes on below it."""

    def run(self, x: Tensor) -> Tensor:
        knee, slope = self.p.number("threshold", 0.0), self.p.number("negative_slope", 0.0)
        cap = float(self.p.numbers("max_value")[0]) if "max_value" in self.p else float("inf")
        if knee == 0.0:
            above = x.clamp(0.0, cap)
            return above - slope * torch.relu(-x) if slope else above
        return torch.where(x >= knee, x.clamp(max=cap), slope * (x - knee))


@operation("Rescaling", family="keras")
class Rescaling(Operation):
    """``x * scale + offset``."""

    def run(self, x: Tensor) -> Tensor:
        return x * self.p.number("scale", 1.0) + self.p.number("offset", 0.0)
