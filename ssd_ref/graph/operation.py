"""What an operation of a layer graph is, the register of all, and shapes of whole nets by the operations' rules. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from math import prod
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.graph.params import INT_MAX, Params

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Shapes = tuple[Shape, ...]
Result = tuple[Shapes, Shapes]
"""Shapes of an operation's tops, and of its learned tensors."""
Family = Literal["caffe", "keras", "mxnet"]
FILES = ("activations", "affine", "combine", "convolution", "normalization", "pooling", "resample", "views")
"""The files that hold the operations."""
MAX_AXES = 32
"""Caffe's ``kMaxBlobAxes``."""


@dataclass(frozen=True)
class ParamMessage:
    """How Caffe's files hold a layer's parameters.

    Attributes:
        name: the field of a layer: ``convolution_param``.
        number: its number in the schema of the SSD branch, or of the Caffe that added the layer.
        fields: what the message holds, ``name:type=number`` each, as ``converters.caffe.schema`` reads them.
        defaults: values of absent fields (``caffe.proto``).
        elsewhere: numbers under which other Caffes keep this message.
    """

    name: str
    number: int
    fields: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: frozenset[int] = frozenset()


class Operation:
    """One layer of a graph: its parameters, read and checked, its shape rule and its formula.

    Subclasses say what differs. ``run`` takes the bottoms' values, and the learned tensors by name, those that the layer has; it returns
    one tensor, or a tuple for several tops. It writes nothing in place, works in float32 and float64, on any device and
    memory format, for any batch size, and in forms that torch's ONNX exporter brings over unchanged.
    """

    types: tuple[str, ...] = ()
    """Layer types that it runs."""
    family: Family = "caffe"
    """Whose terms it stands in."""
    message: ParamMessage | None = None
    """None where the layer has no parameters, or is none of Caffe's."""
    statistics: tuple[str, ...] = ()
    """Learned tensors that are not trained; they become buffers."""
    run: Callable[..., Any]

    def __init__(self, spec: LayerSpec) -> None:
        self.spec = spec
        defaults = self.message.defaults if self.message else {}
        self.p = Params(spec.params, f"layer {spec.name!r} ({spec.type})", defaults)
        self.training = True

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: an operation is made again from its layer, for it may hold functions without a name."""
        return operation_of, (self.spec,), {"training": self.training}

    @classmethod
    def learned(cls, spec: LayerSpec) -> tuple[str, ...]:
        """Names of the layer's learned tensors, in the order of the source's blobs."""
        return ()

    @classmethod
    def views(cls, spec: LayerSpec) -> bool:
        """Whether the tops are the bottom's memory under other names (``ShareData`` in Caffe), so that writing in place changes both."""
        return False

    def shapes(self, bottoms: Shapes) -> Result:
        """Shapes of the tops and of the learned tensors (the ``Reshape`` method of Caffe's layer).

        Raises:
            FormatError: parameters or bottoms that do not fit.
        """
        raise self.p.fail("shapes of this layer come with the graph it stands in")

    def completed(self, bottoms: Shapes) -> LayerSpec:
        """The layer with parameters that its bottoms tell."""
        return self.spec

    def initial(self, name: str, shape: Shape) -> Tensor:
        """Value of a learned tensor before weights are loaded: biases 0, kernels uniform with variance 2 / fan-in."""
        import torch

        if name == "bias":
            return torch.zeros(shape)
        bound = (6.0 / max(prod(shape[1:]), 1)) ** 0.5
        return torch.empty(shape).uniform_(-bound, bound)

    def count(self, bottoms: Shapes, low: int = 1, high: int | None = None) -> None:
        """Check the number of bottoms."""
        top = low if high is None else high
        if not low <= len(bottoms) <= top:
            expected = low if low == top else f"{low}..{top}"
            raise self.p.fail("wrong number of bottoms", expected=expected, got=len(bottoms))

    def image(self, bottoms: Shapes) -> tuple[int, int, int, int]:
        """The only bottom's (N, C, H, W)."""
        self.count(bottoms)
        if len(bottoms[0]) != 4:
            raise self.p.fail("needs images", expected="(N, C, H, W)", got=bottoms[0])
        n, c, h, w = bottoms[0]
        return n, c, h, w


class Lazily:
    """A module that is imported when something of it is first used: torch, in the files of operations."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value


torch, F = Lazily("torch"), Lazily("torch.nn.functional")

Kind = TypeVar("Kind", bound=type[Operation])
OPERATIONS: dict[str, type[Operation]] = {}


def operation(*types: str, message: ParamMessage | None = None, family: Family = "caffe") -> Callable[[Kind], Kind]:
    """Class decorator: the operation that runs layers of these types.

    Raises:
        ValueError: a type has an operation already.
    """

    def register(cls: Kind) -> Kind:
        for name in types:
            if name in OPERATIONS:
                raise ValueError(f"layer type {name} is registered twice: {OPERATIONS[name].__name__}, {cls.__name__}")
            OPERATIONS[name] = cls
        cls.types, cls.message, cls.family = types, message, family
        return cls

    return register


@cache
def operations() -> Mapping[str, type[Operation]]:
    """Layer type -> operation, of all."""
    for name in FILES:
        import_module(f"ssdconv.ssd_ref.graph.{name}")
    return OPERATIONS


def supported() -> frozenset[str]:
    """Caffe's layer types that have an operation."""
    return frozenset(name for name, kind in operations().items() if kind.family == "caffe")


def operation_of(spec: LayerSpec) -> Operation:
    """The operation of one layer.

    Raises:
        FormatError: unknown type, or parameters out of range.
    """
    known = operations()
    if spec.type not in known:
        near = difflib.get_close_matches(spec.type, known, 3, 0.5)
        raise FormatError(
            f"layer type {spec.type!r} is not supported",
            where=f"layer {spec.name!r}",
            hint=f"nearest supported: {', '.join(near)}" if near else f"supported: {', '.join(sorted(known))}",
        )
    return known[spec.type](spec)


def module_name(layer: str) -> str:
    """Name of a layer's torch module: ``%`` becomes ``%25`` and ``.`` becomes ``%2E``, all else stays.

    Torch separates the parts of a parameter's name with dots, so a layer's own dots must not appear.
    """
    return layer.replace("%", "%25").replace(".", "%2E")


def layer_name(module: str) -> str:
    """The layer of a torch module: undoes ``module_name``."""
    return module.replace("%2E", ".").replace("%25", "%")


def blob_names(spec: LayerSpec) -> tuple[str, ...]:
    """For each of the layer's blobs, in the source's order, the parameter's name within the layer's module; none for unknown types."""
    kind = operations().get(spec.type)
    return kind.learned(spec) if kind else ()


@dataclass(frozen=True)
class Learned:
    """One learned blob of a graph.

    Attributes:
        layer, index: the layer and the number of its blob.
        parameter: name in the ``LayerGraph``'s ``state_dict``, "conv1_1.weight".
        shape: the blob's shape.
        same_as: parameter of the earlier blob that it shares its values with (``param { name }``), or "".
    """

    layer: str
    index: int
    parameter: str
    shape: Shape
    same_as: str = ""


def learned_blobs(layers: Iterable[LayerSpec]) -> Iterator[Learned]:
    """Every learned blob of the layers, in order."""
    owners: dict[str, str] = {}
    for spec in layers:
        names = blob_names(spec)
        for index, (name, shape) in enumerate(zip(names, spec.blobs, strict=True)):
            parameter = f"{module_name(spec.name)}.{name}"
            key = spec.shared[index] if index < len(spec.shared) else ""
            owner = owners.setdefault(key, parameter) if key else parameter
            yield Learned(spec.name, index, parameter, shape, "" if owner == parameter else owner)


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


def require_supported(layers: Iterable[LayerSpec]) -> None:
    """Raise one FormatError that names every layer of a type that is none of Caffe's here."""
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
    """Shapes of all blobs and learned tensors of a Caffe net, from the input's alone, before any of its bytes are read.

    Args:
        layers: in execution order.
        inputs: shapes of the blobs that the net is fed with, batch first, images (N, C, H, W).

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
        step = operation_of(spec)
        tops, learned = step.shapes(bottoms)
        if len(tops) != len(spec.tops):
            raise FormatError("wrong number of tops", where=where, expected=len(tops), got=len(spec.tops))
        tops_of[spec.name] = tuple(_checked(shape, "top", where) for shape in tops)
        blobs.update(zip(spec.tops, tops_of[spec.name], strict=True))
        shapes = tuple(_checked(shape, "learned blob", where) for shape in learned)
        found.append(replace(step.completed(bottoms), blobs=shapes))
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


class Memory:
    """Which of Caffe's blobs lie in one piece of memory, so that a layer that works in place changes the others too.

    Some layers give their bottom's memory further names (``Operation.views``). A layer whose top has the name of its bottom writes over
    that memory. All blobs that share it then hold the new values, each in its own shape. Every other layer writes to memory of its own.
    Layers are followed in their order of execution.
    """

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}  # blob -> all blobs of its memory

    def run(self, spec: LayerSpec) -> dict[str, str]:
        """One layer on: the other blobs that it overwrites, each with the top whose values it then holds."""
        changed: dict[str, str] = {}
        kind = operations().get(spec.type)
        if kind and kind.views(spec) and spec.bottoms:
            group = self._names.setdefault(spec.bottoms[0], {spec.bottoms[0]})
            for top in spec.tops:
                self._move(top, group)
            return changed
        for index, top in enumerate(spec.tops):
            if spec.bottoms[index : index + 1] == (top,):
                changed.update(dict.fromkeys(sorted(self._names.get(top, set()) - set(spec.tops)), top))
            else:
                self._move(top, set())
        return changed

    def _move(self, name: str, group: set[str]) -> None:
        self._names.get(name, set()).discard(name)
        group.add(name)
        self._names[name] = group
