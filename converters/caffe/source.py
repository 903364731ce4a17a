"""Caffe as a source: reader, mapping and writer under the names that the registry expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from ssdconv.converters.caffe.emit import deploy_net, emit
from ssdconv.converters.caffe.evidence import claims
from ssdconv.converters.caffe.graph import graph_config, graph_net
from ssdconv.converters.caffe.loss_rule import loss_of
from ssdconv.converters.caffe.net import CaffeNet
from ssdconv.converters.caffe.probes import probe_map
from ssdconv.converters.caffe.prototxt import read_prototxt, write_prototxt
from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.converters.caffe.recognise import as_named
from ssdconv.converters.caffe.shapes import supported
from ssdconv.converters.caffe.sniff import HDF5_MAGIC, state_of_training
from ssdconv.converters.caffe.writer import write_caffemodel
from ssdconv.converters.opened import open_regular
from ssdconv.converters.plan import Plan, Request
from ssdconv.converters.tensors import Array, Drop, MappedTensor, TensorMapping, TensorTable, ToShape
from ssdconv.errors import FormatError, MappingError, UsageError
from ssdconv.ssd_ref.caffe_layers.names import learned_blobs
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.evidence import PIXELS_ASSUMED, PRIORS_UNTOLD, RULE_ASSUMED, Link, Notice, code_of
from ssdconv.ssd_ref.networks.registry import network


def read(path: Path) -> TensorTable:
    """Open a .caffemodel or .caffemodel.h5; no Caffe needed. See ``reader.read_caffemodel`` and ``hdf5.read_hdf5``.

    Raises:
        FormatError: also for the state of a training run (.solverstate, .solverstate.h5).
    """
    with open_regular(Path(path)) as stream:
        head = stream.read(8)
    if head != HDF5_MAGIC:
        return read_caffemodel(path)
    from ssdconv.converters.caffe.hdf5 import kind_of, read_hdf5

    kind = kind_of(path)
    if kind == "state":
        raise state_of_training(str(path))
    return read_hdf5(path) if kind == "weights" else read_caffemodel(path)


def plan(table: TensorTable, request: Request) -> Plan:
    """Recognise the network and map its blobs.

    Raises:
        FormatError: neither the file nor the prototxt describes an SSD, or it has unsupported layers.
        MappingError: the network asked for does not fit the file.
    """
    own: CaffeNet = table.meta["net"]
    net = read_prototxt(request.prototxt) if request.prototxt else own
    unknown = tuple(f"unknown {field} ignored" for field in net.unknown)
    if request.network:
        config = network(request.network, "caffe", request.num_classes or _classes(own))
        config, more = _with_loss(config, net, own)
        return Plan(config, mapping(config, table), unknown + more, probe_map(config), stored=_stored(config, table))
    if net is own and table.format != "caffemodel":
        raise FormatError(
            "HDF5 weights of Caffe hold no network definition",
            where=str(table.path),
            hint="give the deploy or train definition with --prototxt, or the network's name with --network",
        )
    spec = request.spec
    found = graph_config(
        net,
        name=own.name or table.path.stem.removesuffix(".caffemodel"),
        weights=own,
        input_size=spec.size if spec is not None and spec.overrides("input") else None,
        untold_size=spec.size if spec is not None else None,
    )
    assert found.graph is not None
    named = as_named(found)
    config, warnings = named or found, _told(found, named)
    told_by = "the file's own net" if net is own else request.prototxt.name if request.prototxt else ""
    rebuilt: tuple[Link, ...] = ("priors", "detection rule") if named is not None and not found.priors else ()
    evidence = claims(net, own, told_by, config, warnings, rebuilt)
    ways, stored = mapping(config, table), _stored(config, table)
    config, more = _with_loss(config, net, own)
    return Plan(config, ways, warnings + unknown + more, probe_map(config), evidence, stored)


def _with_loss(config: SSDConfig, net: CaffeNet, own: CaffeNet) -> tuple[SSDConfig, tuple[str, ...]]:
    """The config with what the given net, else the file's own, says that it was trained with; a loss that cannot be read
    hinders no conversion."""
    try:
        return replace(config, loss=loss_of(net) or loss_of(own)), ()
    except FormatError as error:
        return config, (Notice("loss unread", f"the net's loss is not kept: {error}"),)


def _stored(config: SSDConfig, table: TensorTable) -> dict[str, tuple[int, ...]]:
    """Blobs that the file keeps in another shape than the network's, (1, 1, 1, N) for (N,)."""
    shapes = {b.name: tuple(table[b.name].shape) for b in blobs_of(config) if b.name in table}
    return {b.name: shapes[b.name] for b in blobs_of(config) if shapes.get(b.name, b.shape) != b.shape}


def _told(found: SSDConfig, named: SSDConfig | None) -> tuple[str, ...]:
    assert found.graph is not None
    if named is None or named.pixels == found.pixels:
        return found.graph.warnings
    kept = tuple(w for w in found.graph.warnings if code_of(w) != PIXELS_ASSUMED)
    if not found.priors and found.detect != named.detect:
        kept = tuple(w for w in kept if code_of(w) not in (PRIORS_UNTOLD, RULE_ASSUMED))
        text = f"the net ends before its boxes: priors and detection rule are those of the named network {named.name}"
        kept += (Notice(PRIORS_UNTOLD, text),)
    mean = f"the net does not tell its pixel mean: taken from the named network {named.name}"
    return (*kept, Notice(PIXELS_ASSUMED, mean))


def _classes(net: CaffeNet) -> int | None:
    """Class count that a net definition tells in DetectionOutput or MultiBoxLoss."""
    for layer in net.layers:
        for key in ("detection_output_param", "multibox_loss_param"):
            if "num_classes" in layer.params.get(key, {}):
                return int(layer.params[key]["num_classes"])
    return None


def mapping(config: SSDConfig, table: TensorTable) -> TensorMapping:
    """Blob "<layer>/<index>" to reference tensor, for every blob of the network; the others are dropped by name.

    Blobs that share one parameter (``param { name }``) are stored once per layer: the first fills it, the others are
    dropped by that rule. HDF5 weights hold the first alone.

    Raises:
        MappingError: the file stores more blobs for a layer than the network's layer has.
    """
    blobs = blobs_of(config)
    layers = {b.layer for b in blobs}
    drops = [Drop(b.name, f"shares its values with {b.same_as!r}") for b in blobs if b.same_as and b.name in table]
    known = {b.name for b in blobs}
    for name in table:
        layer = name.rsplit("/", 1)[0]
        if name in known:
            continue
        if layer in layers:
            raise MappingError(
                f"layer {layer!r} stores more blobs than the network's layer has",
                where=str(table.path),
                expected=sum(b.layer == layer for b in blobs),
                got=sum(n.rsplit("/", 1)[0] == layer for n in table),
                hint="merged and unmerged batch normalisation differ in this way: is it the right prototxt or network?",
            )
        drops.append(Drop(name, "its layer is not part of the detector"))
    entries = [_entry(b, table) for b in blobs if not b.same_as]
    return TensorMapping(tuple(entries), tuple(drops))


def _entry(blob: Blob, table: TensorTable) -> MappedTensor:
    """One blob's way; old files store every blob with four dimensions, a bias as (1, 1, 1, N)."""
    stored = tuple(table[blob.name].shape) if blob.name in table else blob.shape
    if stored != blob.shape and [n for n in stored if n != 1] == [n for n in blob.shape if n != 1]:
        return MappedTensor(blob.name, blob.tensor, stored, (ToShape(blob.shape),))
    return MappedTensor(blob.name, blob.tensor, blob.shape)


@dataclass(frozen=True)
class Blob:
    """One learned blob and its reference tensor; ``same_as`` names the tensor's first holder where layers share it."""

    layer: str
    index: int
    tensor: str
    shape: tuple[int, ...]
    same_as: str = ""

    @property
    def name(self) -> str:
        """Name of the blob in a tensor table."""
        return f"{self.layer}/{self.index}"


def blobs_of(config: SSDConfig) -> list[Blob]:
    """Every learned blob of a network, in the order of its layers."""
    if config.graph is None:
        return [
            Blob(e.layer.name, index, tensor, shape)
            for e in emit(config)
            for index, (tensor, shape) in enumerate(zip(e.tensors, e.shapes, strict=True))
        ]
    return [
        Blob(b.layer, b.index, f"graph.{b.same_as or b.parameter}", b.shape, b.same_as)
        for b in learned_blobs(config.graph.layers)
    ]


def net_of(config: SSDConfig) -> CaffeNet:
    """The deploy net of any config that came from Caffe.

    Raises:
        MappingError: Caffe cannot express the network.
    """
    if config.graph is not None:
        foreign = next((spec for spec in config.graph.layers if spec.type not in supported()), None)
        if foreign is not None:
            raise MappingError(
                f"Caffe has no layer that does what {foreign.type} of {config.source} does",
                where=f"{config.name}, layer {foreign.name!r}",
            )
        return graph_net(config)
    return deploy_net(config)


def write(config: SSDConfig, tensors: Mapping[str, Array], dst: Path, request: Request) -> list[Path]:
    """Write ``dst`` (.caffemodel) and the deploy prototxt beside it.

    Tensors come back bit for bit, in the shapes that the file they came from had.
    """
    if dst.suffix != ".caffemodel":
        raise UsageError("a Caffe weight file ends in .caffemodel", where=str(dst))
    net = net_of(config)
    blobs = blobs_of(config)
    held: dict[str, list[tuple[int, ...]]] = {}
    arrays: dict[str, Array] = {}
    legacy = set()
    for blob in blobs:
        shape = request.stored.get(blob.name, blob.shape)
        if prod(shape) != prod(blob.shape):
            raise MappingError(
                f"blob {blob.name!r} was stored in a shape that does not fit", expected=blob.shape, got=shape
            )
        if shape != blob.shape:
            legacy.add(blob.name)
        held.setdefault(blob.layer, []).append(shape)
        arrays[blob.name] = tensors[blob.tensor].reshape(shape)
    layers = tuple(replace(layer, blobs=tuple(held.get(layer.name, ()))) for layer in net.layers)
    prototxt = request.prototxt or dst.with_suffix(".prototxt")
    write_caffemodel(replace(net, layers=layers), arrays, dst, legacy=legacy)
    write_prototxt(net, prototxt)
    return [dst, prototxt]
