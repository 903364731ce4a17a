"""What the constant parts of a graph come to: anchors, shapes, the decoder of boxes. A small list of operations in NumPy, nothing else.

Values that depend on the image are given (``feeds``) or unknown; of those the shape may still be known (``static``). A loop counts as its
first round: reading a TensorArray gives the first row of what was put in, stacking one gives the value of the round as one row.
Semantics: https://www.tensorflow.org/api_docs/python/tf/raw_ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ssdconv.converters.tensorflow.graphdef import Node
from ssdconv.converters.tensorflow.protos import dtype_of
from ssdconv.converters.tensors import Array, LazyTensor
from ssdconv.errors import FormatError

Shape = tuple[int, ...]
MAX_VALUES = 1 << 24
"""Elements of one value: boxes and shapes are far smaller."""


class FrozenGraph:
    """Nodes and constants by name, who reads them, and what loops hand in and out."""

    def __init__(self, nodes: Mapping[str, Node], constants: Mapping[str, LazyTensor], where: str) -> None:
        self.nodes = nodes
        self.constants = constants
        self.where = where
        self.readers: dict[str, list[str]] = {}
        for node in nodes.values():
            for value in node.inputs:
                self.readers.setdefault(name_of(value), []).append(node.name)

    def node(self, value: str) -> Node:
        """The node that makes a value.

        Raises:
            FormatError: there is none.
        """
        if (name := name_of(value)) not in self.nodes:
            raise FormatError("a node reads what no node makes", where=self.where, got=name)
        return self.nodes[name]

    def put_in(self, read: Node) -> str | None:
        """The value whose rows a TensorArrayReadV3 hands into a loop, None where it is another array."""
        node = self._through(read.inputs[2], ("Enter", "Identity"))
        return node.inputs[2] if node.op == "TensorArrayScatterV3" else None

    def taken_out(self, gather: Node) -> str | None:
        """The value that each round of a loop writes and a TensorArrayGatherV3 stacks, None where it is another array."""
        value = gather.inputs[2]
        for _ in range(8):
            node = self.node(value)
            if node.op == "TensorArrayWriteV3":
                return node.inputs[2]
            if node.op == "Merge" and len(node.inputs) == 2:
                value = node.inputs[1]
            elif node.op in ("Exit", "Switch", "NextIteration", "Identity"):
                value = node.inputs[0]
            else:
                return None
        return None

    def _through(self, value: str, ops: tuple[str, ...]) -> Node:
        node = self.node(value)
        for _ in range(64):
            if node.op not in ops or not node.inputs:
                break
            node = self.node(node.inputs[0])
        return node

    def before(self, values: tuple[str, ...], stop: frozenset[str] = frozenset()) -> dict[str, Node]:
        """Every node that values are made of, nearest first; ``stop`` are not gone behind, nor is what only gives a shape."""
        found: dict[str, Node] = {}
        todo = [name_of(value) for value in values]
        while todo:
            following: list[str] = []
            for name in todo:
                if name in found:
                    continue
                node = found[name] = self.node(name)
                if name not in stop and node.op not in ("Shape", "Size", "Rank"):
                    following += [name_of(value) for value in node.inputs]
            todo = following
        return found

    def behind(self, names: tuple[str, ...]) -> dict[str, Node]:
        """Every node that reads what nodes make, directly or not, nearest first."""
        found: dict[str, Node] = {}
        todo = list(names)
        while todo:
            following = []
            for name in todo:
                for reader in self.readers.get(name, ()):
                    if reader not in found:
                        found[reader] = self.nodes[reader]
                        following.append(reader)
            todo = following
        return found


def name_of(value: str) -> str:
    """The node of "node:1"."""
    return value.partition(":")[0]


def output_of(value: str) -> int:
    """The number of the output: 1 of "node:1"."""
    number = value.partition(":")[2]
    return int(number) if number.isdigit() else 0


class UnknownError(FormatError):
    """A value that hangs on the image."""


class Evaluator:
    """Values of a graph's constant parts.

    Args:
        graph: the nodes.
        static: shape of a value that is not computed here, None where it is not known.
        feeds: values that are given.
        exact: floats of the graph in float64, as if its constants were exact.
    """

    def __init__(
        self,
        graph: FrozenGraph,
        static: Callable[[str], Shape | None] = lambda value: None,
        feeds: Mapping[str, Array] | None = None,
        *,
        exact: bool = False,
    ) -> None:
        self.graph = graph
        self.static = static
        self.feeds = dict(feeds or {})
        self.exact = exact
        self._held: dict[str, tuple[Array, ...]] = {}

    def value(self, value: str) -> Array:
        """What a value comes to.

        Raises:
            UnknownError: it hangs on the image.
            FormatError: an operation that is not evaluated, one that cannot be, or a cycle.
        """
        if value in self.feeds:
            return self.feeds[value]
        todo, open_ = [name_of(value)], set[str]()
        while todo:
            name = todo[-1]
            node = self.graph.node(name)
            missing = [v for v in self._needs(node) if v not in self.feeds and name_of(v) not in self._held]
            if name in self._held:
                todo.pop()
            elif not missing:
                self._held[name] = self._run(node)
                open_.discard(todo.pop())
            elif name in open_:
                raise node.fail("the graph goes round in a circle")
            else:
                open_.add(name)
                todo += [name_of(v) for v in missing]
        outputs = self._held[name_of(value)]
        if output_of(value) >= len(outputs):
            raise self.graph.node(value).fail("has no such output", got=value)
        return outputs[output_of(value)]

    def known(self, value: str) -> Array | None:
        """What a value comes to, None where it hangs on the image or is not evaluated."""
        try:
            return self.value(value)
        except FormatError:
            return None

    def _needs(self, node: Node) -> tuple[str, ...]:
        if node.op == "Const" or not node.inputs:
            return ()
        if node.op in ("Shape", "Rank", "Size") and self._static(node.inputs[0]) is not None:
            return ()
        if node.op == "TensorArrayReadV3":
            inside = self.graph.put_in(node)
            return () if inside is None else (inside,)
        if node.op == "TensorArrayGatherV3":
            inside = self.graph.taken_out(node)
            return () if inside is None else (inside,)
        return node.inputs

    def _static(self, value: str) -> Shape | None:
        return self.feeds[value].shape if value in self.feeds else self.static(value)

    def _input(self, value: str) -> Array:
        if value in self.feeds:
            return self.feeds[value]
        outputs = self._held[name_of(value)]
        return outputs[min(output_of(value), len(outputs) - 1)]

    def _run(self, node: Node) -> tuple[Array, ...]:
        if node.op == "Const":
            return (self._constant(node),)
        if node.op in ("Shape", "Rank", "Size"):
            shape = self._static(node.inputs[0])
            shape = self._input(node.inputs[0]).shape if shape is None else shape
            made = {
                "Shape": np.array(shape, np.int32),
                "Rank": np.int32(len(shape)),
                "Size": np.int32(math.prod(shape)),
            }
            return (np.asarray(made[node.op]),)
        if node.op in ("TensorArrayReadV3", "TensorArrayGatherV3"):
            needed = self._needs(node)
            if not needed:
                raise UnknownError("a value of a loop that is not evaluated", where=node.where)
            whole = self._input(needed[0])
            return (whole[0] if node.op == "TensorArrayReadV3" else whole[None],)
        if node.op not in OPS:
            kind = UnknownError if node.op in ("Placeholder", "PlaceholderWithDefault") else FormatError
            raise kind(
                f"operation {node.op} is not evaluated where a constant is needed",
                where=f"{self.graph.where}, {node.where}",
                expected=f"one of {', '.join(sorted(OPS))}",
            )
        inputs = [self._input(value) for value in node.inputs]
        if self.exact:
            inputs = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in inputs]
        try:
            with np.errstate(all="ignore"):
                made = OPS[node.op](node, *inputs)
        except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError, MemoryError) as error:
            raise node.fail(f"cannot be evaluated: {error}", got=[x.shape for x in inputs]) from None
        outputs = tuple(np.asarray(x) for x in made) if isinstance(made, tuple) else (np.asarray(made),)
        for out in outputs:
            _sane(out.shape)
        return outputs

    def _constant(self, node: Node) -> Array:
        tensor = self.graph.constants.get(node.name)
        if tensor is None or math.prod(tensor.shape) > MAX_VALUES:
            raise node.fail("a constant without a value, or larger than any that is evaluated")
        array = tensor.load()
        return array.astype(np.float64) if self.exact and array.dtype.kind == "f" else array


def _sane(shape: Shape) -> Shape:
    if math.prod(shape) > MAX_VALUES or any(side < 0 for side in shape):
        raise ValueError(f"a value of shape {shape} is larger than any that is evaluated")
    return shape


def _axis(array: Array) -> int:
    return int(np.asarray(array).reshape(()))


def _ints(array: Array) -> list[int]:
    return [int(v) for v in np.asarray(array).reshape(-1)]


def _cast(node: Node, x: Array) -> Array:
    if x.dtype == np.float64 and dtype_of(node.integer("DstT")).kind == "f":
        return x
    return x.astype(dtype_of(node.integer("DstT")))


def _pack(node: Node, *values: Array) -> Array:
    _sane((len(values), *values[0].shape))
    return np.stack(
        np.broadcast_arrays(*values) if len({v.dtype for v in values}) > 1 else values, node.integer("axis")
    )


def _unpack(node: Node, x: Array) -> tuple[Array, ...]:
    axis = node.integer("axis")
    return tuple(np.moveaxis(x, axis, 0))


def _strided(node: Node, x: Array, begin: Array, end: Array, strides: Array) -> Array:
    masks = {n: node.integer(f"{n}_mask") for n in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    index: list[Any] = []
    for k, (first, last, step) in enumerate(zip(_ints(begin), _ints(end), _ints(strides), strict=True)):
        bit = 1 << k
        if masks["ellipsis"] & bit:
            index.append(Ellipsis)
        elif masks["new_axis"] & bit:
            index.append(None)
        elif masks["shrink_axis"] & bit:
            index.append(first)
        else:
            index.append(slice(None if masks["begin"] & bit else first, None if masks["end"] & bit else last, step))
    return np.asarray(x[tuple(index)])


def _slice(node: Node, x: Array, begin: Array, size: Array) -> Array:
    pairs = zip(_ints(begin), _ints(size), x.shape, strict=True)
    return x[tuple(slice(b, n if s == -1 else b + s) for b, s, n in pairs)]


def _range(node: Node, start: Array, limit: Array, delta: Array) -> Array:
    first, last, step = (float(np.asarray(v).reshape(())) for v in (start, limit, delta))
    (count,) = _sane((max(math.ceil((last - first) / step), 0),))
    made: Array = (start + delta * np.arange(count)).astype(start.dtype)
    return made


def _fill(node: Node, dims: Array, value: Array) -> Array:
    return np.full(_sane(tuple(_ints(dims))), value)


def _tile(node: Node, x: Array, multiples: Array) -> Array:
    _sane(tuple(side * by for side, by in zip(x.shape, _ints(multiples), strict=True)))
    return np.tile(x, _ints(multiples))


def _squeeze(node: Node, x: Array) -> Array:
    axes = node.integers("squeeze_dims") or node.integers("axis")
    return np.squeeze(x, axes or None)


def _concat(node: Node, *values: Array) -> Array:
    return np.concatenate(values[:-1], _axis(values[-1]))


def _split(node: Node, axis: Array, x: Array) -> tuple[Array, ...]:
    return tuple(np.split(x, node.integer("num_split", 1), _axis(axis)))


def _gather(node: Node, x: Array, indices: Array, axis: Array | None = None) -> Array:
    return np.take(x, indices, 0 if axis is None else _axis(axis))


def _sigmoid(node: Node, x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _softmax(node: Node, x: Array) -> Array:
    e: Array = np.exp(x - x.max(-1, keepdims=True))
    total: Array = e.sum(-1, keepdims=True)
    return e / total


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda node, *values: function(*values)


def _same_kind(function: Callable[..., Any]) -> Callable[..., Any]:
    """Arithmetic in the first operand's type, as TensorFlow has it: scalars do not widen it."""
    return lambda node, a, b: np.asarray(function(a, b)).astype(np.result_type(a.dtype, b.dtype), copy=False)


def _reduced(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(node: Node, x: Array, axes: Array) -> Any:
        return function(x, axis=tuple(_ints(axes)), keepdims=node.flag("keep_dims")).astype(x.dtype)

    return call


OPS: dict[str, Callable[..., Any]] = {
    "Identity": lambda node, x: x,
    "StopGradient": lambda node, x: x,
    "PreventGradient": lambda node, x: x,
    "Enter": lambda node, x: x,
    "Cast": _cast,
    "Pack": _pack,
    "Unpack": _unpack,
    "StridedSlice": _strided,
    "Slice": _slice,
    "Range": _range,
    "Fill": _fill,
    "Tile": _tile,
    "BroadcastTo": lambda node, x, dims: np.broadcast_to(x, _sane(tuple(_ints(dims)))),
    "Reshape": lambda node, x, dims: x.reshape(_ints(dims)),
    "ExpandDims": lambda node, x, axis: np.expand_dims(x, _axis(axis)),
    "Squeeze": _squeeze,
    "ConcatV2": _concat,
    "Concat": lambda node, axis, *values: np.concatenate(values, _axis(axis)),
    "Transpose": lambda node, x, order: x.transpose(_ints(order)),
    "Split": _split,
    "GatherV2": _gather,
    "Gather": _gather,
    "ZerosLike": lambda node, x: np.zeros_like(x),
    "OnesLike": lambda node, x: np.ones_like(x),
    "Add": _same_kind(np.add),
    "AddV2": _same_kind(np.add),
    "AddN": lambda node, *values: sum(values[1:], values[0]),
    "BiasAdd": _same_kind(np.add),
    "Sub": _same_kind(np.subtract),
    "Mul": _same_kind(np.multiply),
    "RealDiv": _same_kind(np.divide),
    "Div": lambda node, a, b: (a // b if a.dtype.kind in "iu" else a / b).astype(a.dtype),
    "FloorDiv": _same_kind(np.floor_divide),
    "FloorMod": _same_kind(np.mod),
    "Minimum": _same_kind(np.minimum),
    "Maximum": _same_kind(np.maximum),
    "Pow": _same_kind(np.power),
    "Sqrt": _plain(np.sqrt),
    "Rsqrt": lambda node, x: (1 / np.sqrt(x)).astype(x.dtype),
    "Exp": _plain(np.exp),
    "Log": _plain(np.log),
    "Square": _plain(np.square),
    "Neg": _plain(np.negative),
    "Floor": _plain(np.floor),
    "Ceil": _plain(np.ceil),
    "Round": _plain(np.round),
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "Prod": _reduced(np.prod),
    "Max": _reduced(np.max),
    "Min": _reduced(np.min),
    "Sum": _reduced(np.sum),
    "Mean": _reduced(np.mean),
    "Greater": _plain(np.greater),
    "GreaterEqual": _plain(np.greater_equal),
    "Less": _plain(np.less),
    "LessEqual": _plain(np.less_equal),
    "Equal": _plain(np.equal),
    "LogicalAnd": _plain(np.logical_and),
    "Select": lambda node, test, a, b: np.where(test, a, b),
    "SelectV2": lambda node, test, a, b: np.where(test, a, b),
}
"""Operation -> what it makes of its inputs."""
