"""Products and sums with learned (or computed) values: Scale, Bias and InnerProduct."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.graph.operation import Operation, ParamMessage, Result, Shape, Shapes, operation

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F
else:
    from ssdconv.ssd_ref.graph.operation import F, torch


class _AlongAxis(Operation):
    def shapes(self, bottoms: Shapes) -> Result:
        """One bottom: the axes ``axis`` .. ``axis + num_axes``; two bottoms: the second one's shape, no learned factor."""
        self.count(bottoms, 1, 2)
        p, x = self.p, bottoms[0]
        if len(bottoms) == 2:
            axis = p.axis("axis", None, len(x)) if bottoms[1] else 0
            shape = bottoms[1]
            if x[axis : axis + len(shape)] != shape:
                expected = x[axis : axis + len(shape)]
                raise p.fail("the bottoms do not fit each other", expected=expected, got=shape)
        else:
            axis, axes = p.axis("axis", None, len(x)), p.integer("num_axes", low=-1)
            end = len(x) if axes == -1 else axis + axes
            if end > len(x):
                raise p.fail("num_axes leaves the blob", expected=f"within {len(x)} axes", got=axes)
            shape = x[axis:end]
        return (x,), (shape,) * len(self.learned(self.spec))

    def initial(self, name: str, shape: Shape) -> Tensor:
        return torch.zeros(shape) if name == "bias" else torch.ones(shape)

    def along(self, value: Tensor, x: Tensor) -> Tensor:
        """``value`` with its first axis at ``axis`` of ``x``, ready to broadcast."""
        axis = self.p.axis("axis", None, x.dim()) if value.dim() else 0
        return value.reshape((1,) * axis + tuple(value.shape) + (1,) * (x.dim() - axis - value.dim()))


@operation(
    "Scale",
    message=ParamMessage(
        "scale_param",
        142,
        "axis:i32=1 num_axes:i32=2 filler:Filler=3 bias_term:b=4 bias_filler:Filler=5",
        {"axis": 1, "num_axes": 1, "bias_term": False},
    ),
)
class ChannelScale(_AlongAxis):
    """``x * weight (+ bias)`` from ``axis`` on; with two bottoms the second one is the weight.

    ``weight`` has the lengths of ``num_axes`` axes of x from ``axis`` on: (C,) by default, () for ``num_axes: 0``.
    """

    @classmethod
    def learned(cls, spec: LayerSpec) -> tuple[str, ...]:
        weight = ("weight",) if len(spec.bottoms) == 1 else ()
        return (*weight, "bias") if spec.params.get("bias_term", False) else weight

    def shapes(self, bottoms: Shapes) -> Result:
        self.p.flag("bias_term")
        return super().shapes(bottoms)

    def run(
        self, x: Tensor, other: Tensor | None = None, *, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        factor = weight if other is None else other
        assert factor is not None
        y = x * self.along(factor, x)
        return y if bias is None else y + self.along(bias, x)


@operation(
    "Bias",
    message=ParamMessage("bias_param", 141, "axis:i32=1 num_axes:i32=2 filler:Filler=3", {"axis": 1, "num_axes": 1}),
)
class Bias(_AlongAxis):
    """``x + bias`` from ``axis`` on; with two bottoms the second one is the bias."""

    @classmethod
    def learned(cls, spec: LayerSpec) -> tuple[str, ...]:
        return ("bias",) if len(spec.bottoms) == 1 else ()

    def run(self, x: Tensor, other: Tensor | None = None, *, bias: Tensor | None = None) -> Tensor:
        summand = bias if other is None else other
        assert summand is not None
        return x + self.along(summand, x)


@operation(
    "InnerProduct",
    message=ParamMessage(
        "inner_product_param",
        117,
        "num_output:u32=1 bias_term:b=2 weight_filler:Filler=3 bias_filler:Filler=4 axis:i32=5 transpose:b=6",
        {"bias_term": True, "axis": 1, "transpose": False},
    ),
)
class InnerProduct(Operation):
    """Axes from ``axis`` on, flattened to K values, times weight (out, K), or (K, out) with ``transpose``; bias (out,).

    (N, C, H, W) -> (N, out) for the default axis 1.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.transpose = self.p.flag("transpose")

    @classmethod
    def learned(cls, spec: LayerSpec) -> tuple[str, ...]:
        return ("weight", "bias") if spec.params.get("bias_term", True) else ("weight",)

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        x = bottoms[0]
        axis, out = self.p.axis("axis", None, len(x)), self.p.integer("num_output", 0, low=1)
        if out < 1:
            raise self.p.fail("num_output is missing")
        weight = (out, prod(x[axis:]))
        weight = weight[::-1] if self.transpose else weight
        return ((*x[:axis], out),), (weight, (out,)) if self.p.flag("bias_term") else (weight,)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        axis = self.p.axis("axis", None, x.dim())
        flat = x.reshape(*x.shape[:axis], prod(x.shape[axis:]))
        return F.linear(flat, weight.T if self.transpose else weight, bias)
