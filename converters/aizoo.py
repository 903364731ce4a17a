"""The face-mask detector (``ssd_ref.networks.aizoo``) as files of MXNet, TensorFlow and Caffe hold it: names and layouts.

MXNet's (structural names): ``conv_<i>.1.weight`` for the backbone, ``cls_<i>_conv.0`` and ``.1`` for a head's two convolutions, OIHW,
batch normalisation merged. TensorFlow's graph: Keras' layer names with a number behind (``conv2d_0_1/kernel``), HWIO kernels,
batch normalisation (gamma, beta, moving statistics) as trained. Caffe's deploy net ends before the boxes: its priors are not what
PriorBox makes, and Caffe has no layer for its detection rule, so the published net has neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ssdconv.converters.caffe.net import CaffeLayer
from ssdconv.converters.caffe.writer import INPUT, Emitted
from ssdconv.converters.plan import Plan, Request
from ssdconv.converters.tensorflow.reader import CheckpointFile
from ssdconv.converters.tensors import Drop, LazyTensor, MappedTensor, Op, TensorMapping, TensorTable, Transpose
from ssdconv.errors import MappingError
from ssdconv.ssd_ref.backbones.plain import AIZOO_CHANNELS, PoolSpec, aizoo_units
from ssdconv.ssd_ref.config import ConvSpec, SSDConfig, Staged
from ssdconv.ssd_ref.evidence import Claim
from ssdconv.ssd_ref.networks.aizoo import NAME, aizoo

FIRST = {"gluon": r"conv_0\.weight", "tensorflow": r"conv2d_0(?P<number>_\d+)?/kernel"}
"""Source -> pattern of the first convolution's name."""
KERAS_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def holds(table: Mapping[str, LazyTensor], source: str) -> bool:
    """Whether a file of the source has this network's names (its shapes are checked later)."""
    marks = {"gluon": r"cls_4_conv\.1\.bias", "tensorflow": r"cls_4_conv(_\d+)?/bias"}
    return all(any(re.fullmatch(p, name) for name in table) for p in (FIRST[source], marks[source]))


def plan(table: TensorTable, source: str, request: Request) -> Plan:
    """The network, its mapping, and where MXNet and the reference compute the same value.

    Raises:
        MappingError: two copies of the network.
    """
    config = aizoo(NAME, request.num_classes, source=source)
    found = [match for name in table if (match := re.fullmatch(FIRST[source], name))]
    if len(found) != 1:
        names = ", ".join(match[0] for match in found)
        raise MappingError("the file holds this network several times", where=str(table.path), got=names)
    pairs = tuple(entries(config, source, found[0].groupdict().get("number") or ""))
    known = {entry.source for entry in pairs}
    graph = source == "tensorflow" and table.found(CheckpointFile).flavour == "graph"
    drops = [
        Drop(name, "a constant of the graph that is no weight")
        for name, tensor in table.items()
        if graph and name not in known and tensor.dtype.kind == "i"
    ]
    told = source == "gluon" or graph
    shown = probes(config, source, found[0].groupdict().get("number") or "") if told else ()
    order = Claim(
        "classes", "rebuilt", f"{', '.join(config.class_names) or 'by number'}: the project's own order", "classes"
    )
    return Plan(config, TensorMapping(pairs, tuple(drops)), (), tuple(shown), (order,))


def probes(config: SSDConfig, source: str, number: str = "") -> Iterator[tuple[str, str]]:
    """(oracle's name, reference module) of every layer, then of heads and scores: layer names for MXNet, nodes for TensorFlow."""

    def node(name: str, kind: str) -> str:
        return name if source == "gluon" else f"{name}{number}/{kind}"

    for module, role, index, _ in _convolutions(config):
        unit = module.rpartition(".")[0]
        name = f"conv2d_{index}" if role == "conv" else f"{_short(module)}_{index}_conv"
        if role == "last":
            yield node(name, "BiasAdd"), module
            continue
        name = f"{_short(module)}_{index}_insert_conv2d" if role == "insert" else name
        yield node(name, "convolution"), module
        if source == "tensorflow":
            yield f"{name}_bn{number}/FusedBatchNorm_1", f"{unit}.norm"
        yield node(f"{name}_activation", "Relu"), f"{unit}.act"
        if role == "conv" and index < 6:
            yield node(f"maxpool2d_{index}", "MaxPool"), f"backbone.maxpool2d_{index}"
    yield node("loc_branch_concat", "concat"), "@loc"
    yield node("cls_branch_concat", "concat"), "@scores"


def entries(config: SSDConfig, source: str, number: str = "") -> Iterator[MappedTensor]:
    """The mapping of every tensor, in the order of the published file.

    Args:
        config: the network as that source's file holds it.
        source: "gluon" or "tensorflow".
        number: what Keras put behind every layer's name.
    """
    if source == "gluon":
        yield from _gluon(config)
    else:
        yield from _tensorflow(config, number)


def _convolutions(config: SSDConfig) -> Iterator[tuple[str, str, int, tuple[int, int, int, int]]]:
    """(reference module, role, index, OIHW shape) of every convolution: roles are conv, and insert and last of each head."""
    assert isinstance(config.layers, Staged) and config.layers.heads.before is not None
    inner = config.layers.heads.before.out_channels
    for index, (width, out) in enumerate(zip((3, *AIZOO_CHANNELS), AIZOO_CHANNELS, strict=False)):
        yield f"backbone.conv2d_{index}.conv", "conv", index, (out, width, 3, 3)
    for index, width in enumerate(AIZOO_CHANNELS[3:]):
        for word, values in (("conf", config.num_classes), ("loc", 4)):
            module, cells = f"heads.{word}.{index}", len(config.priors[index].box_sizes)
            yield f"{module}.conv", "insert", index, (inner, width, 3, 3)
            yield f"{module}.predictor", "last", index, (cells * values, inner, 3, 3)


def _short(module: str) -> str:
    return "cls" if ".conf." in module else "loc"


def _gluon(config: SSDConfig) -> Iterator[MappedTensor]:
    for module, role, index, shape in _convolutions(config):
        if role == "conv":
            name = f"conv_{index}" if index in (0, 7) else f"conv_{index}.1"
        else:
            name = f"{_short(module)}_{index}_conv.{0 if role == 'insert' else 1}"
        yield MappedTensor(f"{name}.weight", f"{module}.weight", shape)
        yield MappedTensor(f"{name}.bias", f"{module}.bias", shape[:1])


def _tensorflow(config: SSDConfig, number: str) -> Iterator[MappedTensor]:
    hwio: tuple[Op, ...] = (Transpose((3, 2, 0, 1)),)
    for module, role, index, shape in _convolutions(config):
        name = f"conv2d_{index}" if role == "conv" else f"{_short(module)}_{index}_conv"
        name = f"{_short(module)}_{index}_insert_conv2d" if role == "insert" else name
        out, width, height, side = shape
        yield MappedTensor(f"{name}{number}/kernel", f"{module}.weight", (height, side, width, out), hwio)
        if role == "last":
            yield MappedTensor(f"{name}{number}/bias", f"{module}.bias", (out,))
            continue
        for theirs, ours in KERAS_NORM.items():
            yield MappedTensor(f"{name}_bn{number}/{theirs}", f"{module.removesuffix('.conv')}.norm.{ours}", (out,))


def caffe_layers(config: SSDConfig) -> Iterator[Emitted]:
    """The deploy net's layers, under the published names.

    Raises:
        MappingError: batch normalisation is not merged: the published Caffe net has none.
    """
    before = config.staged.heads.before
    if config.staged.backbone.options or before is None:
        raise MappingError("the Caffe form of this network has batch normalisation merged", where=config.name)
    top, channels = INPUT, 3
    sources = []
    for unit in aizoo_units():
        if isinstance(unit, PoolSpec):
            params = {"pool": "MAX", "kernel_size": unit.kernel, "stride": unit.stride}
            layer = CaffeLayer(unit.name, "Pooling", (top,), (unit.name,), {"pooling_param": params})
            yield Emitted(layer, f"backbone.{unit.name}")
            top = unit.name
        elif isinstance(unit, ConvSpec):
            yield from _caffe_conv(unit.name, top, channels, unit, f"backbone.{unit.name}")
            top, channels = unit.name, unit.out_channels
            if unit.name in config.staged.backbone.out_indices:
                sources.append((top, channels))
    for short, word, values in (("cls", "conf", config.num_classes), ("loc", "loc", 4)):
        for index, (source, width) in enumerate(sources):
            name, module = f"{short}_{index}_conv", f"heads.{word}.{index}"
            yield from _caffe_conv(f"{short}_{index}_insert_conv2d", source, width, before, module)
            anchors = len(config.priors[index].box_sizes)
            last = ConvSpec("predictor", anchors * values, 3, padding=1, activation="none")
            yield from _caffe_conv(
                name, f"{short}_{index}_insert_conv2d", before.out_channels, last, module, "predictor"
            )
            yield _caffe_plain(f"{name}_permute", "Permute", name, permute_param={"order": [0, 2, 3, 1]})
            shape = {"shape": {"dim": [0, -1, values]}}
            yield _caffe_plain(f"{short}_{index}_reshape", "Reshape", f"{name}_permute", reshape_param=shape)
            if short == "cls":
                yield _caffe_plain(f"cls_{index}_activation", "Sigmoid", f"cls_{index}_reshape")
    for short, end in (("loc", "reshape"), ("cls", "activation")):
        bottoms = tuple(f"{short}_{index}_{end}" for index in range(len(sources)))
        top = f"{short}_branch_concat"
        yield Emitted(CaffeLayer(top, "Concat", bottoms, (top,), {"concat_param": {"axis": 1}}))


def _caffe_plain(name: str, kind: str, bottom: str, **params: Any) -> Emitted:
    return Emitted(CaffeLayer(name, kind, (bottom,), (name,), params))


def _caffe_conv(
    name: str, bottom: str, channels: int, spec: ConvSpec, module: str, child: str = "conv"
) -> Iterator[Emitted]:
    params: dict[str, Any] = {"num_output": spec.out_channels, "kernel_size": [spec.kernel]}
    if spec.padding:
        params["pad"] = [spec.padding]
    shapes: tuple[tuple[int, ...], ...] = (
        (spec.out_channels, channels, spec.kernel, spec.kernel),
        (spec.out_channels,),
    )
    layer = CaffeLayer(name, "Convolution", (bottom,), (name,), {"convolution_param": params}, shapes)
    yield Emitted(layer, f"{module}.{child}", (f"{module}.{child}.weight", f"{module}.{child}.bias"), shapes)
    if spec.activation == "relu":
        yield Emitted(CaffeLayer(f"{name}_activation", "ReLU", (name,), (name,)), f"{module}.act")
