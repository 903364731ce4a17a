"""Shapes of every blob of a Caffe net and of every learned tensor, from the input's shape alone.

Pure arithmetic on whole numbers, without torch, so that a file is checked before its bytes are read. The rules are the
``Reshape`` methods of Caffe's layers; shapes are batch first, images (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.caffe_layers.names import DEPTHWISE
from ssdconv.ssd_ref.caffe_layers.params import INT_MAX, Params
from ssdconv.ssd_ref.caffe_layers.views import MAX_AXES
from ssdconv.ssd_ref.config import LayerSpec

Shape = tuple[int, ...]
Shapes = tuple[Shape, ...]
Rule = Callable[[Params, Shapes, LayerSpec], tuple[Shapes, Shapes]]
"""(parameters, shapes of the bottoms, layer) -> (shapes of the tops, shapes of the learned blobs)."""

RULES: dict[str, Rule] = {}


def rule(*types: str) -> Callable[[Rule], Rule]:
    """Decorator: the shape rule of layers of these Caffe types; a second rule for a type is an error."""

    def register(function: Rule) -> Rule:
        for name in types:
            if name in RULES:
                raise ValueError(f"layer type {name} has two shape rules")
            RULES[name] = function
        return function

    return register


@dataclass
class NetShapes:
    """What ``infer`` finds.

    Attributes:
        layers: the layers, each with the shapes of its learned blobs filled in.
        blobs: blob name -> shape (the last one written under that name).
        tops: layer name -> shapes of its tops.
    """

    layers: tuple[LayerSpec, ...]
    blobs: dict[str, Shape]
    tops: dict[str, Shapes] = field(default_factory=dict)


def supported() -> frozenset[str]:
    """Layer types that have a shape rule (and a torch module)."""
    from ssdconv.converters.caffe import shape_rules  # noqa: F401

    return frozenset(RULES)


def require_supported(layers: Iterable[LayerSpec]) -> None:
    """Raise one FormatError that names every layer of an unsupported type."""
    known = supported()
    bad = [spec for spec in layers if spec.type not in known]
    if bad:
        others = ", ".join(f"{spec.name!r} ({spec.type})" for spec in bad[1:20])
        more = f"; also unsupported: {others}" if others else ""
        more += f" and {len(bad) - 20} more" if len(bad) > 20 else ""
        raise FormatError(
            f"layer type {bad[0].type!r} is not supported{more}",
            where=f"layer {bad[0].name!r}",
            hint=f"supported types: {', '.join(sorted(known))}",
        )


def infer(layers: Iterable[LayerSpec], inputs: Mapping[str, Shape]) -> NetShapes:
    """Shapes of all blobs and learned tensors.

    Args:
        layers: in execution order.
        inputs: shapes of the blobs that the net is fed with.

    Raises:
        FormatError: an unsupported layer, a blob that nothing writes, or a size that is zero, negative or beyond what
            Caffe can address; the message names the layer.
    """
    steps = tuple(layers)
    require_supported(steps)
    blobs: dict[str, Shape] = {}
    for name, shape in inputs.items():
        blobs[name] = _checked(tuple(shape), "input", f"input {name!r}")
    found: list[LayerSpec] = []
    tops_of: dict[str, Shapes] = {}
    for spec in steps:
        where = f"layer {spec.name!r} ({spec.type})"
        missing = [name for name in spec.bottoms if name not in blobs]
        if missing:
            raise FormatError(f"reads blob {missing[0]!r}, which no layer before it writes", where=where)
        bottoms = tuple(blobs[name] for name in spec.bottoms)
        tops, learned = RULES[spec.type](Params(spec.params, where), bottoms, spec)
        if len(tops) != len(spec.tops):
            raise FormatError("wrong number of tops", where=where, expected=len(tops), got=len(spec.tops))
        tops_of[spec.name] = tuple(_checked(shape, "top", where) for shape in tops)
        blobs.update(zip(spec.tops, tops_of[spec.name], strict=True))
        if spec.type in DEPTHWISE:  # the group is the channel count, said or not
            spec = replace(spec, params={**spec.params, "group": bottoms[0][1]})
        found.append(replace(spec, blobs=tuple(_checked(shape, "learned blob", where) for shape in learned)))
    return NetShapes(tuple(found), blobs, tops_of)


def _checked(shape: Shape, what: str, where: str) -> Shape:
    if any(side <= 0 for side in shape):
        raise FormatError(f"{what} has a side of zero or less", where=where, got=_short(shape))
    if len(shape) > MAX_AXES or prod(shape) > INT_MAX:
        raise FormatError(
            f"{what} is larger than Caffe can address",
            where=where,
            expected=f"at most {INT_MAX} values",
            got=_short(shape),
        )
    return shape


def _short(shape: Shape) -> str:
    text = "(" + ", ".join(str(side) if abs(side) < 10**18 else "huge" for side in shape[:8])
    return text + (", ...)" if len(shape) > 8 else ")")
