"""TensorFlow's operations as layers of the reference's graph: one function per operation, in ``OPERATIONS``.

Shapes are TensorFlow's without the batch: (height, width, channels) for maps. Blobs of the graph are (N, C, H, W) where a value has four
axes, and as TensorFlow has them otherwise; a reshape from or to four axes gets a ``Permute``, which is no layer of the source. Operations
on constants alone are no layers: ``evaluate`` says what they come to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssdconv.converters.layer_graph import HWIO, TO_BLOB, GraphBuilder, Shape, Weight, expanded, squeezed
from ssdconv.converters.tensorflow.evaluate import Evaluator, FrozenGraph, name_of, output_of
from ssdconv.converters.tensorflow.graphdef import Node
from ssdconv.converters.tensors import Array, LazyTensor, Op, ToShape, Transpose
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.graph.params import Params
from ssdconv.ssd_ref.graph.windows import window

NOTHING = ("Identity", "StopGradient", "PreventGradient", "CheckNumerics", "Snapshot")
"""Operations that hand on their first input."""


@dataclass
class GraphNetwork:
    """A graph on its way to layers.

    Attributes:
        graph: the file's nodes.
        entry: the value that prepared pixels stand for.
        made: what was built.
    """

    graph: FrozenGraph
    entry: str
    size: tuple[int, int]
    channels: int = 3
    made: GraphBuilder = field(default_factory=GraphBuilder)

    def __post_init__(self) -> None:
        self.made.shapes[self.entry] = (*self.size, self.channels)
        self.evaluator = Evaluator(self.graph, self.static)

    def static(self, value: str) -> Shape | None:
        """Shape of a value of the network for one image."""
        shape = self.made.shapes.get(value)
        return None if shape is None else (1, *shape)

    def shape(self, node: Node, index: int = 0) -> Shape:
        """Shape of an input."""
        value = self.input(node, index)
        if value not in self.made.shapes:
            raise node.fail(f"input {index} is a constant or of an unknown shape", got=value)
        return self.made.shapes[value]

    def map_shape(self, node: Node, index: int = 0) -> tuple[int, int, int]:
        """(height, width, channels) of an input that is a map."""
        shape = self.shape(node, index)
        if len(shape) != 3:
            raise node.fail("needs a map", expected="(N, height, width, channels)", got=("N", *shape))
        return shape[0], shape[1], shape[2]

    @staticmethod
    def input(node: Node, index: int) -> str:
        """Name of an input."""
        if index >= len(node.inputs):
            raise node.fail("has too few inputs", got=len(node.inputs))
        return node.inputs[index]

    def constant(self, node: Node, index: int) -> Array:
        """Value of an input that must not hang on the image."""
        return self.evaluator.value(self.input(node, index))

    def integers(self, node: Node, index: int) -> list[int]:
        """Whole numbers of an input that must not hang on the image."""
        return [int(v) for v in np.asarray(self.constant(node, index)).reshape(-1)]

    def varies(self, value: str) -> bool:
        """Whether a value is one of the network, not a constant."""
        return value in self.made.shapes

    def stored(self, node: Node, index: int) -> LazyTensor:
        """The file's tensor that an input is, with nothing computed between.

        Raises:
            FormatError: it is none.
        """
        value = self.input(node, index)
        held = self.graph.node(value)
        for _ in range(64):
            if held.op not in NOTHING or not held.inputs:
                break
            held = self.graph.node(held.inputs[0])
        if held.name not in self.graph.constants:
            raise node.fail(
                f"input {index} is no tensor of the file but made by {held.op} {held.name!r}",
                expected="a constant, or a variable whose value is known",
                hint="freeze the graph with its variables, and without training or quantisation nodes",
            )
        return self.graph.constants[held.name]

    def put(self, node: Node, kind: str, shape: Shape, params: dict[str, Any] | None = None, *weights: Weight) -> None:
        """The layer of a node that reads its first input."""
        self.made.put(node.name, kind, (self.input(node, 0),), shape, params, weights)


def build(network: GraphNetwork, values: tuple[str, ...]) -> None:
    """Add the layers that values are made of.

    Raises:
        FormatError: an operation that is not supported, a cycle, or parameters that are not; the message names node and operation.
    """
    made, open_, todo = network.made, set[str](), [name_of(value) for value in reversed(values)]
    steps: dict[str, bool] = {}
    moving = _moving(network, values)
    while todo:
        name = todo[-1]
        if name in steps or name == network.entry:
            todo.pop()
            continue
        node = network.graph.node(name)
        missing = [n for v in node.inputs if (n := name_of(v)) in moving and n not in steps and n != network.entry]
        if missing and name in open_:
            raise node.fail("the graph goes round in a circle")
        if missing:
            open_.add(name)
            todo += missing
            continue
        todo.pop()
        steps[name] = True
        if any(output_of(value) for value in node.inputs if network.varies(name_of(value))):
            raise node.fail("reads a further output of a node", got=", ".join(node.inputs))
        if node.op in NOTHING:
            made.pass_on(name, node.inputs[0])
        elif node.op in OPERATIONS:
            OPERATIONS[node.op](node, network)
        else:
            raise node.fail(
                f"operation {node.op} is not supported in a network",
                expected=f"one of {', '.join(sorted((*OPERATIONS, *NOTHING)))}",
                hint="nothing is guessed: an operation that is not known is never left out or replaced",
            )


def _moving(network: GraphNetwork, values: tuple[str, ...]) -> set[str]:
    """The nodes between the entry and values: those that hang on the image."""
    before = network.graph.before(values, frozenset((network.entry,)))
    if network.entry not in before:
        raise FormatError("the heads do not hang on the network's input", where=network.graph.where, got=network.entry)
    found, todo = {network.entry}, [network.entry]
    while todo:
        for reader in network.graph.readers.get(todo.pop(), ()):
            if (
                reader in before
                and reader not in found
                and network.graph.nodes[reader].op not in ("Shape", "Size", "Rank")
            ):
                found.add(reader)
                todo.append(reader)
    return found


def _nhwc(node: Node) -> None:
    if node.text("data_format", "NHWC") != "NHWC":
        raise node.fail("channels must come last", expected="data_format NHWC", got=node.text("data_format"))


def _window(node: Node, kernel: tuple[int, int]) -> tuple[dict[str, Any], list[list[int]]]:
    """Kernel, strides, padding and dilation as the reference's layers have them; explicit pads ((top, bottom), (left, right)) or none."""
    _nhwc(node)
    strides, dilations = node.integers("strides") or (1, 1, 1, 1), node.integers("dilations") or (1, 1, 1, 1)
    padding, explicit = node.text("padding"), node.integers("explicit_paddings")
    for name, four in (("strides", strides), ("dilations", dilations)):
        if len(four) != 4 or four[0] != 1 or four[3] != 1 or min(four) < 1 or max(four) > 1 << 15:
            raise node.fail(f"{name} over the batch or the channels", got=four)
    if padding not in ("SAME", "VALID", "EXPLICIT") or (padding == "EXPLICIT" and len(explicit) != 8):
        raise node.fail("padding is not known", expected="SAME, VALID or EXPLICIT", got=padding)
    params: dict[str, Any] = {"kernel_size": list(kernel), "strides": list(strides[1:3])}
    params["padding"] = "same" if padding == "SAME" else "valid"
    if dilations != (1, 1, 1, 1):
        params["dilation_rate"] = list(dilations[1:3])
    return params, [list(explicit[2:4]), list(explicit[4:6])] if padding == "EXPLICIT" else []


def _padded(node: Node, network: GraphNetwork, pads: list[list[int]]) -> tuple[str, tuple[int, int, int]]:
    """The input behind explicit padding: its value and shape."""
    height, width, channels = network.map_shape(node)
    value = network.input(node, 0)
    if not pads:
        return value, (height, width, channels)
    blob = network.made.add(f"{node.name}/padded", "ZeroPadding2D", network.made.blob(value), {"padding": pads})
    return blob, (height + sum(pads[0]), width + sum(pads[1]), channels)


def _conv(node: Node, network: GraphNetwork) -> None:
    kernel = network.stored(node, 1)
    if len(kernel.shape) != 4:
        raise node.fail("the kernel has another number of axes", expected=4, got=kernel.shape)
    params, pads = _window(node, (kernel.shape[0], kernel.shape[1]))
    value, (height, width, channels) = _padded(node, network, pads)
    depth = node.op == "DepthwiseConv2dNative"
    inner, out = kernel.shape[2], kernel.shape[3]
    if inner == 0 or (channels != inner if depth else channels % inner):
        raise node.fail("the kernel is for another number of channels", expected=inner, got=channels)
    ops = HWIO
    if depth:
        out *= inner
        ops = (Transpose((2, 3, 0, 1)), ToShape((out, 1, kernel.shape[0], kernel.shape[1])))
    elif channels != inner:
        params["groups"] = channels // inner
    size = window(Params(params, node.where), "kernel_size").out((height, width))
    params |= {"use_bias": False} | ({} if depth else {"filters": out})
    weight = Weight(kernel.name, tuple(kernel.shape), ops)
    network.made.put(
        node.name, "DepthwiseConv2D" if depth else "Conv2D", (value,), (*size, out), params, (weight,)
    )  # fmt: skip


def _pool(node: Node, network: GraphNetwork) -> None:
    sides = node.integers("ksize")
    if len(sides) != 4 or sides[0] != 1 or sides[3] != 1:
        raise node.fail("pooling over the batch or the channels", got=sides)
    params, pads = _window(node, (sides[1], sides[2]))
    if pads:
        raise node.fail("explicit padding of a pooling is not supported", got=pads)
    params["pool_size"] = params.pop("kernel_size")
    height, width, channels = network.map_shape(node)
    size = window(Params(params, node.where), "pool_size").out((height, width))
    network.put(node, {"MaxPool": "MaxPooling2D", "AvgPool": "AveragePooling2D"}[node.op], (*size, channels), params)


def _batch_norm(node: Node, network: GraphNetwork) -> None:
    _nhwc(node)
    if node.flag("is_training", True):
        raise node.fail("normalises by the batch: the graph is one for training", hint="export it for inference")
    shape = network.map_shape(node)
    stored = [network.stored(node, k) for k in range(1, 5)]
    weights = [Weight(s.name, tuple(s.shape)) for s in stored]
    if any(w.shape != shape[2:] for w in weights):
        raise node.fail("statistics of another number of channels", expected=shape[2:], got=[w.shape for w in weights])
    network.put(node, "BatchNormalization", shape, {"epsilon": _short(node.number("epsilon", 1e-4))}, *weights)


def _short(value: float) -> float:
    """The shortest decimal of the same float32."""
    return float(str(np.float32(value)))


def _activation(node: Node, network: GraphNetwork) -> None:
    words = {"Relu": "relu", "Relu6": "relu6", "Selu": "selu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus",
             "Softsign": "softsign", "Elu": "elu", "Exp": "exponential"}  # fmt: skip
    network.put(node, "Activation", network.shape(node), {"activation": words[node.op]})


def _leaky(node: Node, network: GraphNetwork) -> None:
    network.put(node, "ReLU", network.shape(node), {"negative_slope": _short(node.number("alpha", 0.2))})


def _softmax(node: Node, network: GraphNetwork) -> None:
    shape = network.shape(node)
    network.put(node, "Softmax", shape, {"axis": 1 if len(shape) == 3 else len(shape)})


def _sum(node: Node, network: GraphNetwork) -> None:
    """Add, Sub, BiasAdd, Mul, RealDiv, Maximum, Minimum: of two values of the network, or of one and a constant."""
    if node.op == "BiasAdd":
        _nhwc(node)
    varying = [k for k in (0, 1) if network.varies(network.input(node, k))]
    if len(varying) == 2:
        _two(node, network)
        return
    if not varying:
        raise node.fail("reads nothing of the network")
    at = varying[0]
    value, shape = network.input(node, at), network.shape(node, at)
    other = network.constant(node, 1 - at)
    scalar = other.size == 1
    number = float(other.reshape(())) if scalar else 0.0
    made = network.made
    if node.op in ("Add", "AddV2", "BiasAdd", "Mul") and not scalar:
        made.put(node.name, *_vector(node, network, value, shape, 1 - at, "Scale" if node.op == "Mul" else "Bias"))
    elif node.op in ("Add", "AddV2", "BiasAdd") or (node.op == "Sub" and scalar and at == 0):
        made.put(node.name, "Rescaling", (value,), shape, {"offset": -number if node.op == "Sub" else number})
    elif node.op == "Mul":
        made.put(node.name, "Rescaling", (value,), shape, {"scale": number})
    elif node.op in ("Sub", "RealDiv") and at == 0 and len(shape) == 3 and other.size in (1, shape[2]):
        numbers = [float(v) for v in np.broadcast_to(other.reshape(-1), (shape[2],))]
        made.put(node.name, "PerChannel", (value,), shape, {"mean" if node.op == "Sub" else "std": numbers})
    elif node.op == "RealDiv" and at == 0 and number == 1.0:
        made.pass_on(node.name, value)
    else:
        raise node.fail(
            f"{node.op} with a constant of this shape is not supported", got=f"{('N', *shape)} and {other.shape}"
        )


def _vector(
    node: Node, network: GraphNetwork, value: str, shape: Shape, index: int, kind: str
) -> tuple[str, tuple[str, ...], Shape, dict[str, Any], tuple[Weight, ...]]:
    """A tensor of the file per channel: the arguments of ``GraphBuilder.put``."""
    held = network.stored(node, index)
    channels = shape[-1]
    if math.prod(held.shape) != channels or held.shape[-1:] != (channels,):
        raise node.fail("a constant that is not one number per channel", expected=(channels,), got=held.shape)
    ops: tuple[Op, ...] = () if held.shape == (channels,) else (ToShape((channels,)),)
    params = {} if len(shape) == 3 else {"axis": len(shape)}
    return kind, (value,), shape, params, (Weight(held.name, tuple(held.shape), ops),)


def _two(node: Node, network: GraphNetwork) -> None:
    kinds = {"Add": "SUM", "AddV2": "SUM", "Sub": "SUM", "Mul": "PROD", "Maximum": "MAX"}
    shapes = [network.shape(node, k) for k in (0, 1)]
    sides = (
        [set(pair) - {1} or {1} for pair in zip(*shapes, strict=True)] if len(shapes[0]) == len(shapes[1]) else [{1, 2}]
    )
    if node.op not in kinds or any(len(side) > 1 for side in sides):
        raise node.fail(f"{node.op} of two values of these shapes is not supported", got=shapes)
    params: dict[str, Any] = {"operation": kinds[node.op]}
    params |= {"coeff": [1.0, -1.0]} if node.op == "Sub" else {}
    network.made.put(node.name, "Eltwise", node.inputs[:2], tuple(side.pop() for side in sides), params)


def _pad(node: Node, network: GraphNetwork) -> None:
    pads = np.asarray(network.constant(node, 1))
    height, width, channels = network.map_shape(node)
    if pads.shape != (4, 2) or pads[[0, 3]].any() or pads.min() < 0 or pads.max() > 1 << 15:
        raise node.fail("padding of other axes than height and width", got=pads.tolist())
    if node.op == "PadV2" and float(network.constant(node, 2)) != 0:
        raise node.fail("padding with another value than 0", got=float(network.constant(node, 2)))
    (top, bottom), (left, right) = pads[1:3].tolist()
    shape = (height + top + bottom, width + left + right, channels)
    network.put(node, "ZeroPadding2D", shape, {"padding": [[top, bottom], [left, right]]})


def _concat(node: Node, network: GraphNetwork) -> None:
    values = node.inputs[:-1]
    shapes = [network.shape(node, k) for k in range(len(values))]
    rank = len(shapes[0]) + 1 if shapes else 0
    (axis,) = network.integers(node, len(values))
    axis += rank if axis < 0 else 0
    same = {(len(s), tuple(side for k, side in enumerate(s) if k + 1 != axis)) for s in shapes}
    if not 0 < axis < rank or len(same) != 1:
        raise node.fail(f"the values cannot be joined along axis {axis}", got=shapes)
    out = list(shapes[0])
    out[axis - 1] = sum(s[axis - 1] for s in shapes)
    network.made.put(node.name, "Concat", values, tuple(out), {"axis": TO_BLOB[axis] if rank == 4 else axis})


def _reshaped(node: Node, network: GraphNetwork, full: Shape) -> None:
    """The same values in other axes, as TensorFlow orders them."""
    shape, made = network.shape(node), network.made
    if math.prod(full) != math.prod(shape):
        raise node.fail("cannot be reshaped that way", got=f"{('N', *shape)} into {('N', *full)}")
    reads = made.blob(network.input(node, 0))
    if full == shape:
        made.pass_on(node.name, network.input(node, 0))
        return
    if len(shape) == 3:
        reads = made.add(f"{node.name}/permute", "Permute", reads, {"order": [0, 2, 3, 1]})
    params = {"shape": {"dim": [0, *full]}}
    if len(full) == 3:
        reads = made.add(f"{node.name}/reshape", "Reshape", reads, params)
        made.put(node.name, "Permute", (reads,), full, {"order": [0, 3, 1, 2]})
    else:
        made.put(node.name, "Reshape", (reads,), full, params)


def _reshape(node: Node, network: GraphNetwork) -> None:
    shape, target = network.shape(node), network.integers(node, 1)
    known = math.prod(side for side in target if side != -1)
    if not target or target.count(-1) > 1 or min(target) < -1 or known <= 0 or math.prod(shape) % known:
        raise node.fail("cannot be reshaped that way", got=f"{('N', *shape)} into {tuple(target)}")
    full = tuple(math.prod(shape) // known if side == -1 else side for side in target)
    if full[0] != 1:
        raise node.fail("mixes the images of a batch", expected="the batch first", got=target)
    _reshaped(node, network, full[1:])


def _squeeze(node: Node, network: GraphNetwork) -> None:
    _reshaped(
        node, network, squeezed(node, network.shape(node), node.integers("squeeze_dims") or node.integers("axis"))
    )


def _expand(node: Node, network: GraphNetwork) -> None:
    (axis,) = network.integers(node, 1)
    _reshaped(node, network, expanded(node, network.shape(node), axis))


def _transpose(node: Node, network: GraphNetwork) -> None:
    shape, order = network.shape(node), network.integers(node, 1)
    if sorted(order) != list(range(len(shape) + 1)) or order[0] != 0:
        raise node.fail("moves the batch, or is no permutation", got=order)
    blobs = order
    if len(shape) == 3:
        blobs = [TO_BLOB[order[k]] for k in sorted(TO_BLOB, key=TO_BLOB.__getitem__)]
    network.put(node, "Permute", tuple(shape[k - 1] for k in order[1:]), {"order": blobs})


def _mean(node: Node, network: GraphNetwork) -> None:
    channels = network.map_shape(node)[2]
    axes = sorted(a + 4 if a < 0 else a for a in network.integers(node, 1))
    if axes != [1, 2]:
        raise node.fail("a mean over other axes than height and width", got=axes)
    keep = node.flag("keep_dims")
    network.put(
        node, "GlobalAveragePooling2D", (1, 1, channels) if keep else (channels,), {"keepdims": True} if keep else {}
    )


OPERATIONS: dict[str, Callable[[Node, GraphNetwork], None]] = {
    "Conv2D": _conv,
    "DepthwiseConv2dNative": _conv,
    "MaxPool": _pool,
    "AvgPool": _pool,
    "FusedBatchNorm": _batch_norm,
    "FusedBatchNormV2": _batch_norm,
    "FusedBatchNormV3": _batch_norm,
    **dict.fromkeys(("Relu", "Relu6", "Selu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Elu", "Exp"), _activation),
    "LeakyRelu": _leaky,
    "Softmax": _softmax,
    **dict.fromkeys(("Add", "AddV2", "BiasAdd", "Sub", "Mul", "RealDiv", "Maximum"), _sum),
    "Pad": _pad,
    "PadV2": _pad,
    "ConcatV2": _concat,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "ExpandDims": _expand,
    "Transpose": _transpose,
    "Mean": _mean,
}
"""Operation -> what it becomes."""
