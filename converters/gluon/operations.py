"""MXNet's operators as layers of the reference's graph: one function per kind of operator, in ``OPERATORS``.

Blobs are (N, C, H, W) as MXNet has them; shapes here leave the batch out. Operators on tensors of the file alone (anchors) are no layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ssdconv.converters.gluon.symbol import Symbol, SymbolNode
from ssdconv.converters.layer_graph import GraphBuilder, Shape, Weight, expanded, squeezed
from ssdconv.converters.tensors import LazyTensor, ToShape
from ssdconv.errors import FormatError

NOTHING = (
    "identity",
    "_copy",
    "Dropout",
    "BlockGrad",
    "stop_gradient",
    "Cast",
    "cast",
    "amp_cast",
    "MakeLoss",
    "_contrib_sync",
)
"""Operators that hand on their first input when nothing is trained."""
MAX_SLICE = 1 << 14


@dataclass
class SymbolNetwork:
    """A symbol on its way to layers.

    Attributes:
        symbol: the graph.
        tensors: bare name -> the file's tensor.
        data: index of the node that pixels come in by.
        size: input height and width.
        made: what was built; values are called like their nodes, the second output of a node ``NAME:1`` and so on.
    """

    symbol: Symbol
    tensors: dict[str, LazyTensor]
    data: int
    size: tuple[int, int]
    channels: int = 3
    made: GraphBuilder = field(default_factory=GraphBuilder)

    def __post_init__(self) -> None:
        self.made.shapes[self.symbol.nodes[self.data].name] = (self.channels, *self.size)

    def value(self, place: tuple[int, int]) -> str:
        """Name of a value."""
        name = self.symbol.nodes[place[0]].name
        return name if place[1] == 0 else f"{name}:{place[1]}"

    def input(self, node: SymbolNode, index: int = 0) -> str:
        """Name of a value that a node reads."""
        if index >= len(node.inputs):
            raise node.fail("has too few inputs", got=len(node.inputs))
        return self.value(node.inputs[index])

    def shape(self, node: SymbolNode, index: int = 0) -> Shape:
        """Shape of an input that hangs on the image."""
        value = self.input(node, index)
        if value not in self.made.shapes:
            raise node.fail(f"input {index} does not hang on the image", got=value)
        return self.made.shapes[value]

    def map_shape(self, node: SymbolNode) -> tuple[int, int, int]:
        """(channels, height, width) of the first input."""
        shape = self.shape(node)
        if len(shape) != 3:
            raise node.fail("needs a map", expected="(N, channels, height, width)", got=("N", *shape))
        return shape[0], shape[1], shape[2]

    def varies(self, node: SymbolNode, index: int) -> bool:
        """Whether an input hangs on the image."""
        return self.input(node, index) in self.made.shapes

    def stored(self, node: SymbolNode, index: int) -> LazyTensor:
        """The file's tensor that an input is.

        Raises:
            FormatError: it is none, or the file does not have it.
        """
        self.input(node, index)
        held = self.symbol.nodes[node.inputs[index][0]]
        if held.op != "null":
            raise node.fail(f"input {index} is no tensor of the file but made by {held.op} {held.name!r}")
        if held.name not in self.tensors:
            raise node.fail(f"the file has no tensor {held.name!r}", hint="does the symbol belong to this file?")
        return self.tensors[held.name]

    def weight(self, node: SymbolNode, index: int, shape: Shape) -> Weight:
        """A learned tensor of a shape, or of that shape with axes of one."""
        tensor = self.stored(node, index)
        found = tuple(tensor.shape)
        if found == shape:
            return Weight(tensor.name, found)
        if math.prod(found) != math.prod(shape) or tuple(s for s in found if s > 1) != tuple(s for s in shape if s > 1):
            raise node.fail(f"tensor {tensor.name!r} has another shape", expected=shape, got=found)
        return Weight(tensor.name, found, (ToShape(shape),))

    def put(
        self, node: SymbolNode, kind: str, shape: Shape, params: dict[str, Any] | None = None, *weights: Weight
    ) -> None:
        """The layer of a node that reads its first input."""
        self.made.put(node.name, kind, (self.input(node),), shape, params, weights)


def before(symbol: Symbol, places: tuple[int, ...], stop: frozenset[int] = frozenset()) -> set[int]:
    """Nodes that values hang on, their own among them; what lies before ``stop`` is not looked at."""
    found, todo = set[int](), list(places)
    while todo:
        place = todo.pop()
        if place not in found:
            found.add(place)
            todo += [] if place in stop else [at for at, _ in symbol.nodes[place].inputs]
    return found


def build(network: SymbolNetwork, places: tuple[int, ...]) -> None:
    """Add the layers that values are made of.

    Raises:
        FormatError: an operator that is not supported, or parameters that are not; the message names node and operator.
    """
    nodes = network.symbol.nodes
    wanted = before(network.symbol, places)
    if network.data not in wanted:
        raise FormatError("the heads do not hang on the network's input", where=network.symbol.file)
    for place in sorted(wanted):
        node = nodes[place]
        if place == network.data or not any(network.varies(node, k) for k in range(len(node.inputs))):
            continue
        if node.op in NOTHING:
            network.made.pass_on(node.name, network.input(node))
            continue
        rule = OPERATORS.get(node.op)
        if rule is None:
            raise node.fail(
                f"operator {node.op} is not supported",
                expected=f"one of {', '.join(sorted((*OPERATORS, *NOTHING)))}",
                hint="nothing is guessed: an operator that is not known is never left out or replaced",
            )
        rule(node, network)


def _pair(node: SymbolNode, key: str, default: tuple[int, int]) -> tuple[int, int]:
    values = node.integers(key, default)
    if len(values) != 2 or min(values) < 0 or max(values) > 1 << 15:
        raise node.fail(f"{key} is not of two axes", got=values)
    return values[0], values[1]


def _nchw(node: SymbolNode) -> None:
    if node.text("layout", "NCHW") != "NCHW":
        raise node.fail("channels must come first", expected="layout NCHW", got=node.text("layout"))


def _window(node: SymbolNode) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride, padding, dilation as (rows, columns)."""
    kernel, stride = _pair(node, "kernel", (0, 0)), _pair(node, "stride", (1, 1))
    pad, dilate = _pair(node, "pad", (0, 0)), _pair(node, "dilate", (1, 1))
    if min(*kernel, *stride, *dilate) < 1:
        raise node.fail("a kernel, stride or dilation of nothing", got=f"{kernel}, {stride}, {dilate}")
    return kernel, stride, pad, dilate


def _conv(node: SymbolNode, network: SymbolNetwork) -> None:
    _nchw(node)
    channels, *sides = network.map_shape(node)
    kernel, stride, pad, dilate = _window(node)
    group, out = node.integer("num_group", 1), node.integer("num_filter", 0)
    turned = node.op == "Deconvolution"
    if min(group, out) < 1 or channels % group or out % group:
        raise node.fail("channels do not divide into groups", got=f"{channels} into {out}, {group} groups")
    extent = [dilate[i] * (kernel[i] - 1) + 1 for i in (0, 1)]
    if turned:
        if any(node.integers("adj", (0, 0))) or node.text("target_shape") not in ("", "(0, 0)", "[]", "()"):
            raise node.fail("adj and target_shape of a transposed convolution are not supported")
        size = tuple(stride[i] * (sides[i] - 1) + extent[i] - 2 * pad[i] for i in (0, 1))
    else:
        size = tuple((sides[i] + 2 * pad[i] - extent[i]) // stride[i] + 1 for i in (0, 1))
    bias = not node.flag("no_bias", turned)
    shape = (channels, out // group, *kernel) if turned else (out, channels // group, *kernel)
    weights = [network.weight(node, 1, shape)] + ([network.weight(node, 2, (out,))] if bias else [])
    params: dict[str, Any] = {"num_output": out, "kernel_size": list(kernel)}
    params |= {"stride": list(stride)} if stride != (1, 1) else {}
    params |= {"pad": list(pad)} if pad != (0, 0) else {}
    params |= {"dilation": list(dilate)} if dilate != (1, 1) else {}
    params |= {"group": group} if group > 1 else {}
    params |= {} if bias else {"bias_term": False}
    network.put(node, "Deconvolution" if turned else "Convolution", (out, *size), params, *weights)


def _pool(node: SymbolNode, network: SymbolNetwork) -> None:
    _nchw(node)
    channels, *sides = network.map_shape(node)
    kind = node.text("pool_type", "max")
    if kind not in ("max", "avg"):
        raise node.fail("this pooling is not supported", expected="max or avg", got=kind)
    if node.flag("global_pool", False):
        network.put(node, "Pooling", (channels, 1, 1), {"pool": _POOLS[kind], "global_pooling": True})
        return
    kernel, stride, pad, _ = _window(node)
    rule = node.text("pooling_convention", "valid")
    if rule not in ("valid", "full"):
        raise node.fail("this rounding of sizes is not supported", expected="valid or full", got=rule)
    room = [sides[i] + 2 * pad[i] - kernel[i] for i in (0, 1)]
    size = tuple((room[i] // stride[i] if rule == "valid" else -(-room[i] // stride[i])) + 1 for i in (0, 1))
    if rule == "full" and any((size[i] - 1) * stride[i] >= sides[i] + pad[i] for i in (0, 1)):
        raise node.fail("the last window lies in the padding alone", got=f"{sides}, {kernel}, {stride}, {pad}")
    params: dict[str, Any] = {"pool": _POOLS[kind]}
    for key, (rows, columns) in (("kernel", kernel), ("stride", stride), ("pad", pad)):
        name = "kernel_size" if key == "kernel" else key
        params |= {name: rows} if rows == columns else {f"{key}_h": rows, f"{key}_w": columns}
    params |= {"round_mode": "FLOOR"} if rule == "valid" else {}
    if kind == "avg" and any(pad) and not node.flag("count_include_pad", True):
        raise node.fail("an average that leaves the padding out is not supported", expected="count_include_pad True")
    network.put(node, "Pooling", (channels, *size), params)


_POOLS = {"max": "MAX", "avg": "AVE"}


def _batch_norm(node: SymbolNode, network: SymbolNetwork) -> None:
    shape = network.shape(node)
    if node.integer("axis", 1) != 1:
        raise node.fail("normalises another axis than the channels", got=node.text("axis"))
    weights = [network.weight(node, k, shape[:1]) for k in range(1, 5)]
    params: dict[str, Any] = {"epsilon": node.number("eps", 1e-3)}
    if node.flag("fix_gamma", True):
        params["fix_gamma"] = True
    network.put(node, "BatchNormalization", shape, params, *weights)


_ACTIVATIONS = {"relu": "ReLU", "sigmoid": "Sigmoid", "tanh": "TanH", "softrelu": "BNLL"}


def _activation(node: SymbolNode, network: SymbolNetwork) -> None:
    kind = node.text("act_type") or node.op
    if kind == "softsign":
        network.put(node, "Activation", network.shape(node), {"activation": "softsign"})
    elif kind in _ACTIVATIONS:
        network.put(node, _ACTIVATIONS[kind], network.shape(node))
    else:
        raise node.fail("this activation is not supported", expected=", ".join((*_ACTIVATIONS, "softsign")), got=kind)


def _leaky(node: SymbolNode, network: SymbolNetwork) -> None:
    shape, kind, slope = network.shape(node), node.text("act_type", "leaky"), node.number("slope", 0.25)
    if kind == "leaky":
        network.put(node, "ReLU", shape, {"negative_slope": slope})
    elif kind == "elu":
        network.put(node, "ELU", shape, {"alpha": slope})
    elif kind == "selu":
        network.put(node, "Activation", shape, {"activation": "selu"})
    elif kind == "prelu":
        one = math.prod(network.stored(node, 1).shape) == 1
        params = {"channel_shared": True} if one else {}
        network.put(node, "PReLU", shape, params, network.weight(node, 1, () if one else shape[:1]))
    else:
        raise node.fail("this activation is not supported", expected="leaky, elu, selu or prelu", got=kind)


def _clip(node: SymbolNode, network: SymbolNetwork) -> None:
    low, high = node.number("a_min", -math.inf), node.number("a_max", math.inf)
    network.put(node, "Clip", network.shape(node), {"min": low, "max": high})


def _hard_sigmoid(node: SymbolNode, network: SymbolNetwork) -> None:
    if (node.number("alpha", 0.2), node.number("beta", 0.5)) != (0.2, 0.5):
        raise node.fail("a hard sigmoid with other numbers than 0.2 and 0.5 is not supported")
    network.put(node, "Activation", network.shape(node), {"activation": "hard_sigmoid"})


def _dense(node: SymbolNode, network: SymbolNetwork) -> None:
    shape, out = network.shape(node), node.integer("num_hidden", 0)
    flat = node.flag("flatten", True)
    if not flat and len(shape) != 1:
        raise node.fail("a product along the last axis alone is not supported", got=("N", *shape))
    bias = not node.flag("no_bias", False)
    weights = [network.weight(node, 1, (out, math.prod(shape)))] + ([network.weight(node, 2, (out,))] if bias else [])
    network.put(node, "InnerProduct", (out,), {"num_output": out} | ({} if bias else {"bias_term": False}), *weights)


def _flatten(node: SymbolNode, network: SymbolNetwork) -> None:
    network.put(node, "Flatten", (math.prod(network.shape(node)),))


def _reshaped(node: SymbolNode, network: SymbolNetwork, full: Shape) -> None:
    """The same values in other axes, the batch apart."""
    if math.prod(full) != math.prod(network.shape(node)):
        raise node.fail("cannot be reshaped that way", got=f"{('N', *network.shape(node))} into {('N', *full)}")
    network.put(node, "Reshape", full, {"shape": {"dim": [0, *full]}})


def _reshape(node: SymbolNode, network: SymbolNetwork) -> None:
    shape, target = (0, *network.shape(node)), list(node.integers("shape"))
    if not target or min(target) < -1 or target.count(-1) > 1 or node.flag("reverse", False):
        raise node.fail("this way to reshape is not supported", expected="sizes, 0 and one -1", got=tuple(target))
    if any(side == 0 and k >= len(shape) for k, side in enumerate(target)):
        raise node.fail("copies an axis that is not there", got=tuple(target))
    if target[0] not in (0, 1, -1):
        raise node.fail("mixes the images of a batch", got=tuple(target))
    full = [shape[k] if side == 0 else side for k, side in enumerate(target)][1:]
    known, whole = math.prod(side for side in full if side != -1), math.prod(shape[1:])
    if -1 in full and (known <= 0 or whole % known):
        raise node.fail("cannot be reshaped that way", got=f"{('N', *shape[1:])} into {tuple(target)}")
    _reshaped(node, network, tuple(whole // known if side == -1 else side for side in full))


def _expand(node: SymbolNode, network: SymbolNetwork) -> None:
    axis = node.integer("axis", 0)
    _reshaped(node, network, expanded(node, network.shape(node), axis))


def _squeeze(node: SymbolNode, network: SymbolNetwork) -> None:
    _reshaped(node, network, squeezed(node, network.shape(node), node.integers("axis")))


def _transpose(node: SymbolNode, network: SymbolNetwork) -> None:
    shape = network.shape(node)
    order = node.integers("axes") or tuple(reversed(range(len(shape) + 1)))
    if sorted(order) != list(range(len(shape) + 1)) or order[0] != 0:
        raise node.fail("moves the batch, or is no permutation", got=order)
    network.put(node, "Permute", tuple(shape[k - 1] for k in order[1:]), {"order": list(order)})


def _axis(node: SymbolNode, axis: int, shape: Shape) -> int:
    """An axis of a blob with its batch; never the batch itself."""
    axis += len(shape) + 1 if axis < 0 else 0
    if not 0 < axis <= len(shape):
        raise node.fail("this axis is none of an image's", got=axis)
    return axis


def _concat(node: SymbolNode, network: SymbolNetwork) -> None:
    shapes = [network.shape(node, k) for k in range(len(node.inputs))]
    axis = _axis(node, node.integer("dim", 1), shapes[0])
    same = {(len(s), tuple(side for k, side in enumerate(s, 1) if k != axis)) for s in shapes}
    if len(same) != 1:
        raise node.fail(f"the values cannot be joined along axis {axis}", got=shapes)
    out = list(shapes[0])
    out[axis - 1] = sum(s[axis - 1] for s in shapes)
    values = [network.input(node, k) for k in range(len(node.inputs))]
    network.made.put(node.name, "Concat", values, tuple(out), {"axis": axis})


_SUMS = {"elemwise_add": "SUM", "_Plus": "SUM", "_plus": "SUM", "broadcast_add": "SUM", "broadcast_plus": "SUM",
         "elemwise_sub": "SUB", "_minus": "SUB", "_sub": "SUB", "broadcast_sub": "SUB", "broadcast_minus": "SUB",
         "elemwise_mul": "PROD", "_mul": "PROD", "_Mul": "PROD", "broadcast_mul": "PROD",
         "_maximum": "MAX", "broadcast_maximum": "MAX", "add_n": "SUM", "ElementWiseSum": "SUM"}  # fmt: skip


def _combine(node: SymbolNode, network: SymbolNetwork) -> None:
    """Sums and products of values of the network, or of one with a tensor of the file."""
    kind = _SUMS[node.op]
    varying = [k for k in range(len(node.inputs)) if network.varies(node, k)]
    if len(varying) == len(node.inputs):
        shapes = [network.shape(node, k) for k in varying]
        if len({len(s) for s in shapes}) != 1:
            raise node.fail(f"{node.op} of values of different axes is not supported", got=shapes)
        sides = [set(pair) - {1} or {1} for pair in zip(*shapes, strict=True)]
        if any(len(side) > 1 for side in sides):
            raise node.fail(f"{node.op} of values of these shapes is not supported", got=shapes)
        params: dict[str, Any] = {"operation": "SUM", "coeff": [1.0, -1.0]} if kind == "SUB" else {"operation": kind}
        values = [network.input(node, k) for k in varying]
        network.made.put(node.name, "Eltwise", values, tuple(side.pop() for side in sides), params)
        return
    if len(node.inputs) != 2 or kind not in ("SUM", "PROD"):
        raise node.fail(f"{node.op} with a tensor of the file is not supported")
    at = varying[0]
    shape, tensor = network.shape(node, at), network.stored(node, 1 - at)
    held = tuple(tensor.shape)
    lined = (1,) * (len(shape) + 1 - len(held)) + held  # broadcasting lines the last axes up
    if (
        len(held) > len(shape) + 1
        or any(side not in (1, full) for side, full in zip(lined, (1, *shape), strict=True))
        or any(side != 1 for side in lined[2:])
    ):
        raise node.fail(f"{node.op} with a tensor that is not one number per channel", expected=shape[:1], got=held)
    blob = shape[:1] if lined[1] == shape[0] else ()
    params = {} if blob else {"num_axes": 0}
    weight = network.weight(node, 1 - at, blob)
    kind_of = "Scale" if kind == "PROD" else "Bias"
    network.made.put(node.name, kind_of, (network.input(node, at),), shape, params, (weight,))


def _scalar(node: SymbolNode, network: SymbolNetwork) -> None:
    number = node.number("scalar", 0.0)
    if node.op in ("_div_scalar", "_DivScalar") and number != 0:
        shape = network.map_shape(node)
        network.put(node, "PerChannel", shape, {"std": [float(number)] * shape[0]})
        return
    words = {"_plus_scalar": ("offset", 1), "_PlusScalar": ("offset", 1), "_minus_scalar": ("offset", -1),
             "_MinusScalar": ("offset", -1), "_mul_scalar": ("scale", 1), "_MulScalar": ("scale", 1)}  # fmt: skip
    if node.op not in words:
        raise node.fail("a division by zero")
    key, sign = words[node.op]
    network.put(node, "Rescaling", network.shape(node), {key: float(sign * number)})


def _l2(node: SymbolNode, network: SymbolNetwork) -> None:
    shape, mode = network.shape(node), node.text("mode", "instance")
    if mode not in ("channel", "instance", "spatial"):
        raise node.fail("this norm is not supported", expected="channel, instance or spatial", got=mode)
    axes = {"channel": [1], "instance": list(range(1, len(shape) + 1)), "spatial": list(range(2, len(shape) + 1))}
    network.put(node, "UnitNorm", shape, {"axes": axes[mode], "eps": node.number("eps", 1e-10)})


def _lrn(node: SymbolNode, network: SymbolNetwork) -> None:
    params = {"local_size": node.integer("nsize", 0), "alpha": node.number("alpha", 1e-4)}
    network.put(
        node, "LRN", network.shape(node), {**params, "beta": node.number("beta", 0.75), "k": node.number("knorm", 2.0)}
    )


def _softmax(node: SymbolNode, network: SymbolNetwork) -> None:
    shape = network.shape(node)
    if node.op == "softmax":
        if node.number("temperature", 1.0) != 1.0 or node.flag("use_length", False):
            raise node.fail("a softmax with temperature or length is not supported")
        axis = _axis(node, node.integer("axis", -1), shape)
    elif len(shape) == 1 or node.text("mode") == "channel" or node.flag("multi_output", False):
        axis = 1
    elif node.flag("preserve_shape", False):
        axis = len(shape)
    else:
        raise node.fail("a softmax over all axes at once is not supported", got=("N", *shape))
    network.put(node, "Softmax", shape, {"axis": axis})


def _upsample(node: SymbolNode, network: SymbolNetwork) -> None:
    channels, height, width = network.map_shape(node)
    scale = node.integer("scale", 0)
    if node.text("sample_type") != "nearest" or len(node.inputs) != 1 or not 1 <= scale <= 64:
        raise node.fail("only nearest upsampling of one blob is supported", got=f"{node.text('sample_type')}, {scale}")
    network.put(node, "Upsample", (channels, height * scale, width * scale), {"scale": scale})


def _part(node: SymbolNode, network: SymbolNetwork, name: str, axis: int, start: int, stop: int) -> None:
    """The slices of one axis from ``start`` to before ``stop``."""
    shape = network.shape(node)
    if not 0 <= start < stop <= shape[axis - 1] or stop - start > MAX_SLICE:
        raise node.fail("a slice that is empty or too long", got=f"{start} to {stop} of {shape[axis - 1]}")
    out = (*shape[: axis - 1], stop - start, *shape[axis:])
    params = {"axis": axis, "indices": list(range(start, stop))}
    network.made.put(name, "Gather", (network.input(node),), out, params)


def _slice_axis(node: SymbolNode, network: SymbolNetwork) -> None:
    shape = network.shape(node)
    axis = _axis(node, node.integer("axis", 0), shape)
    side = shape[axis - 1]
    start, stop = node.integer("begin", 0), node.integer("end", side)
    _part(node, network, node.name, axis, start + side if start < 0 else start, stop + side if stop < 0 else stop)


def _split(node: SymbolNode, network: SymbolNetwork) -> None:
    shape, count = network.shape(node), node.integer("num_outputs", 0)
    axis = _axis(node, node.integer("axis", 1), shape)
    length, rest = divmod(shape[axis - 1], max(count, 1))
    if count < 1 or rest or node.flag("squeeze_axis", False):
        raise node.fail("cannot be split that way", got=f"{shape[axis - 1]} into {count}")
    for k in range(count):
        name = node.name if k == 0 else f"{node.name}:{k}"
        _part(node, network, name, axis, k * length, (k + 1) * length)


def _mean(node: SymbolNode, network: SymbolNetwork) -> None:
    channels = network.map_shape(node)[0]
    axes = sorted(a + 4 if a < 0 else a for a in node.integers("axis"))
    if node.op == "mean" and (axes != [2, 3] or node.flag("exclude", False)):
        raise node.fail("a mean over other axes than height and width", got=axes)
    if node.op != "mean" and node.integers("output_size", (1,)) not in ((1,), (1, 1)):
        raise node.fail("adaptive pooling to more than one cell is not supported", got=node.text("output_size"))
    keep = node.op != "mean" or node.flag("keepdims", False)
    network.put(
        node, "GlobalAveragePooling2D", (channels, 1, 1) if keep else (channels,), {"keepdims": True} if keep else {}
    )


def _pad(node: SymbolNode, network: SymbolNetwork) -> None:
    channels, height, width = network.map_shape(node)
    pads = node.integers("pad_width")
    if node.text("mode") != "constant" or node.number("constant_value", 0.0) != 0 or len(pads) != 8 or any(pads[:4]):
        raise node.fail("only zeros around height and width are supported", got=f"{node.text('mode')}, {pads}")
    top, bottom, left, right = pads[4:]
    shape = (channels, height + top + bottom, width + left + right)
    network.put(node, "ZeroPadding2D", shape, {"padding": [[top, bottom], [left, right]]})


OPERATORS: dict[str, Callable[[SymbolNode, SymbolNetwork], None]] = {
    **dict.fromkeys(("Convolution", "Convolution_v1", "Deconvolution"), _conv),
    **dict.fromkeys(("Pooling", "Pooling_v1"), _pool),
    **dict.fromkeys(("BatchNorm", "BatchNorm_v1", "SyncBatchNorm", "_contrib_SyncBatchNorm"), _batch_norm),
    **dict.fromkeys(("Activation", "relu", "sigmoid", "tanh", "softsign"), _activation),
    "LeakyReLU": _leaky,
    "clip": _clip,
    "hard_sigmoid": _hard_sigmoid,
    "FullyConnected": _dense,
    **dict.fromkeys(("Flatten", "flatten"), _flatten),
    **dict.fromkeys(("Reshape", "reshape"), _reshape),
    "expand_dims": _expand,
    "squeeze": _squeeze,
    "transpose": _transpose,
    **dict.fromkeys(("Concat", "concat"), _concat),
    **dict.fromkeys(_SUMS, _combine),
    **dict.fromkeys(("_plus_scalar", "_PlusScalar", "_minus_scalar", "_MinusScalar", "_mul_scalar", "_MulScalar",
                     "_div_scalar", "_DivScalar"), _scalar),
    "L2Normalization": _l2,
    "LRN": _lrn,
    **dict.fromkeys(("softmax", "SoftmaxActivation", "SoftmaxOutput", "Softmax"), _softmax),
    "UpSampling": _upsample,
    "slice_axis": _slice_axis,
    **dict.fromkeys(("SliceChannel", "split"), _split),
    **dict.fromkeys(("mean", "_contrib_AdaptiveAvgPooling2D"), _mean),
    **dict.fromkeys(("Pad", "pad"), _pad),
}  # fmt: skip
"""Operator -> what it becomes."""
