"""A Caffe network definition as plain data, from a .prototxt or from the layer list inside a .caffemodel.

Schema messages become plain JSON data (set fields only, enums as names, bytes as text), these ``CaffeLayer`` and ``CaffeNet``. Older ways
of writing are brought to today's as Caffe's own upgrade does it: V1 ``layers`` (enum types, parameter names as strings) become V2 terms,
and pixel parameters that once stood in data layers move to ``transform_param``.

A ``LayerSpec`` keeps the layer's own parameter message only, without what does not matter to a trained net (fillers, engines) and
without values that are the default anyway, so that train, test and deploy nets of one network give equal specs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

from ssdconv.converters.caffe.schema import V1_TYPES
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import LayerSpec
from ssdconv.ssd_ref.graph.operation import operations

Shape = tuple[int, ...]
MAX_DIMS = 32  # Caffe's kMaxBlobAxes
MAX_SIDE = 2**31 - 1


@dataclass(frozen=True)
class CaffeLayer:
    """One layer; V1 ``layers`` are upgraded to V2 terms.

    Attributes:
        name, type: as in the file; V1 enum types become V2 names ("CONVOLUTION" -> "Convolution").
        bottoms, tops: blob names.
        params: every set ``*_param`` message (and ``transform_param``) as plain JSON data with the schema's field names,
            repeated fields as lists, enums as their names: ``{"convolution_param": {"num_output": 64, "pad": [1]}}``.
        blobs: shapes of the blobs stored for the layer, in order (empty for a prototxt).
        shared: per learned blob the name in ``param { name: … }``, "" where unnamed.
        phase: "TRAIN" or "TEST" where include/exclude rules restrict the layer to one, else "". The layer's own ``phase``
            field is no such rule: training snapshots carry ``phase: TRAIN`` in every layer.
    """

    name: str
    type: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    blobs: tuple[Shape, ...] = ()
    shared: tuple[str, ...] = ()
    phase: str = ""


@dataclass(frozen=True)
class CaffeNet:
    """A network definition.

    Attributes:
        name: the net's own name.
        inputs: input blob -> shape, from ``input``/``input_dim``/``input_shape`` and Input layers; empty for train nets.
        layers: in file order, all phases.
        unknown: fields that the schema does not know, as "layer conv1: field 'foo'" – tolerated and listed.
    """

    name: str
    inputs: Mapping[str, Shape]
    layers: tuple[CaffeLayer, ...]
    unknown: tuple[str, ...] = ()


PARAM_OF: dict[str, str] = {
    **{name: kind.message.name for name, kind in operations().items() if kind.message},
    "DetectionOutput": "detection_output_param",
    "MultiBoxLoss": "multibox_loss_param",
    "PriorBox": "prior_box_param",
}
"""Layer type -> name of its parameter message."""

_UNUSED = frozenset(
    {"weight_filler", "bias_filler", "filler", "scale_filler", "engine", "force_nd_im2col", "dropout_ratio"}
    | {"moving_average_fraction", "scale_train", "stable_prod_grad", "save_output_param", "visualize"}
    | {"visualize_threshold", "save_file"}
)
"""Fields that change nothing in what a trained net computes."""


def spec_of(layer: CaffeLayer) -> LayerSpec:
    """The layer with its own parameters only; ``blobs`` stays empty until shapes are inferred."""
    key = PARAM_OF.get(layer.type)
    raw = layer.params.get(key, {}) if key else {}
    params = _essential(raw, _defaults(layer.type)) if isinstance(raw, Mapping) else {}
    return LayerSpec(
        layer.name, layer.type, layer.bottoms, layer.tops, params, shared=layer.shared if any(layer.shared) else ()
    )


def _defaults(kind: str) -> Mapping[str, Any]:
    known = operations().get(kind)
    return known.message.defaults if known and known.message else {}


def layer_of(spec: LayerSpec) -> CaffeLayer:
    """The Caffe layer of a spec, blob shapes included."""
    key = PARAM_OF.get(spec.type)
    params = {key: dict(spec.params)} if key and spec.params else {}
    return CaffeLayer(spec.name, spec.type, spec.bottoms, spec.tops, params, spec.blobs, spec.shared)


def shortest(value: Any) -> Any:
    """A float as the shortest decimal that is the same float32: prototxt and binary files then read the same.

    Lists and messages are gone through; all else stays.
    """
    if isinstance(value, float):
        return short_float(value)
    if isinstance(value, list | tuple):
        return [shortest(item) for item in value]
    return {k: shortest(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def short_float(value: float) -> float:
    """``value`` rounded to the shortest decimal that gives the same float32 (0.1 for 0.10000000149)."""
    import numpy as np

    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def _essential(raw: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: shortest(value) for name, value in raw.items() if name not in _UNUSED}
    return {name: value for name, value in kept.items() if name not in defaults or defaults[name] != value}


MAX_VALUES = 200_000
MAX_UNKNOWN = 500
_MESSAGE, _ENUM, _BYTES = 11, 14, 12


class Reader:
    """Turns messages of one file into plain data, within a budget of values, and collects unknown fields.

    Attributes:
        unknown: fields that the schema does not know, as "layer conv1: field 'foo'".
    """

    def __init__(self, where: str, known_unknown: tuple[str, ...] = ()) -> None:
        self.where = where
        self._unknown = list(known_unknown)
        self._more = 0
        self._left = MAX_VALUES

    @property
    def unknown(self) -> tuple[str, ...]:
        """The unknown fields met so far; beyond ``MAX_UNKNOWN`` only their count."""
        tail = (f"... and {self._more} more unknown fields",) if self._more else ()
        return tuple(self._unknown) + tail

    def note(self, place: str, field: str) -> None:
        """Remember an unknown field."""
        if len(self._unknown) < MAX_UNKNOWN:
            self._unknown.append(f"{place}: field '{field}'")
        else:
            self._more += 1

    def remark(self, text: str) -> None:
        """Remember something else that was tolerated."""
        if len(self._unknown) < MAX_UNKNOWN:
            self._unknown.append(text)
        else:
            self._more += 1

    def text(self, value: bytes, place: str) -> str:
        """Bytes of the file as text.

        Raises:
            FormatError: not UTF-8.
        """
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(
                "a name is not UTF-8 text", where=f"{self.where}, {place}", got=repr(value[:40])
            ) from None

    def unknown_of(self, message: Any, place: str, prefix: str = "") -> None:
        """Note the unknown fields of one message, not of those inside it."""
        for entry in UnknownFieldSet(message):
            self.note(place, f"{prefix}{entry.field_number}")

    def plain(self, message: Any, place: str, prefix: str = "") -> dict[str, Any]:
        """The set fields of ``message`` as plain data.

        Args:
            message: any schema message.
            place: "layer conv1", for messages.
            prefix: path of the message within the layer, with a dot at the end.

        Raises:
            FormatError: more values than any real net has, or text that is not UTF-8.
        """
        self.unknown_of(message, place, prefix)
        out: dict[str, Any] = {}
        for entry, value in message.ListFields():
            if _is_repeated(entry):
                self._spend(len(value), place)
                out[entry.name] = [self._value(entry, v, place, prefix) for v in value]
            else:
                self._spend(1, place)
                out[entry.name] = self._value(entry, value, place, prefix)
        return out

    def _value(self, entry: Any, value: Any, place: str, prefix: str) -> Any:
        if entry.type == _MESSAGE:
            return self.plain(value, place, f"{prefix}{entry.name}.")
        if entry.type == _ENUM:
            return entry.enum_type.values_by_number[value].name
        return self.text(value, place) if entry.type == _BYTES else value

    def _spend(self, count: int, place: str) -> None:
        self._left -= count
        if self._left < 0:
            raise FormatError(
                "the layer parameters hold more values than any network has",
                where=f"{self.where}, {place}",
                expected=f"<= {MAX_VALUES}",
            )


def fill(message: Any, data: Mapping[str, Any], place: str) -> None:
    """Set the fields of ``message`` from plain data: the inverse of ``Reader.plain``.

    Raises:
        FormatError: a field that the schema does not have, or a value of the wrong type or range.
    """
    for name, value in data.items():
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            raise FormatError(f"Caffe's {message.DESCRIPTOR.name} has no field {name!r}", where=place)
        try:
            if _is_repeated(field):
                target = getattr(message, name)
                for item in value:
                    if field.type == _MESSAGE:
                        fill(target.add(), item, f"{place}.{name}")
                    else:
                        target.append(_scalar(field, item))
            elif field.type == _MESSAGE:
                getattr(message, name).SetInParent()
                fill(getattr(message, name), value, f"{place}.{name}")
            else:
                setattr(message, name, _scalar(field, value))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise FormatError(f"{name!r} cannot hold this value: {error}", where=place, got=repr(value)[:80]) from None


def _scalar(field: Any, value: Any) -> Any:
    if field.type == _ENUM and isinstance(value, str):
        return field.enum_type.values_by_name[value].number
    if field.type == _BYTES and isinstance(value, str):
        return value.encode("utf-8")
    return value


def _is_repeated(field: Any) -> bool:
    # ``label`` is deprecated in new protobufs, ``is_repeated`` absent in old ones
    repeated = getattr(field, "is_repeated", None)
    return field.label == 3 if repeated is None else bool(repeated)


MAX_LAYERS = 10_000
MAX_NAME = 1024
_NOT_PARAMS = frozenset({"name", "type", "bottom", "top", "param", "blobs", "include", "exclude"})
_DATA_PARAMS = ("data_param", "image_data_param", "window_data_param")
_MOVED = ("scale", "mirror", "crop_size", "mean_file")


def layer_of_message(message: Any, index: int, reader: Reader, *, v1: bool) -> CaffeLayer:
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
