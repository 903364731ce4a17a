"""Operations that join, repeat or part blobs: Eltwise, Mean, Concat, Tile, Slice, Split, Silence."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING

from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.graph.operation import Operation, ParamMessage, Result, Shapes, operation
from ssdconv.ssd_ref.graph.params import Params

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from ssdconv.ssd_ref.graph.operation import torch


def joined_axis(p: Params, old_name: str, rank: int) -> int:
    """The axis of Concat and Slice: ``axis``, or the older ``concat_dim`` and ``slice_dim``."""
    if old_name in p and "axis" not in p:
        return Params({"axis": p.integer(old_name, 1)}, p.where).axis("axis", 1, rank)
    return p.axis("axis", 1, rank)


@operation(
    "Eltwise",
    message=ParamMessage(
        "eltwise_param", 110, "operation:EltwiseOp=1 coeff:f*=2 stable_prod_grad:b=3", {"operation": "SUM"}
    ),
)
class Eltwise(Operation):
    """PROD, SUM (weighted by ``coeff``) or MAX of blobs of one shape."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.operation = self.p.choice("operation", None, ("PROD", "SUM", "MAX"))
        self.coefficients = self.p.numbers("coeff")

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms, 2, 10**6)
        given = self.coefficients
        if given and (len(given) != len(bottoms) or self.operation == "PROD"):
            raise self.p.fail("coeff needs SUM and one value per bottom", got=f"{self.operation} with {given}")
        if len(set(bottoms)) != 1:
            raise self.p.fail("the bottoms have different shapes", expected=bottoms[0], got=bottoms[1:])
        return bottoms[:1], ()

    def run(self, *blobs: Tensor) -> Tensor:
        if self.operation == "PROD":
            return reduce(torch.mul, blobs)
        if self.operation == "MAX":
            return reduce(torch.maximum, blobs)
        factors = self.coefficients or (1.0,) * len(blobs)
        return reduce(torch.add, [b if c == 1.0 else b * c for b, c in zip(blobs, factors, strict=True)])


@operation("Mean", family="keras")
class Mean(Operation):
    """The mean of several blobs of one shape (Keras' Average)."""

    def run(self, *blobs: Tensor) -> Tensor:
        return reduce(torch.add, blobs) / len(blobs)


@operation("Concat", message=ParamMessage("concat_param", 104, "concat_dim:u32=1 axis:i32=2", {"axis": 1}))
class Concat(Operation):
    """Blobs one after another along ``axis`` (1 by default; negative counts from the back)."""

    @classmethod
    def views(cls, spec: LayerSpec) -> bool:
        return len(spec.bottoms) == 1

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms, 1, 10**6)
        first = bottoms[0]
        axis = joined_axis(self.p, "concat_dim", len(first))
        if len({(len(b), b[:axis], b[axis + 1 :]) for b in bottoms}) != 1:
            raise self.p.fail(f"the bottoms differ beyond axis {axis}", got=bottoms)
        return ((*first[:axis], sum(b[axis] for b in bottoms), *first[axis + 1 :]),), ()

    def run(self, *blobs: Tensor) -> Tensor:
        return torch.cat(blobs, joined_axis(self.p, "concat_dim", blobs[0].dim()))


@operation("Tile", message=ParamMessage("tile_param", 138, "axis:i32=1 tiles:i32=2", {"axis": 1}))
class Tile(Operation):
    """A blob ``tiles`` times one after another along ``axis`` (1 by default)."""

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        x, tiles = bottoms[0], self.p.integer("tiles", 0, low=1)
        axis = self.p.axis("axis", None, len(x))
        if not tiles:
            raise self.p.fail("tiles is missing")
        return ((*x[:axis], x[axis] * tiles, *x[axis + 1 :]),), ()

    def run(self, x: Tensor) -> Tensor:
        return torch.cat([x] * self.p.integer("tiles", 0, low=1), self.p.axis("axis", None, x.dim()))


@operation("Slice", message=ParamMessage("slice_param", 126, "slice_dim:u32=1 slice_point:u32*=2 axis:i32=3"))
class Slice(Operation):
    """One blob in pieces along ``axis``, cut at the ``slice_point`` values or into equal parts; one top per piece."""

    @classmethod
    def views(cls, spec: LayerSpec) -> bool:
        return len(spec.tops) == 1

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        x = bottoms[0]
        axis = joined_axis(self.p, "slice_dim", len(x))
        return tuple((*x[:axis], size, *x[axis + 1 :]) for size in self._sizes(x[axis])), ()

    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        axis = joined_axis(self.p, "slice_dim", x.dim())
        return torch.split(x, list(self._sizes(x.shape[axis])), axis)

    def _sizes(self, size: int) -> tuple[int, ...]:
        """Lengths of the pieces along the axis: between the slice points, or all equal."""
        p, tops, points = self.p, len(self.spec.tops), self.p.integers("slice_point")
        if not points:
            if tops == 0 or size % tops:
                raise p.fail(f"{size} channels do not divide into {tops} equal tops")
            return (size // tops,) * tops
        if len(points) != tops - 1:
            raise p.fail("slice points and tops do not fit", expected=f"{tops - 1} points", got=points)
        sizes = tuple(b - a for a, b in pairwise((0, *points, size)))
        if min(sizes) <= 0:
            raise p.fail("slice points do not rise within the axis", expected=f"between 0 and {size}", got=points)
        return sizes


@operation("Split")
class Split(Operation):
    """The same blob under several names."""

    @classmethod
    def views(cls, spec: LayerSpec) -> bool:
        return True

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        return bottoms * len(self.spec.tops), ()

    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,) * len(self.spec.tops)


@operation("Silence")
class Silence(Operation):
    """Reads blobs and gives nothing."""

    def shapes(self, bottoms: Shapes) -> Result:
        return (), ()

    def run(self, *blobs: Tensor) -> tuple[Tensor, ...]:
        return ()
