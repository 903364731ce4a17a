"""Caffe as a source: reader, mapping and writer under the names that the registry expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ssdconv.converters.caffe.emit import Emitted, deploy_net, emit
from ssdconv.converters.caffe.graph import graph_config, graph_net
from ssdconv.converters.caffe.net import CaffeNet
from ssdconv.converters.caffe.probes import probe_map
from ssdconv.converters.caffe.prototxt import read_prototxt, write_prototxt
from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.converters.caffe.recognise import as_named
from ssdconv.converters.caffe.writer import write_caffemodel
from ssdconv.converters.mapping import Drop, Entry, TensorMapping
from ssdconv.converters.plan import Plan, Request
from ssdconv.converters.tensors import Array, TensorTable
from ssdconv.errors import MappingError, UsageError
from ssdconv.ssd_ref.caffe_layers.names import blob_names, module_name
from ssdconv.ssd_ref.config import Graph, SSDConfig
from ssdconv.ssd_ref.networks.registry import network


def read(path: Path) -> TensorTable:
    """Open a .caffemodel; no Caffe needed. See ``reader.read_caffemodel``."""
    return read_caffemodel(path)


def plan(table: TensorTable, request: Request) -> Plan:
    """Recognise the network and map its blobs.

    Raises:
        FormatError: neither the file nor the prototxt describes an SSD, or it has unsupported layers.
        MappingError: the network asked for does not fit the file.
    """
    own: CaffeNet = table.meta["net"]
    net = read_prototxt(request.prototxt) if request.prototxt else own
    if request.network:
        config = network(request.network, "caffe", request.num_classes or _classes(own))
        warnings: tuple[str, ...] = ()
    else:
        found = graph_config(net, name=own.name or table.path.stem, weights=own)
        assert found.graph is not None
        named = as_named(found)
        config, warnings = named or found, _told(found, named)
    unknown = tuple(f"unknown {field} ignored" for field in net.unknown)
    return Plan(config, mapping(config, table), warnings + unknown, probe_map(config))


def _told(found: SSDConfig, named: SSDConfig | None) -> tuple[str, ...]:
    assert found.graph is not None
    if named is None or named.pixels == found.pixels:
        return found.graph.warnings
    kept = tuple(w for w in found.graph.warnings if "mean" not in w)
    return (*kept, f"the net does not tell its pixel mean: taken from the named network {named.name}")


def _classes(net: CaffeNet) -> int | None:
    """Class count that a net definition tells in DetectionOutput or MultiBoxLoss."""
    for layer in net.layers:
        for key in ("detection_output_param", "multibox_loss_param"):
            if "num_classes" in layer.params.get(key, {}):
                return int(layer.params[key]["num_classes"])
    return None


def mapping(config: SSDConfig, table: TensorTable) -> TensorMapping:
    """Blob "<layer>/<index>" to reference tensor, for every blob of the network; the others are dropped by name."""
    entries = _graph_entries(config.graph) if config.graph else _staged_entries(emit(config))
    used = {e.source for e in entries}
    layers = {e.source.rsplit("/", 1)[0] for e in entries}
    drops: list[Drop] = []
    for name in table:
        if name in used:
            continue
        layer = name.rsplit("/", 1)[0]
        if layer in layers:
            raise MappingError(
                f"layer {layer!r} stores more blobs than the network's layer has",
                where=str(table.path),
                expected=sum(e.source.startswith(f"{layer}/") for e in entries),
                got=sum(n.startswith(f"{layer}/") for n in table),
                hint="merged and unmerged batch normalisation differ in this way: is it the right prototxt?",
            )
        drops.append(Drop(name, "its layer is not part of the detector"))
    shared, entries = _shared(config.graph, entries)
    return TensorMapping(tuple(entries), tuple(drops + shared))


def _staged_entries(layers: tuple[Emitted, ...]) -> list[Entry]:
    return [
        Entry(f"{e.layer.name}/{index}", tensor, shape)
        for e in layers
        for index, (tensor, shape) in enumerate(zip(e.tensors, e.shapes, strict=True))
    ]


def _graph_entries(graph: Graph | None) -> list[Entry]:
    assert graph is not None
    return [
        Entry(f"{layer.name}/{index}", f"graph.{module_name(layer.name)}.{name}", shape)
        for layer in graph.layers
        for index, (name, shape) in enumerate(zip(blob_names(layer), layer.blobs, strict=True))
    ]


def _shared(graph: Graph | None, entries: list[Entry]) -> tuple[list[Drop], list[Entry]]:
    """Blobs that share one parameter: the first holder fills it, the others are dropped by rule."""
    if graph is None or not any(any(layer.shared) for layer in graph.layers):
        return [], entries
    holders: dict[str, str] = {}
    drops, kept = [], []
    names = {f"{layer.name}/{i}": shared for layer in graph.layers for i, shared in enumerate(layer.shared) if shared}
    for entry in entries:
        group = names.get(entry.source)
        if group and group in holders:
            drops.append(Drop(entry.source, f"shares parameter {group!r} with {holders[group]}"))
            continue
        if group:
            holders[group] = entry.source
        kept.append(entry)
    return drops, kept


def net_of(config: SSDConfig) -> CaffeNet:
    """The deploy net of any config that came from Caffe.

    Raises:
        MappingError: Caffe cannot express the network.
    """
    return graph_net(config) if config.graph else deploy_net(config)


def write(config: SSDConfig, tensors: Mapping[str, Array], dst: Path, request: Request) -> list[Path]:
    """Write ``dst`` (.caffemodel) and the deploy prototxt beside it; tensors come back bit for bit."""
    if dst.suffix != ".caffemodel":
        raise UsageError("a Caffe weight file ends in .caffemodel", where=str(dst))
    net = net_of(config)
    entries = _graph_entries(config.graph) if config.graph else _staged_entries(emit(config))
    blobs = {e.source: tensors[e.target].reshape(e.source_shape) for e in entries}
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for entry in entries:
        shapes.setdefault(entry.source.rsplit("/", 1)[0], []).append(entry.source_shape)
    net = replace(net, layers=tuple(replace(la, blobs=tuple(shapes.get(la.name, ()))) for la in net.layers))
    prototxt = request.prototxt or dst.with_suffix(".prototxt")
    write_caffemodel(net, blobs, dst)
    write_prototxt(net, prototxt)
    return [dst, prototxt]
