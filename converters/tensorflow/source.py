"""TensorFlow as a source: reader, mapping and writer under the names that the registry expects.

HiKapok's SSD.TensorFlow calls Caffe's conv6 … conv9 conv8 … conv11. Kernels are HWIO. A cell's anchors come as sqrt(min*max), 1, 2, 3, 1/2,
1/3; a loc head's channels are (dy, dx, dh, dw) per anchor, where the reference has (dx, dy, dw, dh).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssdconv.converters import aizoo
from ssdconv.converters.assumed import Project, settle
from ssdconv.converters.plan import Plan, Request
from ssdconv.converters.protobuf_wire import Wire
from ssdconv.converters.same_network import Layer, counts_of, vgg_layers
from ssdconv.converters.tensorflow.again import plain, text_of, write_again
from ssdconv.converters.tensorflow.bundle import write_bundle
from ssdconv.converters.tensorflow.graphdef import graph_nodes
from ssdconv.converters.tensorflow.reader import CheckpointFile, read_checkpoint
from ssdconv.converters.tensorflow.whole import network_of
from ssdconv.converters.tensors import (
    Array,
    Drop,
    MappedTensor,
    Op,
    TensorMapping,
    TensorTable,
    Transpose,
    apply_all,
    inverse,
    permute_anchors,
)
from ssdconv.errors import MappingError, UsageError
from ssdconv.ssd_ref.config import Graph, SourceText, SSDConfig
from ssdconv.ssd_ref.gate import reader
from ssdconv.ssd_ref.networks.aizoo import NAME as AIZOO
from ssdconv.ssd_ref.networks.tensorflow import EXTRA_SCALES, NETWORKS, SCALES, hikapok, ratios

SCOPE = "ssd300/"
"""The variable scope of the published code."""

FIRST = "conv1/conv1_1/kernel"
SCALE = "conv4_3_scale/weights"

ANCHORS = {4: (1, 0, 2, 3), 6: (1, 0, 2, 4, 3, 5)}
"""Anchors of a cell -> which of the source's anchors each of the reference's is."""
YX_TO_XY = (1, 0, 3, 2)

SLOTS = ("Momentum", "Adam", "Adam_1", "RMSProp", "RMSProp_1", "Adagrad", "Ftrl", "Ftrl_1", "ExponentialMovingAverage")
COUNTERS = (
    "global_step",
    "beta1_power",
    "beta2_power",
    "learning_rate",
    "save_counter",
    "_CHECKPOINTABLE_OBJECT_GRAPH",
)


def variable(layer: Layer) -> str:
    """Name of a layer's scope below the network's."""
    if layer.role in ("loc", "conf"):
        return f"multibox_head/{'loc' if layer.role == 'loc' else 'cls'}_{layer.name}"
    if layer.role == "l2norm":
        return "conv4_3_scale"
    if layer.role == "extras":
        stage, part = layer.name.removeprefix("conv").split("_")
        return f"additional_layers/conv{int(stage) + 2}/conv{int(stage) + 2}_{part}"
    return layer.name if layer.name.startswith("fc") else f"{layer.name.split('_')[0]}/{layer.name}"


def layers(config: SSDConfig) -> list[Layer]:
    """The network's learned layers."""
    return list(vgg_layers(config, "SSD.TensorFlow", same_padding=True))


def entries(config: SSDConfig, prefix: str = SCOPE) -> Iterator[MappedTensor]:
    """The mapping of every tensor; ``prefix`` is the network's scope in the file."""
    for layer in layers(config):
        for kind, target, shape in layer.tensors():
            if layer.role == "l2norm":
                yield MappedTensor(f"{prefix}{SCALE}", target, shape)
                continue
            ops: list[Op] = [Transpose((3, 2, 0, 1))] if kind == "weight" else []
            if layer.role in ("loc", "conf"):
                anchors = len(config.priors[int(layer.name)].box_sizes)
                inner = YX_TO_XY if layer.role == "loc" else None
                ops.append(permute_anchors(ANCHORS[anchors], shape[0] // anchors, inner=inner))
            stored = (shape[2], shape[3], shape[1], shape[0]) if kind == "weight" else shape
            name = f"{prefix}{variable(layer)}/{'kernel' if kind == 'weight' else 'bias'}"
            yield MappedTensor(name, target, stored, tuple(ops))


def probes(config: SSDConfig) -> Iterator[tuple[str, str]]:
    """(layer, reference module) of every layer whose output is the same tensor on both sides, behind its ReLU."""
    for layer in layers(config):
        if layer.role in ("backbone", "extras"):
            yield variable(layer), layer.module.removesuffix(".conv")
        elif layer.role == "l2norm":
            yield variable(layer), layer.module


def scope_of(names: Iterator[str] | list[str]) -> str | None:
    """What stands before the network's variables, where exactly one set of them is in the file."""
    found = {name.removesuffix(FIRST) for name in names if name.endswith(FIRST)}
    return found.pop() if len(found) == 1 else None


def outside(name: str, prefix: str, *, graph: bool) -> str:
    """Why a tensor is no part of the detector; "" where it may be.

    Args:
        name: of the tensor.
        prefix: the network's scope.
        graph: the tensor is a constant of a frozen graph.
    """
    last = name.rsplit("/", 1)[-1]
    if last in SLOTS:
        return "an optimizer's slot, not part of the detector"
    if last in COUNTERS or last.startswith(".OPTIMIZER"):
        return "a counter or setting of the training, not part of the detector"
    parts = name.split("/")
    if len(parts) > 1 and parts[-1] == "weights" and parts[-2].startswith("conv4_3_scale") and name != prefix + SCALE:
        return "a second copy of conv4_3's scale, which another tower left"
    if graph and last not in ("kernel", "bias", "weights"):
        return "a constant of the graph that is no weight"
    return ""


PROJECT = Project(
    "SSD.TensorFlow's code since 2018-08-11 (2d8b0cb)",
    scales={"": SCALES},
    ratios=ratios(),
    extra=EXTRA_SCALES,
    notes={"priors.scales": f"second squares {', '.join(map(str, EXTRA_SCALES))}; the branch AbsoluteCoord has others"},
)
"""Before 2018-08-11 a cell had no square of the map's own scale; its heads' shapes tell, and such a file is refused."""


@reader
def read(path: Path) -> TensorTable:
    """Open a checkpoint or frozen graph; no TensorFlow needed. See ``reader.read_checkpoint``."""
    return read_checkpoint(path)


def plan(table: TensorTable, request: Request) -> Plan:
    """Recognise SSD.TensorFlow's SSD300 and map its variables.

    Raises:
        MappingError: the file holds another network, or two copies of it.
        UsageError: unknown network.
    """
    if aizoo.holds(table, "tensorflow") and request.network in (None, AIZOO):
        return aizoo.plan(table, "tensorflow", request)
    prefix = scope_of(list(table))
    if prefix is None and not request.network and table.found(CheckpointFile).flavour == "graph":
        return whole_plan(table, request)
    if prefix is None:
        copies = [name.removesuffix(FIRST) for name in table if name.endswith(FIRST)]
        raise MappingError(
            "the file holds no SSD of SSD.TensorFlow" if not copies else "the file holds several networks",
            where=str(table.path),
            expected=f"one tensor whose name ends in {FIRST!r}",
            got=f"scopes {copies[:3]}" if copies else f"{len(table)} tensors, first {next(iter(table), None)!r}",
        )
    config, claims = settle(config_of(table, prefix, request), request.settings, PROJECT)
    pairs = tuple(entries(config, prefix))
    known = {entry.source for entry in pairs}
    graph = table.found(CheckpointFile).flavour == "graph"
    reasons = {name: outside(name, prefix, graph=graph) for name in table if name not in known}
    drops = tuple(Drop(name, reason) for name, reason in reasons.items() if reason)
    return Plan(config, TensorMapping(pairs, drops), (), tuple(probes(config)), claims)


def whole_plan(table: TensorTable, request: Request) -> Plan:
    """The plan of a detection graph: each tensor by the node that reads it; ``CheckpointFile.ends`` gets the nodes where it begins and ends."""
    whole = network_of(table.found(CheckpointFile).nodes, table, request.settings, str(table.path))
    used = {entry.source for entry in whole.entries}
    drops = tuple(Drop(name, "a constant of the graph that is no weight") for name in table if name not in used)
    found = table.found(CheckpointFile)
    found.ends.update(whole.nodes)
    graph = whole.config.layers
    assert isinstance(graph, Graph)
    stored = {entry.target: entry.source for entry in whole.entries}
    text = text_of(bytes(found.data), found.nodes, list(stored.values()))
    config = replace(
        whole.config,
        layers=replace(
            graph, origin=SourceText(text, stored, {f"--set {key}": value for key, value in request.settings.items()})
        ),
    )
    return Plan(config, TensorMapping(whole.entries, drops), whole.warnings, whole.probes, whole.evidence)


def config_of(table: TensorTable, prefix: str, request: Request) -> SSDConfig:
    """The network in the class count and width of the file."""
    name = request.network or next(iter(NETWORKS))
    if name not in NETWORKS:
        raise UsageError(f"TensorFlow has no network {name!r}", expected=f"one of {', '.join(NETWORKS)}")
    first, conf = f"{prefix}conv1/conv1_1/bias", f"{prefix}multibox_head/cls_0/bias"
    classes, width = counts_of(table, conf, first, request.num_classes)
    return hikapok(name, classes, width=width)


def write(config: SSDConfig, tensors: Mapping[str, Array], dst: Path, request: Request) -> list[Path]:
    """Write a V2 checkpoint with ``global_step``; ``dst`` is its prefix, or its ``.index`` file. A graph goes back to its own ``.pb``.

    Raises:
        MappingError: the network is not SSD.TensorFlow's: its code fixes padding, priors, pixels and rule.
        UsageError: another suffix.
        OutputError: a file could not be written.
    """
    if isinstance(config.layers, Graph) and config.layers.origin is not None and config.source == "tensorflow":
        return [write_graph(config, tensors, dst)]
    prefix = dst.with_name(dst.name.removesuffix(".index"))
    if prefix.suffix != ".ckpt" and not prefix.name.rpartition("-")[2].isdigit():
        raise UsageError("a checkpoint's name ends in .ckpt or -STEP", where=str(dst))
    if config.name == AIZOO and config.source == "tensorflow":
        pairs = list(aizoo.entries(config, "tensorflow"))
        return write_bundle(
            prefix, {e.source: apply_all(inverse(e.ops, e.source_shape), tensors[e.target]) for e in pairs}
        )
    theirs = hikapok(next(iter(NETWORKS)), config.num_classes)
    if config.priors != theirs.priors or config.pixels != theirs.pixels:
        raise MappingError(
            "SSD.TensorFlow's code has other prior sizes or pixels than this network; its boxes would be wrong there",
            where=config.name,
            expected=f"a network converted with tf2pt ({theirs.name})",
        )
    made = {e.source: apply_all(inverse(e.ops, e.source_shape), tensors[e.target]) for e in entries(config)}
    return write_bundle(prefix, {**made, "global_step": np.array(step_of(prefix), np.int64)})


def write_graph(config: SSDConfig, tensors: Mapping[str, Array], dst: Path) -> Path:
    """The graph that a network came from, with the network's tensors.

    Raises:
        UsageError: another suffix.
        MappingError: the tensors are not those of the graph.
        OutputError: the file could not be written.
    """
    assert isinstance(config.layers, Graph) and config.layers.origin is not None
    if dst.suffix != ".pb":
        raise UsageError("the network came from a graph", where=str(dst), expected=".pb", got=dst.suffix)
    origin, where = config.layers.origin, str(dst)
    data = plain(origin.text, where)
    constants, nodes = graph_nodes(Wire(data, where), len(data))
    settings = {k.removeprefix("--set "): v for k, v in origin.facts.items() if k.startswith("--set ")}
    arrays = {}
    for entry in network_of(nodes, constants, settings, where).entries:
        if entry.target not in tensors:
            raise MappingError("the checkpoint lacks a tensor of the graph", where=where, got=entry.target)
        array = apply_all(inverse(entry.ops, entry.source_shape), tensors[entry.target])
        arrays[entry.source] = np.asarray(array, order="C")
    return write_again(origin.text, arrays, dst)


def step_of(prefix: Path) -> int:
    """The step that a checkpoint's name tells (``model.ckpt-120000``), else 0. Estimators restore ``global_step`` with the network."""
    number = prefix.name.rpartition("-")[2]
    return int(number) if number.isdigit() and len(number) < 19 else 0
