"""Keras layers as layers of the reference's graph: what each class becomes, the shape that it makes, and its weights.

Shapes are Keras' (without the batch: height, width, channels); blobs of the graph are (N, C, H, W). A reshape of a map therefore gets
a ``Permute`` before it, which is no layer of the source. One function per class, in ``CLASSES``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ssdconv.converters.keras.model_config import LayerCall
from ssdconv.converters.layer_graph import HWIO, TO_BLOB, GraphBuilder, Shape, Weight
from ssdconv.converters.tensors import Op, ToShape, Transpose
from ssdconv.ssd_ref.graph.params import Params
from ssdconv.ssd_ref.graph.windows import edges, pair, window

Weights = tuple[tuple[str, Shape, tuple[Op, ...]], ...]
FUNCTIONS = ("linear", "relu", "relu6", "elu", "selu", "sigmoid", "tanh", "softplus", "softsign", "swish", "silu", "exponential", "hard_sigmoid")  # fmt: skip
NOTHING = (
    "Dropout",
    "SpatialDropout2D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "ActivityRegularization",
    "InputLayer",
)
"""Classes that change nothing once training is over."""


@dataclass(frozen=True)
class KerasWeight:
    """One weight of a layer.

    Attributes:
        owner: the layer that holds it, outer models first.
        kind: Keras' word for it ("kernel", "moving_mean"), and its place in Keras' order.
        index: that place.
        target: the reference tensor.
        shape: as Keras stores it.
        ops: from Keras' layout to the reference's.
    """

    owner: tuple[str, ...]
    kind: str
    index: int
    target: str
    shape: Shape
    ops: tuple[Op, ...] = ()


@dataclass
class Made(GraphBuilder):
    """A graph while it is being built from a model's calls. Sources of its entries are ``<owner>/<place>``, until the file is known."""

    held: dict[str, tuple[tuple[str, ...], str, int]] = field(default_factory=dict)

    @property
    def weights(self) -> list[KerasWeight]:
        """Every weight of the model."""
        return [KerasWeight(*self.held[e.source], e.target, e.source_shape, e.ops) for e in self.entries]

    def shape(self, call: LayerCall, index: int = 0) -> Shape:
        """Shape of a call's input."""
        if index >= len(call.inputs):
            raise call.fail("the layer reads nothing")
        return self.shapes[call.inputs[index]]

    def map_shape(self, call: LayerCall) -> tuple[int, int, int]:
        """(height, width, channels) of a call's only input."""
        shape = self.shape(call)
        if len(call.inputs) != 1 or len(shape) != 3:
            raise call.fail("needs one map", expected="(height, width, channels)", got=shape)
        return shape[0], shape[1], shape[2]

    def layer(
        self,
        call: LayerCall,
        kind: str,
        shape: Shape,
        params: Mapping[str, Any] | None = None,
        weights: Weights = (),
        reads: tuple[str, ...] | None = None,
    ) -> None:
        """Add the layer that stands for a call; ``weights`` are (Keras' word, Keras' shape, ops), in Keras' order."""
        owned = []
        for index, (word, stored, ops) in enumerate(weights):
            key = f"{'/'.join(call.owner)}/{index}"
            self.held[key] = call.owner, word, index
            owned.append(Weight(key, stored, ops))
        self.put(call.name, kind, call.inputs if reads is None else reads, shape, params, owned)

    def skip(self, call: LayerCall) -> None:
        """A call that changes nothing."""
        self.shape(call)
        self.pass_on(call.name, call.inputs[0])


def build(call: LayerCall, made: Made) -> None:
    """Add what one call computes.

    Raises:
        FormatError: a class that is not supported, or parameters that are not; the message names layer and class.
    """
    if call.kind in NOTHING and call.inputs:
        made.skip(call)
        return
    if call.kind not in CLASSES:
        raise call.fail(
            f"layers of class {call.kind} are not supported",
            expected=f"one of {', '.join(sorted((*CLASSES, *NOTHING)))}",
            hint="nothing is guessed: a layer that is not known is never left out or replaced",
        )
    CLASSES[call.kind](call, _params(call), made)


def _params(call: LayerCall) -> Params:
    return Params({k: v for k, v in call.config.items() if v is not None}, call.where)


def _window_params(p: Params, *names: str) -> dict[str, Any]:
    if p.data.get("data_format", "channels_last") != "channels_last":
        raise p.fail("channels must come last", got=p.data["data_format"])
    return {name: p.data[name] for name in (*names, "strides", "padding") if name in p}


def _function(p: Params) -> dict[str, str]:
    """The activation inside a layer, left out where it is none."""
    value = p.data.get("activation", "linear")
    if isinstance(value, Mapping):  # Keras 3 writes objects for functions that it does not know by name
        value = value.get("config") if isinstance(value.get("config"), str) else value.get("class_name")
    name = Params({"activation": value}, p.where).choice("activation", "linear", FUNCTIONS)
    return {} if name == "linear" else {"activation": name}


def _conv(call: LayerCall, p: Params, made: Made) -> None:
    height, width, channels = made.map_shape(call)
    out, groups = p.integer("filters", 0, low=1), p.integer("groups", 1, low=1)
    view = window(p, "kernel_size")
    if channels % groups or out % groups:
        raise call.fail("groups do not divide the channels", got=f"{groups} groups, {channels} in, {out} out")
    params = {**_window_params(p, "kernel_size", "dilation_rate"), "filters": out, **_function(p)}
    params |= {"groups": groups} if groups > 1 else {}
    kernel = (*view.kernel, channels // groups, out)
    _convolved(call, p, made, "Conv2D", (*view.out((height, width)), out), params, (("kernel", kernel, HWIO),))


def _convolved(
    call: LayerCall, p: Params, made: Made, kind: str, shape: Shape, params: dict[str, Any], weights: Weights
) -> None:
    if p.flag("use_bias", True):
        weights = (*weights, ("bias", (shape[2],), ()))
    else:
        params["use_bias"] = False
    made.layer(call, kind, shape, params, weights)


def _depth_kernel(channels: int, multiplier: int, kernel: tuple[int, int]) -> tuple[Shape, tuple[Op, ...]]:
    return (*kernel, channels, multiplier), (Transpose((2, 3, 0, 1)), ToShape((channels * multiplier, 1, *kernel)))


def _depthwise(call: LayerCall, p: Params, made: Made) -> None:
    height, width, channels = made.map_shape(call)
    view, multiplier = window(p, "kernel_size"), p.integer("depth_multiplier", 1, low=1)
    params = {**_window_params(p, "kernel_size", "dilation_rate"), **_function(p)}
    shape, ops = _depth_kernel(channels, multiplier, view.kernel)
    out = (*view.out((height, width)), channels * multiplier)
    _convolved(call, p, made, "DepthwiseConv2D", out, params, (("depthwise_kernel", shape, ops),))


def _separable(call: LayerCall, p: Params, made: Made) -> None:
    height, width, channels = made.map_shape(call)
    view, multiplier, out = (
        window(p, "kernel_size"),
        p.integer("depth_multiplier", 1, low=1),
        p.integer("filters", 0, 1),
    )
    params = {**_window_params(p, "kernel_size", "dilation_rate"), "filters": out, **_function(p)}
    shape, ops = _depth_kernel(channels, multiplier, view.kernel)
    point = ("pointwise_kernel", (1, 1, channels * multiplier, out), HWIO)
    _convolved(
        call, p, made, "SeparableConv2D", (*view.out((height, width)), out), params, (("depthwise_kernel", shape, ops), point)
    )  # fmt: skip


def _pool(call: LayerCall, p: Params, made: Made) -> None:
    height, width, channels = made.map_shape(call)
    params = _window_params(p, "pool_size")
    params.setdefault("strides", params.get("pool_size", [2, 2]))
    params.setdefault("pool_size", [2, 2])
    size = window(Params(params, p.where), "pool_size").out((height, width))
    made.layer(call, call.kind, (*size, channels), params)


def _global_pool(call: LayerCall, p: Params, made: Made) -> None:
    channels, keep = made.map_shape(call)[2], p.flag("keepdims", False)
    _window_params(p)
    made.layer(call, call.kind, (1, 1, channels) if keep else (channels,), {"keepdims": True} if keep else {})


def _zero_padding(call: LayerCall, p: Params, made: Made) -> None:
    height, width, channels = made.map_shape(call)
    name, sign = ("padding", 1) if call.kind == "ZeroPadding2D" else ("cropping", -1)
    given = p.data.get(name)
    if isinstance(given, int):
        given = [[given, given], [given, given]]
    elif isinstance(given, list | tuple) and len(given) == 2 and all(isinstance(v, int) for v in given):
        given = [[given[0]] * 2, [given[1]] * 2]
    params = {name: given}
    left, right, top, bottom = edges(Params(params, p.where), name)
    made.layer(call, call.kind, (height + sign * (top + bottom), width + sign * (left + right), channels), params)


def _upsampling(call: LayerCall, p: Params, made: Made) -> None:
    height, width, channels = made.map_shape(call)
    p.choice("interpolation", "nearest", ("nearest",))
    rows, columns = pair(p, "size", (2, 2), low=1)
    made.layer(call, call.kind, (height * rows, width * columns, channels), {"size": [rows, columns]})


def _batch_norm(call: LayerCall, p: Params, made: Made) -> None:
    shape = made.shape(call)
    axis = p.integers("axis", low=-len(shape)) or (-1,)
    if len(shape) not in (1, 3) or axis not in ((-1,), (len(shape),)):
        raise call.fail("normalisation over another axis than the channels", expected=len(shape), got=axis)
    channels = shape[-1:]
    words = [("gamma", "scale"), ("beta", "center"), ("moving_mean", ""), ("moving_variance", "")]
    weights = tuple((word, channels, ()) for word, flag in words if not flag or p.flag(flag, True))
    params: dict[str, Any] = {"epsilon": p.number("epsilon", 1e-3)}
    params |= {flag: False for _, flag in words if flag and not p.flag(flag, True)}
    made.layer(call, "BatchNormalization", shape, params, weights)


def _l2(call: LayerCall, p: Params, made: Made) -> None:
    shape = made.map_shape(call)
    made.layer(call, "L2Normalization", shape, {}, (("gamma", shape[2:], ()),))


def _activation(call: LayerCall, p: Params, made: Made) -> None:
    if p.data.get("activation") == "softmax":
        _softmax(call, p, made)
        return
    made.layer(call, "Activation", made.shape(call), _function(p))


def _softmax(call: LayerCall, p: Params, made: Made) -> None:
    shape = made.shape(call)
    axis = Params({"axis": p.data.get("axis", -1)}, p.where).axis("axis", -1, len(shape) + 1)
    made.layer(call, "Softmax", shape, {"axis": TO_BLOB[axis] if len(shape) == 3 else axis})


def _elu(call: LayerCall, p: Params, made: Made) -> None:
    made.layer(call, "ELU", made.shape(call), {"alpha": _scalar(p, "alpha", 1.0)})


def _leaky(call: LayerCall, p: Params, made: Made) -> None:
    slope = _scalar(p, "negative_slope" if "negative_slope" in p else "alpha", 0.3)
    made.layer(call, "ReLU", made.shape(call), {"negative_slope": slope})


def _relu(call: LayerCall, p: Params, made: Made) -> None:
    params = {n: _scalar(p, n, 0.0) for n in ("max_value", "threshold", "negative_slope") if n in p}
    made.layer(call, "KerasReLU", made.shape(call), params)


def _prelu(call: LayerCall, p: Params, made: Made) -> None:
    shape = made.map_shape(call)
    if sorted(p.integers("shared_axes")) != [1, 2]:
        raise call.fail(
            "a slope per pixel is not supported", expected="shared_axes [1, 2]", got=p.data.get("shared_axes")
        )
    made.layer(call, "PReLU", shape, {}, (("alpha", (1, 1, shape[2]), (ToShape((shape[2],)),)),))


def _scalar(p: Params, name: str, default: float) -> float:
    """A number, also in the form in which Keras 2 writes NumPy scalars."""
    value = p.data.get(name, default)
    if isinstance(value, Mapping):
        value = value.get("value", value.get("config", value))
    return Params({name: value}, p.where).number(name, default)


def _merge(call: LayerCall, p: Params, made: Made) -> None:
    shapes = [made.shape(call, k) for k in range(len(call.inputs))]
    if len(shapes) < 2 or len({len(s) for s in shapes}) > 1:
        raise call.fail("needs several values of one rank", got=shapes)
    sides = [set(side) - {1} or {1} for side in zip(*shapes, strict=True)]
    if any(len(side) > 1 for side in sides) or (call.kind != "Multiply" and len(set(shapes)) > 1):
        raise call.fail("the values have different shapes", got=shapes)
    kinds = {"Add": "SUM", "Multiply": "PROD", "Maximum": "MAX", "Subtract": "SUM"}
    if call.kind == "Average":
        made.layer(call, "Mean", shapes[0])
        return
    params: dict[str, Any] = {"operation": kinds[call.kind]}
    if call.kind == "Subtract":
        params["coeff"] = [1.0, -1.0]
    made.layer(call, "Eltwise", tuple(side.pop() for side in sides), params)


def _concat(call: LayerCall, p: Params, made: Made) -> None:
    shapes = [made.shape(call, k) for k in range(len(call.inputs))]
    rank = len(shapes[0]) + 1 if shapes else 0
    if not shapes or any(len(s) + 1 != rank for s in shapes):
        raise call.fail("needs values of one rank", got=shapes)
    axis = p.axis("axis", -1, rank)
    others = {tuple(side for k, side in enumerate(s) if k + 1 != axis) for s in shapes}
    if axis == 0 or len(others) > 1:
        raise call.fail(f"the values cannot be joined along axis {axis}", got=shapes)
    out = list(shapes[0])
    out[axis - 1] = sum(s[axis - 1] for s in shapes)
    made.layer(call, "Concat", tuple(out), {"axis": TO_BLOB[axis] if rank == 4 else axis})


def _reshape(call: LayerCall, p: Params, made: Made) -> None:
    shape = made.shape(call)
    target = [math.prod(shape)] if call.kind == "Flatten" else list(p.integers("target_shape", low=-1))
    known = math.prod(side for side in target if side != -1)
    if target.count(-1) > 1 or known <= 0 or math.prod(shape) % known:
        raise call.fail("cannot be reshaped that way", got=f"{shape} into {tuple(target)}")
    full = tuple(math.prod(shape) // known if side == -1 else side for side in target)
    if math.prod(full) != math.prod(shape):
        raise call.fail("cannot be reshaped that way", got=f"{shape} into {tuple(target)}")
    reads = made.blob(call.inputs[0])
    if len(shape) == 3:
        reads = made.add(f"{call.name}/permute", "Permute", reads, {"order": [0, 2, 3, 1]})
    params = {"shape": {"dim": [0, *target]}}
    if len(full) == 3:
        reads = made.add(f"{call.name}/reshape", "Reshape", reads, params)
        made.layer(call, "Permute", full, {"order": [0, 3, 1, 2]}, reads=(reads,))
        return
    made.layer(call, "Reshape", full, params, reads=(reads,))


def _permute(call: LayerCall, p: Params, made: Made) -> None:
    shape, dims = made.shape(call), p.integers("dims", low=1)
    if sorted(dims) != list(range(1, len(shape) + 1)):
        raise call.fail("dims are not a permutation", got=dims)
    order = (0, *dims)
    if len(shape) == 3:
        order = tuple(TO_BLOB[order[keras]] for keras in sorted(TO_BLOB, key=TO_BLOB.__getitem__))
    made.layer(call, "Permute", tuple(shape[d - 1] for d in dims), {"order": list(order)})


def _dense(call: LayerCall, p: Params, made: Made) -> None:
    shape, out = made.shape(call), p.integer("units", 0, low=1)
    if len(shape) != 1 or _function(p):
        raise call.fail(
            "a Dense layer over more than one axis, or with an activation inside, is not supported", got=shape
        )
    weights: Weights = (("kernel", (shape[0], out), (Transpose((1, 0)),)),)
    bias = p.flag("use_bias", True)
    weights += (("bias", (out,), ()),) if bias else ()
    made.layer(call, "InnerProduct", (out,), {"num_output": out, "bias_term": bias}, weights)


def _rescaling(call: LayerCall, p: Params, made: Made) -> None:
    made.layer(call, "Rescaling", made.shape(call), {n: _scalar(p, n, 0.0) for n in ("scale", "offset") if n in p})


CLASSES: dict[str, Callable[[LayerCall, Params, Made], None]] = {
    "Conv2D": _conv,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "MaxPooling2D": _pool,
    "AveragePooling2D": _pool,
    "GlobalAveragePooling2D": _global_pool,
    "ZeroPadding2D": _zero_padding,
    "Cropping2D": _zero_padding,
    "UpSampling2D": _upsampling,
    "BatchNormalization": _batch_norm,
    "L2Normalization": _l2,
    "Normalize2D": _l2,
    "Activation": _activation,
    "Softmax": _softmax,
    "ELU": _elu,
    "LeakyReLU": _leaky,
    "ReLU": _relu,
    "PReLU": _prelu,
    "Add": _merge,
    "Subtract": _merge,
    "Multiply": _merge,
    "Average": _merge,
    "Maximum": _merge,
    "Concatenate": _concat,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Permute": _permute,
    "Dense": _dense,
    "Rescaling": _rescaling,
}
"""Keras class -> what it becomes."""
