"""A network in Caffe's terms: the deploy layers of a staged one, the probes that both sides have, and the .caffemodel that holds it.

One list of layers, with the reference module and tensors behind each, serves three purposes: the deploy prototxt, the mapping of blobs
to reference tensors, and the probes that parity compares. Layer names are those of the released networks
(``conv4_3_norm_mbox_loc``, ``conv1/dw/bn``, …). A .caffemodel is written as V2 layers with ``BlobShape`` and packed numbers, layer by layer
and never the whole file in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ssdconv.converters.caffe.net import CaffeLayer, CaffeNet
from ssdconv.converters.caffe.prototxt import layer_message, net_message
from ssdconv.converters.caffe.rule import detection_output, prior_box
from ssdconv.converters.protobuf_wire import LEN, VARINT, encode_varint
from ssdconv.errors import MappingError, OutputError
from ssdconv.ssd_ref.backbones.plain import UNITS, PoolSpec, ScaleSpec
from ssdconv.ssd_ref.config import ConvSpec, Graph, L2NormSpec, Postprocess, SSDConfig, Staged
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.ssd_ref.graph.operation import module_name

MAX_MESSAGE = 2**31 - 1  # what protobuf can read
_LAYER, _BLOBS = 100, 7
_DATA, _SHAPE, _DOUBLE_DATA = 5, 7, 8


def write_caffemodel(
    net: CaffeNet, blobs: Mapping[str, npt.NDArray[Any]], path: Path, *, legacy: Collection[str] = ()
) -> None:
    """Write ``net`` with its weights.

    Args:
        net: the layers; a layer that lists ``blobs`` shapes must get blobs of just these.
        blobs: ``<layer>/<index>`` -> array, float32 (stored as ``data``) or float64 (``double_data``), bit for bit; indices
            from 0 without gaps. Each is asked for once, so the mapping may load them on demand.
        path: the file to make or replace, whole or not at all.
        legacy: blobs of four axes whose shape is written as ``num``, ``channels``, ``height`` and ``width``: only so does Caffe take
            (1, 1, 1, N) for (N,).

    Raises:
        MappingError: blobs that belong to no layer, have gaps, the wrong shape or another dtype.
        FormatError: a parameter that Caffe's schema does not have.
        OutputError: the file cannot be written, or is beyond the 2 GiB that protobuf can read.
    """
    owners = _owners(net, blobs)
    with atomic_path(Path(path)) as temporary, open(temporary, "wb") as stream:
        stream.write(net_message(net, layers=False).SerializeToString())
        for index, layer in enumerate(net.layers):
            names = owners.get(index, [])
            arrays = [_checked(layer, i, name, blobs[name]) for i, name in enumerate(names)]
            heads = [_blob_head(a, name in legacy and a.ndim == 4) for name, a in zip(names, arrays, strict=True)]
            _write_layer(stream, layer_message(layer).SerializeToString(), heads, arrays)
            if stream.tell() > MAX_MESSAGE:
                raise OutputError("the model is larger than protobuf can read", where=str(path), expected="< 2 GiB")


def _owners(net: CaffeNet, blobs: Mapping[str, Any]) -> dict[int, list[str]]:
    """Blob names of each layer index, all of ``blobs`` accounted for."""
    counts: dict[str, int] = {}
    for name in blobs:
        layer, _, index = name.rpartition("/")
        if not index.isascii() or not index.isdigit() or str(int(index)) != index:
            raise MappingError(f"blob name {name!r} is not of the form <layer>/<index>")
        counts[layer] = counts.get(layer, 0) + 1
    owners: dict[int, list[str]] = {}
    for layer, count in counts.items():
        names = [f"{layer}/{i}" for i in range(count)]
        gaps = [name for name in names if name not in blobs]
        if gaps:
            raise MappingError(f"blob {gaps[0]!r} is missing", got=f"{count} blobs of layer {layer!r}")
        candidates = [i for i, entry in enumerate(net.layers) if entry.name == layer]
        if not candidates:
            raise MappingError(f"blob {names[0]!r} belongs to no layer of the net")
        owners[next((i for i in candidates if net.layers[i].blobs), candidates[0])] = names
    for i, entry in enumerate(net.layers):
        if entry.blobs and len(owners.get(i, [])) != len(entry.blobs):
            raise MappingError(
                f"layer {entry.name!r} does not get its blobs", expected=len(entry.blobs), got=len(owners.get(i, []))
            )
    return owners


def _checked(layer: CaffeLayer, index: int, name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise MappingError(f"blob {name!r} cannot be stored", expected="float32 or float64", got=array.dtype)
    if layer.blobs and tuple(layer.blobs[index]) != array.shape:
        raise MappingError(
            f"blob {name!r} has another shape than its layer says", expected=layer.blobs[index], got=array.shape
        )
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _write_layer(stream: BinaryIO, parameters: bytes, heads: list[bytes], arrays: list[npt.NDArray[Any]]) -> None:
    sizes = [len(head) + array.nbytes for head, array in zip(heads, arrays, strict=True)]
    prefixes = [_tag(_BLOBS) + encode_varint(size) for size in sizes]
    stream.write(_tag(_LAYER) + encode_varint(len(parameters) + sum(sizes) + sum(map(len, prefixes))) + parameters)
    for prefix, head, array in zip(prefixes, heads, arrays, strict=True):
        stream.write(prefix + head)
        stream.writelines(_pieces(array))


def _blob_head(array: npt.NDArray[Any], legacy: bool) -> bytes:
    """A BlobProto up to its numbers: the shape, then tag and length of the packed data.

    A blob without axes has no shape at all, as Caffe writes it: OpenCV cannot read an empty one.
    """
    data = _tag(_DATA if array.itemsize == 4 else _DOUBLE_DATA) + encode_varint(array.nbytes)
    if legacy:
        sides = (encode_varint(i << 3 | VARINT) + encode_varint(side) for i, side in enumerate(array.shape, 1))
        return b"".join(sides) + data
    if not array.ndim:
        return data
    dims = b"".join(map(encode_varint, array.shape))
    shape = _tag(1) + encode_varint(len(dims)) + dims
    return _tag(_SHAPE) + encode_varint(len(shape)) + shape + data


def _pieces(array: npt.NDArray[Any]) -> Iterator[memoryview[int]]:
    if array.nbytes:
        yield array.reshape(-1).view(np.uint8).data


def _tag(number: int) -> bytes:
    return encode_varint(number << 3 | LEN)


INPUT = "data"


@dataclass(frozen=True)
class Emitted:
    """One Caffe layer of the deploy net.

    Attributes:
        layer: the layer.
        module: path of the reference module whose output is the layer's, "" for pure glue (Concat, PriorBox, …).
        tensors: reference tensor behind each blob, in blob order.
        shapes: shapes of those blobs.
    """

    layer: CaffeLayer
    module: str = ""
    tensors: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()


def emit(config: SSDConfig) -> tuple[Emitted, ...]:
    """The deploy net of a staged config.

    Raises:
        MappingError: the network has something that Caffe cannot express.
    """
    if isinstance(config.layers, Graph):
        raise MappingError("only staged networks are emitted here", where=config.name)
    if config.layers.backbone.kind == "aizoo":
        from ssdconv.converters.aizoo import caffe_layers

        return tuple(caffe_layers(config))
    return tuple(_Emitter(config, config.layers).layers())


def deploy_net(config: SSDConfig) -> CaffeNet:
    """The deploy net of a staged config as a ``CaffeNet``."""
    height, width = config.pixels.size
    layers = tuple(e.layer for e in emit(config))
    return CaffeNet(config.name, {INPUT: (1, 3, height, width)}, layers)


class _Emitter:
    def __init__(self, config: SSDConfig, staged: Staged) -> None:
        self.config = config
        self.staged = staged
        self.top = INPUT
        self.channels = 3

    def layers(self) -> Iterator[Emitted]:
        backbone, heads = self.staged.backbone, self.staged.heads
        if backbone.kind not in UNITS:
            raise MappingError(f"no Caffe form of backbone {backbone.kind!r} is known", where=self.config.name)
        sources: list[tuple[str, int]] = []
        for unit in UNITS[backbone.kind](**backbone.options):
            if isinstance(unit, ConvSpec):
                yield from self.conv(unit, f"backbone.{unit.name}")
            elif isinstance(unit, PoolSpec):
                yield self.pool(unit)
            elif isinstance(unit, ScaleSpec):
                raise MappingError("Caffe networks have no stored input scale", where=self.config.name)
            if unit.name in backbone.out_indices:
                sources.append((self.top, self.channels))
            if unit.name == backbone.out_indices[-1]:
                break
        if self.staged.extras.pool != "none":
            raise MappingError("Caffe networks of this family have no pooled last stage", where=self.config.name)
        for stage in self.staged.extras.stages:
            for spec in stage:
                yield from self.conv(spec, f"extras.{spec.name}")
            sources.append((self.top, self.channels))
        for index, spec2 in heads.l2norm.items():
            name, channels = sources[index]
            yield self.l2norm(name, channels, spec2, index)
            sources[index] = (f"{name}_norm", channels)
        yield from self.heads(sources)

    def caffe_name(self, name: str) -> str:
        return name.removesuffix("_dw") + "/dw" if name.endswith("_dw") else name

    def conv(self, spec: ConvSpec, module: str) -> Iterator[Emitted]:
        if spec.padding == "same":
            raise MappingError(
                f"layer {spec.name!r} pads by TensorFlow's SAME rule, which Caffe cannot express",
                where=self.config.name,
            )
        name = self.caffe_name(spec.name)
        params: dict[str, Any] = {"num_output": spec.out_channels, "kernel_size": [spec.kernel]}
        if spec.padding:
            params["pad"] = [spec.padding]
        if spec.stride != 1:
            params["stride"] = [spec.stride]
        if spec.dilation != 1:
            params["dilation"] = [spec.dilation]
        if spec.groups != 1:
            params["group"] = spec.groups
        if not spec.bias:
            params["bias_term"] = False
        weight = (spec.out_channels, self.channels // spec.groups, spec.kernel, spec.kernel)
        shapes = (weight, (spec.out_channels,)) if spec.bias else (weight,)
        tensors = tuple(f"{module}.conv.{n}" for n in ("weight", "bias")[: len(shapes)])
        layer = CaffeLayer(name, "Convolution", (self.top,), (name,), {"convolution_param": params}, shapes)
        yield Emitted(layer, f"{module}.conv", tensors, shapes)
        self.top, self.channels = name, spec.out_channels
        if spec.norm is not None:
            yield from self.batch_norm(spec, module, name)
        if spec.activation == "relu":
            yield Emitted(CaffeLayer(self.relu_name(spec, name), "ReLU", (name,), (name,)), f"{module}.act")
        elif spec.activation == "relu6":
            yield Emitted(CaffeLayer(self.relu_name(spec, name), "ReLU6", (name,), (name,)), f"{module}.act")

    def relu_name(self, spec: ConvSpec, name: str) -> str:
        if self.staged.backbone.kind == "vgg16":
            if name in ("fc6", "fc7"):
                return f"relu{name[2]}"
            return f"{name}_relu" if int(name[4:].split("_")[0]) > 5 else f"relu{name[4:]}"
        return f"{name}/relu"

    def batch_norm(self, spec: ConvSpec, module: str, name: str) -> Iterator[Emitted]:
        assert spec.norm is not None
        if not spec.norm.accumulated:
            raise MappingError(f"layer {spec.name!r}: only Caffe's own batch normalisation can be written back")
        vector = (spec.out_channels,)
        params = {"batch_norm_param": {"use_global_stats": True, "eps": spec.norm.eps}}
        if spec.norm.eps == 1e-5:
            params = {}
        shapes: tuple[tuple[int, ...], ...] = (vector, vector, (1,))
        layer = CaffeLayer(f"{name}/bn", "BatchNorm", (name,), (name,), params, shapes)
        tensors = tuple(f"{module}.norm.0.{n}" for n in ("mean", "variance", "factor"))
        yield Emitted(layer, f"{module}.norm.0", tensors, shapes)
        shapes = (vector, vector)
        layer = CaffeLayer(f"{name}/scale", "Scale", (name,), (name,), {"scale_param": {"bias_term": True}}, shapes)
        tensors = tuple(f"{module}.norm.1.{n}" for n in ("weight", "bias"))
        yield Emitted(layer, f"{module}.norm.1", tensors, shapes)

    def pool(self, spec: PoolSpec) -> Emitted:
        if spec.rounding != "ceil":
            raise MappingError(f"pooling {spec.name!r} rounds {spec.rounding}; Caffe's always rounds up")
        params: dict[str, Any] = {"pool": "MAX", "kernel_size": spec.kernel, "stride": spec.stride}
        if spec.padding:
            params["pad"] = spec.padding
        layer = CaffeLayer(spec.name, "Pooling", (self.top,), (spec.name,), {"pooling_param": params})
        self.top = spec.name
        return Emitted(layer, f"backbone.{spec.name}")

    def l2norm(self, bottom: str, channels: int, spec: L2NormSpec, index: int) -> Emitted:
        params: dict[str, Any] = {"across_spatial": False, "channel_shared": False}
        if spec.eps != 1e-10:
            params["eps"] = spec.eps
        name, module = f"{bottom}_norm", f"heads.l2norm.{index}"
        layer = CaffeLayer(name, "Normalize", (bottom,), (name,), {"norm_param": params}, ((channels,),))
        return Emitted(layer, module, (f"{module}.weight",), ((channels,),))

    def heads(self, sources: list[tuple[str, int]]) -> Iterator[Emitted]:
        heads, classes = self.staged.heads, self.config.num_classes
        for index, ((source, channels), priors) in enumerate(zip(sources, self.config.priors, strict=True)):
            anchors = len(priors.box_sizes)
            for kind, values in (("loc", 4), ("conf", classes)):
                name, module = f"{source}_mbox_{kind}", f"heads.{kind}.{index}"
                params: dict[str, Any] = {"num_output": anchors * values, "kernel_size": [heads.kernel]}
                if heads.pad:
                    params["pad"] = [heads.pad]
                if not heads.bias:
                    params["bias_term"] = False
                weight = (anchors * values, channels, heads.kernel, heads.kernel)
                shapes = (weight, (anchors * values,)) if heads.bias else (weight,)
                tensors = tuple(f"{module}.{n}" for n in ("weight", "bias")[: len(shapes)])
                layer = CaffeLayer(name, "Convolution", (source,), (name,), {"convolution_param": params}, shapes)
                yield Emitted(layer, module, tensors, shapes)
                order = {"permute_param": {"order": [0, 2, 3, 1]}}
                yield Emitted(CaffeLayer(f"{name}_perm", "Permute", (name,), (f"{name}_perm",), order))
                flat = {"flatten_param": {"axis": 1}}
                yield Emitted(CaffeLayer(f"{name}_flat", "Flatten", (f"{name}_perm",), (f"{name}_flat",), flat))
            box = f"{source}_mbox_priorbox"
            yield Emitted(CaffeLayer(box, "PriorBox", (source, INPUT), (box,), {"prior_box_param": prior_box(priors)}))
        for kind, axis, suffix in (("loc", 1, "_flat"), ("conf", 1, "_flat"), ("priorbox", 2, "")):
            bottoms = tuple(f"{source}_mbox_{kind}{suffix}" for source, _ in sources)
            params = {"concat_param": {"axis": axis}}
            yield Emitted(CaffeLayer(f"mbox_{kind}", "Concat", bottoms, (f"mbox_{kind}",), params))
        yield from _scores(classes, self.config.detect)


def _scores(classes: int, rule: Postprocess) -> Iterator[Emitted]:
    shape = {"reshape_param": {"shape": {"dim": [0, -1, classes]}}}
    yield Emitted(CaffeLayer("mbox_conf_reshape", "Reshape", ("mbox_conf",), ("mbox_conf_reshape",), shape))
    kind = {"softmax": "Softmax", "sigmoid": "Sigmoid"}.get(rule.activation)
    top = "mbox_conf_reshape"
    if kind is not None:
        params = {"softmax_param": {"axis": 2}} if kind == "Softmax" else {}
        layer = CaffeLayer(f"mbox_conf_{rule.activation}", kind, (top,), (f"mbox_conf_{rule.activation}",), params)
        yield Emitted(layer)
        top = layer.name
    flat = {"flatten_param": {"axis": 1}}
    yield Emitted(CaffeLayer("mbox_conf_flatten", "Flatten", (top,), ("mbox_conf_flatten",), flat))
    bottoms = ("mbox_loc", "mbox_conf_flatten", "mbox_priorbox")
    params = {"detection_output_param": detection_output(classes, rule)}
    yield Emitted(CaffeLayer("detection_out", "DetectionOutput", bottoms, ("detection_out",), params, phase="TEST"))


Probe = tuple[str, str]
"""(Caffe layer name, path of the reference module)."""


def probe_map(config: SSDConfig) -> tuple[Probe, ...]:
    """Every learned, activation, pooling and normalisation layer of the network with its reference module."""
    if isinstance(config.layers, Graph):
        return tuple((layer.name, f"layers.{module_name(layer.name)}") for layer in config.layers.layers)
    return tuple((e.layer.name, e.module) for e in emit(config) if e.module)
