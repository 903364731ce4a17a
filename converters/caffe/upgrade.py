"""Layer and net messages as ``CaffeLayer`` and ``CaffeNet``, with older ways of writing brought to today's.

As Caffe's own upgrade: V1 ``layers`` (enum types, parameter names as strings) become V2 terms, and the pixel
parameters that once stood in data layers move to ``transform_param``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssdconv.converters.caffe.net import MAX_DIMS, MAX_SIDE, CaffeLayer, Shape
from ssdconv.converters.caffe.plain import Reader
from ssdconv.converters.caffe.v1_types import V1_TYPES
from ssdconv.errors import FormatError

MAX_LAYERS = 10_000
MAX_NAME = 1024
_NOT_PARAMS = frozenset({"name", "type", "bottom", "top", "param", "blobs", "include", "exclude"})
_DATA_PARAMS = ("data_param", "image_data_param", "window_data_param")
_MOVED = ("scale", "mirror", "crop_size", "mean_file")


def layer_of(message: Any, index: int, reader: Reader, *, v1: bool) -> CaffeLayer:
    """A LayerParameter or, with ``v1``, a V1LayerParameter as plain data; blobs are left empty.

    Args:
        message: the schema message.
        index: position in the file, for messages about nameless layers.
        reader: collects unknown fields.
        v1: the message is a V1 layer.

    Raises:
        FormatError: a V0 layer, a name that is too long or not UTF-8.
    """
    label = f"layer #{index}"
    name = reader.text(_short(message.name, reader, label), label)
    place = f"layer {shown(name)}" if name else label
    if v1 and message.HasField("layer"):
        raise FormatError(
            "the net is written in Caffe's oldest form (V0)",
            where=f"{reader.where}, {place}",
            hint="bring it to today's with Caffe's upgrade_net_proto_text or upgrade_net_proto_binary",
        )
    params = reader.plain(message, place)
    kind = _v1_type(params.get("type"), message) if v1 else params.get("type", "")
    _short(kind.encode(), reader, place)
    specs = params.get("param", [])
    return CaffeLayer(
        name=name,
        type=kind,
        bottoms=tuple(params.get("bottom", ())),
        tops=tuple(params.get("top", ())),
        params=_with_transform({k: v for k, v in params.items() if k.endswith("_param") and k not in _NOT_PARAMS}),
        shared=tuple(spec if v1 else spec.get("name", "") for spec in specs),
        phase=_phase(params.get("include", []), params.get("exclude", [])),
    )


def inputs_of(message: Any, layers: Sequence[CaffeLayer], reader: Reader) -> dict[str, Shape]:
    """Input blobs and shapes: ``input`` with ``input_shape`` or ``input_dim``, and Input layers.

    Raises:
        FormatError: counts that do not fit, sides out of range.
    """
    names = [reader.text(value, "input") for value in message.input]
    shapes: list[Shape] = [tuple(shape.dim) for shape in message.input_shape]
    if not shapes and message.input_dim:
        dims = list(message.input_dim)
        if len(dims) != 4 * len(names):
            raise FormatError(
                "input_dim does not fit the inputs",
                where=reader.where,
                expected=f"4 numbers for each of {len(names)} inputs",
                got=f"{len(dims)} numbers",
            )
        shapes = [tuple(dims[i : i + 4]) for i in range(0, len(dims), 4)]
    if shapes and len(shapes) != len(names):
        raise FormatError(
            "input_shape does not fit the inputs", where=reader.where, expected=len(names), got=len(shapes)
        )
    inputs = dict(zip(names, shapes or [()] * len(names), strict=True))
    for layer in layers:
        if layer.type != "Input":
            continue
        given = [tuple(s.get("dim", ())) for s in layer.params.get("input_param", {}).get("shape", [])]
        if len(given) == 1:
            given *= len(layer.tops)
        if given and len(given) != len(layer.tops):
            raise FormatError(
                "input_param does not fit the layer's tops",
                where=f"{reader.where}, layer {shown(layer.name)}",
                expected=f"1 or {len(layer.tops)} shapes",
                got=len(given),
            )
        inputs.update(zip(layer.tops, given or [()] * len(layer.tops), strict=True))
    for name, shape in inputs.items():
        if len(shape) > MAX_DIMS or any(not 0 <= side <= MAX_SIDE for side in shape):
            raise FormatError(f"input {name!r} has an impossible shape", where=reader.where, got=list(shape)[:40])
    return inputs


def shown(name: str) -> str:
    """A name as it may stand in a message: control characters escaped, at most 80 characters."""
    return (name if name.isprintable() else repr(name)[1:-1])[:80]


def _short(name: bytes, reader: Reader, place: str) -> bytes:
    if len(name) > MAX_NAME:
        raise FormatError(
            "a layer's name or type is too long",
            where=f"{reader.where}, {place}",
            expected=f"<= {MAX_NAME} bytes",
            got=f"{len(name)} bytes",
        )
    return name


def _v1_type(name: str | None, message: Any) -> str:
    if name in V1_TYPES:
        return V1_TYPES[name][1]
    return "" if name is None else f"V1 {name}"


def _phase(include: list[dict[str, Any]], exclude: list[dict[str, Any]]) -> str:
    """The one phase that the layer's rules leave it in, else "".

    The layer's own ``phase`` field is no rule: training snapshots carry ``phase: TRAIN`` in every layer.
    """
    if include:
        phases = {rule.get("phase", "") for rule in include}
        return str(phases.pop()) if len(phases) == 1 else ""
    plain = {rule["phase"] for rule in exclude if set(rule) == {"phase"}}
    return {"TRAIN": "TEST", "TEST": "TRAIN"}[plain.pop()] if len(plain) == 1 else ""


def _with_transform(params: dict[str, Any]) -> dict[str, Any]:
    """Pixel parameters of old data layers, moved to where they stand today."""
    for name in _DATA_PARAMS:
        old = params.get(name, {})
        moved = {key: old[key] for key in _MOVED if key in old}
        if moved:
            params[name] = {key: value for key, value in old.items() if key not in moved}
            params["transform_param"] = {**params.get("transform_param", {}), **moved}
    return params
