"""Caffe as a source: reader, mapping and writer under the names that the registry expects, and who says what about its networks.

Claims come from the net in the file or prototxt, its notices of what it does not tell, and its label map's name. A MultiBoxLoss layer
says what the net was trained with: names and defaults are caffe.proto's of the SSD branch (weiliu89/caffe@4817bf8b), meanings those of
src/caffe/layers/multibox_loss_layer.cpp and src/caffe/util/bbox_util.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log, prod
from pathlib import Path
from typing import Any, Literal

from ssdconv.converters.caffe.graph import as_named, graph_config, graph_net
from ssdconv.converters.caffe.net import CaffeLayer, CaffeNet, short_float
from ssdconv.converters.caffe.prototxt import read_prototxt, write_prototxt
from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.converters.caffe.rule import CODES
from ssdconv.converters.caffe.sniff import HDF5_MAGIC, state_of_training
from ssdconv.converters.caffe.writer import deploy_net, emit, probe_map, write_caffemodel
from ssdconv.converters.opened import open_regular
from ssdconv.converters.plan import Plan, Request
from ssdconv.converters.tensors import Array, Drop, MappedTensor, TensorMapping, TensorTable, ToShape
from ssdconv.errors import FormatError, MappingError, UsageError
from ssdconv.ssd_ref.config import Graph, SSDConfig, Staged
from ssdconv.ssd_ref.evidence import (
    PIXELS_ASSUMED,
    PIXELS_RESIZE,
    PRIORS_UNTOLD,
    RULE_ASSUMED,
    Basis,
    Claim,
    Link,
    Notice,
    code_of,
)
from ssdconv.ssd_ref.gate import reader
from ssdconv.ssd_ref.graph.operation import learned_blobs, supported
from ssdconv.ssd_ref.graph.params import Params
from ssdconv.ssd_ref.loss_rule import LossRule, MatchRule, MiningRule
from ssdconv.ssd_ref.networks.caffe import NETWORKS
from ssdconv.ssd_ref.networks.registry import network

FLT_MIN = 2.0**-126
NORMALIZERS: dict[str, Literal["positives", "priors", "images", "one"]] = {
    "VALID": "positives",
    "FULL": "priors",
    "BATCH_SIZE": "images",
    "NONE": "one",
}
MINING: dict[str, Literal["negatives", "examples", "none"]] = {
    "MAX_NEGATIVE": "negatives",
    "HARD_EXAMPLE": "examples",
    "NONE": "none",
}
TYPE = "MultiBoxLoss"


def loss_of(net: CaffeNet) -> LossRule | None:
    """The rule of the net's MultiBoxLoss layer; None where it has none.

    Raises:
        FormatError: several that differ, or values out of range.
    """
    layers = [layer for layer in net.layers if layer.type == TYPE and layer.phase != "TEST"]
    rules = {loss_rule(layer): layer.name for layer in layers}
    if len(rules) > 1:
        raise Params({}, f"net {net.name!r}").fail(
            "the net has several MultiBoxLoss layers that differ", expected="one", got=", ".join(rules.values())
        )
    return next(iter(rules), None)


def loss_rule(layer: CaffeLayer) -> LossRule:
    """The rule of one layer.

    Raises:
        FormatError: a value that Caffe refuses, or fields that contradict each other.
    """
    p = Params(layer.params.get("multibox_loss_param", {}), f"layer {layer.name!r} ({TYPE})")
    nms = p.message("nms_param")
    mining = MINING[_mining(p)]
    share = p.flag("share_location", True)
    samples = p.integer("sample_size", 64)
    if mining != "none" and not share:
        raise p.fail(
            "negatives can be mined only where boxes are shared among classes",
            expected="share_location: true, or mining_type: NONE",
            got=f"share_location: false, mining_type: {_mining(p)}",
        )
    if mining == "examples" and samples < 1:
        raise p.fail("sample_size must be positive", got=samples)
    background = p.integer("background_label_id", 0, low=-1)
    conf: Literal["softmax", "logistic"] = (
        "softmax" if p.choice("conf_loss_type", "SOFTMAX", ("SOFTMAX", "LOGISTIC")) == "SOFTMAX" else "logistic"
    )
    classes = p.integer("num_classes", 0)
    if classes < 1:
        raise p.fail("num_classes is missing")
    if background >= classes or (background < 0 and conf == "softmax"):
        raise p.fail("background_label_id is no class", expected=f"0 to {classes - 1}", got=background)
    per_prior = p.choice("match_type", "PER_PREDICTION", ("BIPARTITE", "PER_PREDICTION")) == "PER_PREDICTION"
    return LossRule(
        MatchRule(
            threshold=short_float(p.number("overlap_threshold", 0.5)) if per_prior else None,
            boxes="priors" if p.flag("use_prior_for_matching", True) else "predicted",
            inside_only=p.flag("ignore_cross_boundary_bbox", False),
        ),
        MiningRule(
            kind=mining,
            ratio=short_float(p.number("neg_pos_ratio", 3.0)),
            overlap=short_float(p.number("neg_overlap", 0.5)),
            samples=samples,
            nms=short_float(nms.number("nms_threshold", 0.3)) if "nms_param" in p else 0.0,
            nms_top_k=nms.integer("top_k", -1, low=-1) if "nms_param" in p else -1,
            nms_boxes="priors" if p.flag("use_prior_for_nms", False) else "predicted",
        ),
        loc="smooth_l1" if p.choice("loc_loss_type", "SMOOTH_L1", ("L2", "SMOOTH_L1")) == "SMOOTH_L1" else "l2",
        conf=conf,
        normalizer=NORMALIZERS[_normalization(layer)],
        loc_weight=short_float(p.number("loc_weight", 1.0)),
        largest=-log(FLT_MIN),
        background=background,
        agnostic=p.flag("map_object_to_agnostic", False),
        code=CODES[p.choice("code_type", "CORNER", tuple(CODES))],
        variance_in_target=p.flag("encode_variance_in_target", False),
        inside_only=p.flag("bp_inside", False),
        share_location=share,
        use_difficult=p.flag("use_difficult_gt", True),
    )


def _mining(p: Params) -> str:
    """``mining_type``; nets from before it existed say ``do_neg_mining``."""
    kinds = tuple(MINING)
    if "do_neg_mining" not in p:
        return p.choice("mining_type", "MAX_NEGATIVE", kinds)
    wanted = p.flag("do_neg_mining", True)
    kind = p.choice("mining_type", "MAX_NEGATIVE" if wanted else "NONE", kinds)
    if wanted != (kind != "NONE"):
        raise p.fail(
            "do_neg_mining and mining_type contradict each other", expected="both or neither mine", got=(wanted, kind)
        )
    return kind


def _normalization(layer: CaffeLayer) -> str:
    """``loss_param.normalization``; its forerunner ``normalize`` counts where it is alone."""
    told: dict[str, Any] = dict(layer.params.get("loss_param", {}))
    p = Params(told, f"layer {layer.name!r} ({TYPE}), loss_param")
    if "normalization" not in told and "normalize" in told:
        return "VALID" if p.flag("normalize", True) else "BATCH_SIZE"
    return p.choice("normalization", "VALID", tuple(NORMALIZERS))


LINK_OF: dict[str, tuple[Link, Basis]] = {
    PIXELS_ASSUMED: ("pixels", "assumed"),
    PIXELS_RESIZE: ("pixels", "assumed"),
    PRIORS_UNTOLD: ("priors", "assumed"),
    RULE_ASSUMED: ("detection rule", "assumed"),
}
"""Code of a notice -> the link that it is about."""
SETS = {"voc": ("VOC", 21), "coco": ("COCO", 81)}
"""Word in the name of a label map, data source or net -> data set, and its count of classes with background."""


def claims(
    net: CaffeNet, own: CaffeNet, told_by: str, config: SSDConfig, notices: Sequence[str], rebuilt: Sequence[Link] = ()
) -> tuple[Claim, ...]:
    """The claims of a network that was read from a net.

    Args:
        net: the net that was read.
        own: the weight file's own.
        told_by: who that is ("deploy.prototxt", "the file's own net").
        config: what came of it.
        notices: the plan's warnings.
        rebuilt: links that were taken from a network known by name, since the net ends before them.
    """
    found: list[Claim] = []
    for notice in notices:
        if code_of(notice) in LINK_OF:
            link, basis = LINK_OF[code_of(notice)]
            found.append(Claim(link, "rebuilt" if link in rebuilt else basis, notice))
    unsure = {claim.link for claim in found}
    stated: dict[Link, tuple[str, bool]] = {
        "architecture": ("its layers", True),
        "pixels": ("its transform_param, on pixels as OpenCV reads them", _tells_pixels(net)),
        "priors": ("its PriorBox layers", _has(net, "PriorBox")),
        "detection rule": ("its DetectionOutput layer", _has(net, "DetectionOutput")),
    }
    found += [
        Claim(link, "stated", f"{told_by if here else 'the weight file, whose own net was asked'}: {text}")
        for link, (text, here) in stated.items()
        if link not in unsure and link not in rebuilt
    ]
    found += [
        Claim(link, "rebuilt", f"the network {config.name}, known by its layers")
        for link in rebuilt
        if link not in unsure
    ]
    named = next((text for text in _texts((net, own)) if _names_set(text, config.num_classes)), None)
    if named and config.class_names:
        found.append(
            Claim("classes", "stated", f"{_names_set(named, config.num_classes)}'s names: the net names {named!r}")
        )
    return tuple(found)


def _has(net: CaffeNet, kind: str) -> bool:
    return any(layer.type == kind for layer in net.layers)


def _tells_pixels(net: CaffeNet) -> bool:
    told = (layer.params.get("transform_param", {}) for layer in net.layers)
    return any(key in param for param in told for key in ("mean_value", "mean_file", "scale"))


def _names_set(text: str, count: int) -> str | None:
    """The data set that a text names, where the class count is its."""
    words = [(title, size) for word, (title, size) in SETS.items() if re.search(word, text, re.IGNORECASE)]
    return words[0][0] if len(words) == 1 and words[0][1] == count else None


def _texts(nets: Iterable[CaffeNet]) -> Iterator[str]:
    """What can name a data set: label maps first, then the sources of data, then the net's own name."""
    nets = tuple(nets)
    for net in nets:
        for layer in net.layers:
            output = layer.params.get("detection_output_param", {}).get("save_output_param", {})
            yield from (str(output[key]) for key in ("label_map_file", "name_size_file") if output.get(key))
            for param, key in (("annotated_data_param", "label_map_file"), ("data_param", "source")):
                if layer.params.get(param, {}).get(key):
                    yield str(layer.params[param][key])
    # A net that was written here is called like the network that its priors and layers fit: that names no data set.
    yield from (net.name for net in nets if net.name and net.name not in NETWORKS)


@reader
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
    own = table.found(CaffeNet)
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


def _entry(blob: NetBlob, table: TensorTable) -> MappedTensor:
    """One blob's way; old files store every blob with four dimensions, a bias as (1, 1, 1, N)."""
    stored = tuple(table[blob.name].shape) if blob.name in table else blob.shape
    if stored != blob.shape and [n for n in stored if n != 1] == [n for n in blob.shape if n != 1]:
        return MappedTensor(blob.name, blob.tensor, stored, (ToShape(blob.shape),))
    return MappedTensor(blob.name, blob.tensor, blob.shape)


@dataclass(frozen=True)
class NetBlob:
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


def blobs_of(config: SSDConfig) -> list[NetBlob]:
    """Every learned blob of a network, in the order of its layers."""
    if isinstance(config.layers, Staged):
        return [
            NetBlob(e.layer.name, index, tensor, shape)
            for e in emit(config)
            for index, (tensor, shape) in enumerate(zip(e.tensors, e.shapes, strict=True))
        ]
    return [
        NetBlob(b.layer, b.index, f"layers.{b.same_as or b.parameter}", b.shape, b.same_as)
        for b in learned_blobs(config.layers.layers)
    ]


def net_of(config: SSDConfig) -> CaffeNet:
    """The deploy net of any config that came from Caffe.

    Raises:
        MappingError: Caffe cannot express the network.
    """
    if isinstance(config.layers, Graph):
        foreign = next((spec for spec in config.layers.layers if spec.type not in supported()), None)
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
