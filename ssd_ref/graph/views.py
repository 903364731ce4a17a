"""Operations that move, regroup, choose or sum up values: Reshape, Flatten, Permute, Gather, Softmax, Reduction, ArgMax.

Caffe's are the layers of the same names in BVLC Caffe; Permute is that of the SSD branch.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.graph.operation import MAX_AXES, Operation, ParamMessage, Result, Shape, Shapes, operation
from ssdconv.ssd_ref.graph.params import INT_MAX

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from ssdconv.ssd_ref.graph.operation import torch


@operation(
    "Reshape",
    message=ParamMessage(
        "reshape_param", 133, "shape:BlobShape=1 axis:i32=2 num_axes:i32=3", {"axis": 0, "num_axes": -1}
    ),
)
class Reshape(Operation):
    """Same values in row-major order, other axes: dim 0 copies an axis, -1 takes the rest.

    A leading ``dim: 1`` is the batch of a deploy net; a larger batch keeps its items apart.
    """

    @classmethod
    def views(cls, spec: LayerSpec) -> bool:
        return True

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        return (self._to(bottoms[0]),), ()

    def run(self, x: Tensor) -> Tensor:
        one = self._to((1, *x.shape[1:])) if x.dim() and x.shape[0] != 1 and self._fixes_batch() else None
        if one is not None and one[0] == 1:
            return x.reshape(x.shape[0], *one[1:])
        return x.reshape(self._to(tuple(x.shape)))

    def _fixes_batch(self) -> bool:
        dims = self.p.message("shape").integers("dim", low=-1)
        return self.p.integer("axis", low=-99) == 0 and dims[:1] == (1,)

    def _to(self, shape: Shape) -> Shape:
        """Shape of the top; only the ``num_axes`` axes from ``axis`` on are replaced."""
        p, dims = self.p, self.p.message("shape").integers("dim", low=-1)
        if len(dims) > MAX_AXES:
            raise p.fail("more dims than Caffe's blobs have", expected=f"at most {MAX_AXES}", got=len(dims))
        rank = len(shape)
        start = p.integer("axis", low=-INT_MAX)
        start = start + rank + 1 if start < 0 else start
        count = p.integer("num_axes", low=-1)
        end = rank if count == -1 else start + count
        if not 0 <= start <= end <= rank:
            raise p.fail("axis and num_axes leave the blob", expected=f"within {rank} axes", got=(start, end))
        middle: list[int] = []
        for i, dim in enumerate(dims):
            if dim == 0 and start + i >= rank:
                raise p.fail("dim 0 copies an axis that the blob does not have", got=f"dim {i} of {dims} for {shape}")
            middle.append(shape[start + i] if dim == 0 else dim)
        if middle.count(-1) > 1:
            raise p.fail("more than one dim is -1", got=dims)
        wanted = prod(shape[start:end])
        if -1 in middle:
            known = prod(d for d in middle if d != -1)
            if known == 0 or wanted % known:
                raise p.fail("the blob cannot be divided that way", got=f"{shape} into {dims}")
            middle[middle.index(-1)] = wanted // known
        if prod(middle) != wanted:
            raise p.fail("the blob has another number of values", expected=prod(middle), got=f"{wanted} in {shape}")
        return shape[:start] + tuple(middle) + shape[end:]


@operation(
    "Flatten", message=ParamMessage("flatten_param", 135, "axis:i32=1 end_axis:i32=2", {"axis": 1, "end_axis": -1})
)
class Flatten(Operation):
    """Axes ``axis`` (1) to ``end_axis`` (-1), inclusive, as one."""

    @classmethod
    def views(cls, spec: LayerSpec) -> bool:
        return True

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        return (self._to(bottoms[0]),), ()

    def run(self, x: Tensor) -> Tensor:
        return x.reshape(self._to(tuple(x.shape)))

    def _to(self, shape: Shape) -> Shape:
        axis, end = self.p.axis("axis", None, len(shape)), self.p.axis("end_axis", None, len(shape))
        if end < axis - 1:  # right before it, the layer puts in an axis of one
            raise self.p.fail("end_axis lies before axis", got=f"{axis}..{end}")
        return (*shape[:axis], prod(shape[axis : end + 1]), *shape[end + 1 :])


@operation("Permute", message=ParamMessage("permute_param", 202, "order:u32*=1", elsewhere=frozenset({144, 145, 146})))
class Permute(Operation):
    """Axes reordered: new axis i is old axis ``order[i]``; axes that the layer does not name follow in order."""

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        return (tuple(bottoms[0][axis] for axis in self._order(len(bottoms[0]))),), ()

    def run(self, x: Tensor) -> Tensor:
        return x.permute(self._order(x.dim()))

    def _order(self, rank: int) -> tuple[int, ...]:
        named = self.p.integers("order")
        if len(set(named)) != len(named) or any(axis >= rank for axis in named):
            raise self.p.fail(f"order is not a permutation of {rank} axes", got=named)
        return named + tuple(axis for axis in range(rank) if axis not in named)


@operation("Gather", family="keras")
class Gather(Operation):
    """The slices ``indices`` along ``axis``: channels turned round, coordinates in another order."""

    def run(self, x: Tensor) -> Tensor:
        indices = torch.tensor(self.p.integers("indices"), device=x.device)
        return x.index_select(self.p.axis("axis", 1, x.dim()), indices)


@operation("Softmax", message=ParamMessage("softmax_param", 125, "engine:Engine=1 axis:i32=2", {"axis": 1}))
class Softmax(Operation):
    """Softmax along ``axis`` (1 by default), stable against large values."""

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        self.p.axis("axis", None, len(bottoms[0]))
        return bottoms, ()

    def run(self, x: Tensor) -> Tensor:
        return torch.softmax(x, self.p.axis("axis", None, x.dim()))


@operation(
    "Reduction",
    message=ParamMessage(
        "reduction_param",
        136,
        "operation:ReductionOp=1 axis:i32=2 coeff:f=3",
        {"operation": "SUM", "axis": 0, "coeff": 1.0},
    ),
)
class Reduction(Operation):
    """All axes from ``axis`` (0) on become one number: sum, sum of magnitudes or squares, or mean, times ``coeff``."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.operation = self.p.choice("operation", None, ("SUM", "ASUM", "SUMSQ", "MEAN"))
        self.factor = self.p.number("coeff")

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        return (bottoms[0][: self.p.axis("axis", None, len(bottoms[0]))],), ()

    def run(self, x: Tensor) -> Tensor:
        flat = x.flatten(self.p.axis("axis", None, x.dim()))
        if self.operation == "ASUM":
            flat = flat.abs()
        elif self.operation == "SUMSQ":
            flat = flat.square()
        total = flat.mean(-1) if self.operation == "MEAN" else flat.sum(-1)
        return total if self.factor == 1.0 else total * self.factor


@operation(
    "ArgMax",
    message=ParamMessage(
        "argmax_param", 103, "out_max_val:b=1 top_k:u32=2 axis:i32=3", {"out_max_val": False, "top_k": 1}
    ),
)
class ArgMax(Operation):
    """Places, as numbers, of the ``top_k`` largest values, largest first; of equal values the later one comes first.

    Along ``axis`` where one is given (``out_max_val`` gives the values instead), else within each image: (N, 1, k), or with
    ``out_max_val`` (N, 2, k) of places and values; axes of one follow up to the rank of the bottom.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.top_k = self.p.integer("top_k", low=1)
        self.values = self.p.flag("out_max_val")

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms)
        return (self._to(bottoms[0]),), ()

    def run(self, x: Tensor) -> Tensor:
        shape = self._to(tuple(x.shape))
        axis = self.p.axis("axis", 1, x.dim()) if "axis" in self.p else 1
        rows = x if "axis" in self.p else x.flatten(1)
        # Turned round, so that the first of equal values is the later one; the sort keeps their order.
        values, places = rows.flip(axis).sort(stable=True, dim=axis, descending=True)
        places = (rows.shape[axis] - 1 - places.narrow(axis, 0, self.top_k)).to(x.dtype)
        values = values.narrow(axis, 0, self.top_k)
        if "axis" in self.p:
            return values if self.values else places
        found = torch.stack([places, values], 1) if self.values else places[:, None]
        return found.reshape(shape)

    def _to(self, shape: Shape) -> Shape:
        axis = self.p.axis("axis", 1, len(shape)) if "axis" in self.p else None
        room = prod(shape[1:]) if axis is None else shape[axis]
        if self.top_k > room:
            raise self.p.fail("top_k is more than there are values", expected=f"<= {room}", got=self.top_k)
        if axis is not None:
            return (*shape[:axis], self.top_k, *shape[axis + 1 :])
        return (*shape[:1], 2 if self.values else 1, self.top_k, *(1,) * (len(shape) - 3))
