"""A layer graph while it is built from another framework's graph: layers, shapes, and the way of every weight.

Values have the names of the source. Shapes are those of one image without the batch, in the source's own layout; which axis of a blob that
is, is the source's business. A node that changes nothing has no layer: its value is another name of the blob that it reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ssdconv.converters.tensors import MappedTensor, Op, Transpose, shape_after
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.graph.operation import blob_names, module_name

Shape = tuple[int, ...]
MAX_VALUES = 2**31 - 1
TO_BLOB = {0: 0, 1: 2, 2: 3, 3: 1}
"""Axis of (N, H, W, C) -> axis of (N, C, H, W)."""
HWIO: tuple[Op, ...] = (Transpose((3, 2, 0, 1)),)
"""From a kernel of (height, width, in, out) to the reference's."""


@dataclass(frozen=True)
class Weight:
    """One learned tensor of a layer.

    Attributes:
        source: the file's tensor.
        shape: as the file stores it.
        ops: from the file's layout to the reference's.
    """

    source: str
    shape: Shape
    ops: tuple[Op, ...] = ()


@dataclass
class GraphBuilder:
    """Collects layers in the order of execution.

    Attributes:
        layers: so far; weights that several layers read are named in ``shared``.
        added: names of layers that the source does not have.
        shapes: value -> its shape.
        alias: value -> the blob that holds it, where it has none of its own name.
        entries: the mapping of every weight, each once.
    """

    layers: list[LayerSpec] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    alias: dict[str, str] = field(default_factory=dict)
    entries: list[MappedTensor] = field(default_factory=list)
    _owners: dict[str, tuple[int, int, MappedTensor]] = field(default_factory=dict)

    def blob(self, value: str) -> str:
        """The blob that holds a value."""
        return self.alias.get(value, value)

    def put(
        self,
        name: str,
        kind: str,
        reads: Sequence[str],
        shape: Shape,
        params: Mapping[str, Any] | None = None,
        weights: Sequence[Weight] = (),
    ) -> None:
        """Add the layer that makes the value ``name``.

        Args:
            reads: values.
            weights: in the order of the layer type's blobs.

        Raises:
            FormatError: a size that no network has, or one tensor of the file in two layouts.
        """
        blobs = tuple(shape_after(w.ops, w.shape) for w in weights)
        for sides in (shape, *blobs):
            if any(side <= 0 for side in sides) or len(sides) > 8 or math.prod(sides) > MAX_VALUES:
                raise FormatError(
                    "a size is zero or less, or larger than any network's", where=f"layer {name!r} ({kind})", got=sides
                )
        spec = LayerSpec(name, kind, tuple(map(self.blob, reads)), (name,), dict(params or {}), blobs)
        keys = [self._own(spec, index, weight) for index, weight in enumerate(weights)]
        if any(keys):
            spec = replace(spec, shared=tuple(keys))
        self.layers.append(spec)
        self.shapes[name] = shape

    def _own(self, spec: LayerSpec, index: int, weight: Weight) -> str:
        """Note who fills a blob; returns the name under which it is shared, "" where it is not."""
        target = f"layers.{module_name(spec.name)}.{blob_names(spec)[index]}"
        if weight.source not in self._owners:
            entry = MappedTensor(weight.source, target, weight.shape, weight.ops)
            self._owners[weight.source] = (len(self.layers), index, entry)
            self.entries.append(entry)
            return ""
        at, place, entry = self._owners[weight.source]
        if (entry.ops, entry.source_shape) != (weight.ops, weight.shape):
            raise FormatError(
                "two layers read one tensor of the file in different layouts or shapes",
                where=f"layer {spec.name!r}",
                got=weight.source,
            )
        owner = self.layers[at]
        names = owner.shared or ("",) * len(owner.blobs)
        self.layers[at] = replace(owner, shared=(*names[:place], weight.source, *names[place + 1 :]))
        return weight.source

    def pass_on(self, name: str, value: str) -> None:
        """A node that changes nothing."""
        self.shapes[name], self.alias[name] = self.shapes[value], self.blob(value)

    def add(self, name: str, kind: str, reads: str, params: Mapping[str, Any]) -> str:
        """A layer that the source does not have, behind the blob ``reads``; returns its blob."""
        self.layers.append(LayerSpec(name, kind, (reads,), (name,), dict(params)))
        self.added.append(name)
        return name


class Failing(Protocol):
    """A node of a source's graph."""

    def fail(self, what: str, *, got: object = None) -> FormatError:
        """An error that names the node."""


def expanded(node: Failing, shape: Shape, axis: int) -> Shape:
    """A shape without its batch, with an axis of one put in; ``axis`` counts the batch, from the back where negative."""
    axis += len(shape) + 2 if axis < 0 else 0
    if not 0 < axis <= len(shape) + 1:
        raise node.fail("an axis before the batch", got=axis)
    return (*shape[: axis - 1], 1, *shape[axis - 1 :])


def squeezed(node: Failing, shape: Shape, axes: Sequence[int]) -> Shape:
    """A shape without its batch, less axes of one: the given ones, or all; they count as in ``expanded``, and the batch is never one."""
    full = (0, *shape)
    gone = [a + len(full) if a < 0 else a for a in axes] or [k for k, side in enumerate(full) if side == 1]
    if any(not 0 < a < len(full) or full[a] != 1 for a in gone):
        raise node.fail("axes that cannot be squeezed", got=f"{gone} of {('N', *shape)}")
    return tuple(side for k, side in enumerate(full) if k and k not in gone)
