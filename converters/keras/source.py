"""Keras as a source: reader, mapping and writer under the names that the registry expects.

What weight files leave open is known of the two projects' code by date; dates and commits are those of pierluigiferrari/ssd_keras and
jedol/SSD-Keras_Tensorflow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ssdconv.converters.assumed import Project, Reading, flipped, settle
from ssdconv.converters.keras.files import (
    KerasFile,
    is_training,
    read_keras,
    write_numbered,
    write_weights,
    write_whole,
)
from ssdconv.converters.keras.layers import KerasWeight
from ssdconv.converters.keras.model_config import parse
from ssdconv.converters.keras.rows import NORM, KerasRow, Kind, in_model_order, layers_in_order, probes_of, rows_of
from ssdconv.converters.keras.whole import ANCHORS, WholeModel, network_of
from ssdconv.converters.plan import Plan, Request
from ssdconv.converters.same_network import prior_gap
from ssdconv.converters.tensors import Array, Drop, MappedTensor, TensorMapping, TensorTable, apply_all, inverse
from ssdconv.errors import MappingError, UsageError
from ssdconv.ssd_ref.config import Graph, SourceText, SSDConfig, Staged
from ssdconv.ssd_ref.evidence import Claim
from ssdconv.ssd_ref.gate import reader
from ssdconv.ssd_ref.networks.caffe import RATIOS, SIZES
from ssdconv.ssd_ref.networks.keras import NETWORKS, SSD7_SCALES
from ssdconv.ssd_ref.networks.registry import network


def project_of(config: SSDConfig) -> Project:
    """The history of a network's project."""
    if config.name == "ssd7":
        return SSD7
    return _jedol(config) if config.name.startswith("jedol") else _ssd_keras(config)


def _heads(padding: int | None, staged: Staged) -> Staged:
    return replace(staged, heads=replace(staged.heads, padding=padding))


def _strided(padding: int | Literal["same"], staged: Staged) -> Staged:
    """The extra layers' strided convolutions with that padding."""
    stages = tuple(
        tuple(replace(c, padding=padding) if c.stride == 2 else c for c in stage) for stage in staged.extras.stages
    )
    return replace(staged, extras=replace(staged.extras, stages=stages))


HEADS = Reading(
    "heads.padding",
    "same",
    {
        "same": ("heads padded (SAME), since 2018-01-30 (8c49088)", lambda staged: _heads(None, staged)),
        "valid": ("heads not padded (VALID), before 2018-01-30", lambda staged: _heads(0, staged)),
    },
)
"""SSD7's classes4 … boxes7."""

STRIDED = Reading(
    "extras.padding",
    "caffe",
    {
        "caffe": (
            "conv6_2 and conv7_2 padded by 1 on all sides, since 2018-01-08 (794b28a)",
            lambda staged: _strided(1, staged),
        ),
        "same": (
            "conv6_2 and conv7_2 padded as TensorFlow's SAME, before 2018-01-08",
            lambda staged: _strided("same", staged),
        ),
    },
)
"""SSD300 before 794b28a; there, pools without padding behind a row of zeros gave what SAME pools give. SSD512 came later."""

SSD7 = Project(
    "ssd_keras' SSD7 notebook",
    scales={"": SSD7_SCALES},
    ratios=((2.0, 0.5),) * 4,
    readings=(HEADS,),
    means_note="models built before 2018-01-11 (a5155c3) compute x / 127.5 - 1, which is the same",
    clip="pixels",
    notes={
        "priors.scales": "its builder's own default is 0.1,0.3,0.5,0.7,0.9",
        "priors.clip": "where nothing was said, its builder clipped before 2018-01-30",
    },
)


def _scales(size: int) -> dict[str, tuple[float, ...]]:
    return {word: tuple(side / size for side in SIZES[f"ssd{size}_{word}"]) for word in ("voc", "coco")}


def _ssd_keras(config: SSDConfig) -> Project:
    size = 512 if "ssd512" in config.name else 300
    return Project(
        "ssd_keras' code since 2018-01-19 (d183dd9)",
        scales=_scales(size),
        scale="coco" if config.name.endswith("coco") else "voc",
        ratios=flipped(RATIOS[size]),
        readings=(STRIDED,) if size == 300 else (),
        means=("123,117,104",),
        means_note="123,117,104 is what models built between 2018-01-15 and 2018-01-19 subtract, none what older ones do",
        clip="pixels",
        notes={
            "priors.steps": "given since 2018-01-11, even before",
            "priors.clip": "since 2017-04-25, 7bc48a1",
        },
    )


def _jedol(config: SSDConfig) -> Project:
    resnet = "resnet50" in config.name
    return Project(
        "jedol's code (553804f, layers and priors unchanged since 2017-07)",
        scales={"voc": _scales(300)["voc"]},
        scale="voc",
        ratios=flipped(RATIOS[300]),
        means_note="its ResNet50 subtracts none" if resnet else "",
    )


_MARKS = (
    ("jedol_ssd300_resnet50_voc", "res5c_mbox_logit", "conv1"),
    ("jedol_ssd300_vgg16_voc", "fc7_mbox_logit", "conv1_1"),
    ("ssd_keras_ssd512", "conv10_2_mbox_conf", "conv1_1"),
    ("ssd_keras_ssd300", "fc7_mbox_conf", "conv1_1"),
    ("ssd7", "classes4", "conv1"),
)
"""Network, a layer that only it (and what stands above) has, and its first layer."""

PRUNING = ("mask", "threshold", "pruning_step")
"""What tfmot's wrapper keeps beside a pruned layer's weights."""

_OLD_NAMES = {"running_mean": "moving_mean", "running_std": "moving_variance", "W": "kernel", "b": "bias"}
"""Keras 1's names of weights; its ``running_std`` holds variances."""


@reader
def read(path: Path) -> TensorTable:
    """Open a Keras file; no Keras needed. See ``reader.read_keras``."""
    return read_keras(path)


def plan(table: TensorTable, request: Request) -> Plan:
    """Recognise the network, or take the one asked for, and map its weights layer by layer.

    Raises:
        MappingError: no network fits, or kernels are Theano's.
        UsageError: unknown network.
    """
    if table.found(KerasFile).backend.lower() == "theano":
        raise MappingError(
            "the file was written by Keras on Theano, whose kernels are mirrored",
            where=str(table.path),
            hint="load it in Keras on TensorFlow, which turns the kernels, save it again, and convert that",
        )
    if describes_itself(table):
        model = parse(table.found(KerasFile).model, str(table.path))
        return whole_plan(table, network_of(model, request.settings, str(table.path)), request)
    layers: dict[str, list[str]] = (
        table.found(KerasFile).layers if table.found(KerasFile).named else layers_in_order(table, request)
    )
    suffix = suffix_of(layers)
    usual = config_of(table, layers, request, suffix)
    config, claims = settle(usual, request.settings, project_of(usual))
    warnings = (
        ()
        if table.found(KerasFile).named
        else ("the file holds no layer names: layers were told by their class, order and shape",)
    )
    return Plan(config, named_mapping(table, config, layers, suffix), warnings, tuple(probes_of(config)), claims)


def named_mapping(
    table: TensorTable, config: SSDConfig, layers: Mapping[str, list[str]], suffix: str = ""
) -> TensorMapping:
    """The way of each weight of a named network; ``layers`` and ``suffix`` as in ``config_of``."""
    entries = tuple(
        MappedTensor(tensor_of(row, table, layers.get(row.layer + suffix, []), suffix), row.target, row.shape, row.ops)
        for row in rows_of(config)
    )
    used = {entry.source for entry in entries}
    drops = tuple(
        Drop(name, "training state, not part of the detector")
        for name in table
        if name not in used and is_training(name)
    )
    return TensorMapping(entries, drops)


def describes_itself(table: TensorTable) -> bool:
    """Whether the file holds a whole model with its priors, so that nothing of it comes from a table."""
    return f'{ANCHORS}"' in table.found(KerasFile).model


def whole_plan(table: TensorTable, whole: WholeModel, request: Request) -> Plan:
    """The plan of a whole model: each weight by its layer's name and its own word.

    Raises:
        UsageError: a network is asked for, but the file describes its own.
    """
    if request.network:
        raise UsageError(
            f"--network {request.network}: the file describes its own network",
            where=str(table.path),
            expected="no --network: a table of ours must not overrule the file",
            got=whole.config.name,
            hint="what the file does not say is set by --set KEY=VALUE; `ssdconv inspect` lists the keys",
        )
    inner = next((weight.owner for weight in whole.made.weights if len(weight.owner) > 1), None)
    if inner and table.found(KerasFile).flavour == "v3":
        raise MappingError(
            f"model {inner[0]!r} within the model: its weights in a .keras archive are not read",
            where=str(table.path),
            hint="save the model as .h5: model.save('x.h5')",
        )
    entries = tuple(
        MappedTensor(stored_as(weight, table), weight.target, weight.shape, weight.ops) for weight in whole.made.weights
    )
    used = {entry.source for entry in entries}
    graph = whole.config.layers
    assert isinstance(graph, Graph)
    known = {part for weight in whole.made.weights for part in weight.owner}
    drops = tuple(Drop(name, _why_dropped(name, table, known)) for name in table if name not in used)
    origin = SourceText(
        table.found(KerasFile).model,
        {entry.target: entry.source for entry in entries},
        {key: told for key in ("version", "backend") if (told := getattr(table.found(KerasFile), key))}
        | {f"--set {key}": value for key, value in request.settings.items()},
    )
    config = replace(whole.config, layers=replace(graph, origin=origin))
    tensors = Claim("tensors", "stated", f"{len(entries)} weights by the names of their layers")
    return Plan(config, TensorMapping(entries, drops), (), whole.probes, (tensors, *whole.evidence))


def _why_dropped(name: str, table: TensorTable, known: set[str]) -> str:
    last = name.rsplit("/", 1)[-1].split(":")[0]
    if is_training(name):
        return "training state, not part of the detector"
    layer = next((la for la, names in table.found(KerasFile).layers.items() if name in names), "")
    if layer not in known:
        return "its layer is not part of the detector"
    if last in PRUNING:
        return "state of pruning, not part of the detector"
    raise MappingError(f"layer {layer!r} stores a weight that it should not have", where=str(table.path), got=name)


def stored_as(weight: KerasWeight, table: TensorTable) -> str:
    """The file's tensor that is this weight: by its word, its number in a v3 file, or its rank; a name that is not there where none is.

    Raises:
        MappingError: several could be it.
    """
    names = list(table.found(KerasFile).layers.get(weight.owner[0], ()))
    for inner in weight.owner[1:]:
        names = [name for name in names if inner in name.split("/")[:-1]]
    names = [name for name in names if name.rsplit("/", 1)[-1].split(":")[0] not in PRUNING]
    if names and all(name.rsplit("/", 1)[-1].isdigit() for name in names):
        return names[weight.index] if weight.index < len(names) else f"{'/'.join(weight.owner)}/{weight.kind}"
    words = (weight.kind, *(old for old, kind in _OLD_NAMES.items() if kind == weight.kind))
    fitting = [n for n in names if _last_word(n).endswith(tuple(f"/{w}" for w in words))]
    fitting = fitting or [n for n in names if _last_word(n).endswith(tuple(f"_{w}" for w in words))]
    if not fitting:
        fitting = [n for n in names if len(table[n].shape) == len(weight.shape)]
    return _only(fitting, "/".join(weight.owner), weight.kind, table)


def _only(fitting: list[str], layer: str, kind: str, table: TensorTable) -> str:
    """The tensor that fits; where there is none a name that is not in the file, so that the check of the mapping tells it."""
    if len(fitting) > 1:
        raise MappingError(
            f"layer {layer!r} has several tensors that could be its {kind}",
            where=str(table.path),
            got=", ".join(fitting[:4]),
        )
    return fitting[0] if fitting else f"{layer}/{kind}"


def _last_word(name: str) -> str:
    return "/" + name.rsplit("/", 1)[-1].split(":")[0]


def suffix_of(layers: Mapping[str, list[str]]) -> str:
    """What Keras appended to all layer names, such as ``_1`` for the second model of a session; usually nothing."""
    for _, mark, first in _MARKS:
        if mark in layers:
            return ""
        for name in layers:
            match = re.fullmatch(re.escape(mark) + r"(_\d{1,3})", name)
            if match and first + match[1] in layers:
                return match[1]
    return ""


def config_of(table: TensorTable, layers: Mapping[str, list[str]], request: Request, suffix: str) -> SSDConfig:
    """The network in the class count and width of the file, as the project's code of today builds it."""
    family = next((name for name, mark, _ in _MARKS if mark + suffix in layers), None)
    if request.network:
        config = network(request.network, "keras", request.num_classes)
        family = request.network
    elif family is None:
        raise MappingError(
            "the file holds no SSD of a Keras project known here",
            where=str(table.path),
            expected="layers such as 'fc7_mbox_logit' (jedol), 'fc7_mbox_conf' (ssd_keras) or 'classes4' (SSD7)",
            got=f"{len(layers)} layers with weights, first {next(iter(layers), None)!r}",
            hint="rykov8's ssd_keras is an older network with other priors; it is not supported",
        )
    else:
        config = network(family if family in NETWORKS else f"{family}_voc", "keras")
    rows = rows_of(config)
    heads = next(row for row in rows if row.target == "heads.conf.0.bias")
    first = rows[1]  # conv1_1's or conv1's bias
    classes = request.num_classes or _side(table, layers.get(heads.layer + suffix, [])) // len(
        config.priors[0].box_sizes
    )
    width = _side(table, layers.get(first.layer + suffix, [])) or first.shape[0]
    if width > first.shape[0] or classes > 2_000:
        raise MappingError(
            "no SSD has such layers", where=str(table.path), got=f"{width} channels in {first.layer}, {classes} classes"
        )
    name = config.name
    if not request.network and str(family).startswith("ssd_keras"):
        name = f"{family}_{'coco' if classes == 81 else 'voc'}"
    return NETWORKS[name](name, classes or None, width=width)


def _side(table: TensorTable, names: list[str]) -> int:
    """Length of a layer's only vector."""
    sides = [table[name].shape[0] for name in names if len(table[name].shape) == 1]
    return sides[0] if len(sides) == 1 else 0


def tensor_of(row: KerasRow, table: TensorTable, names: list[str], suffix: str) -> str:
    """The layer's tensor that is this weight: by its rank for convolutions, by its name or number for the others.

    A name that is not in the file is returned where there is none, so that the check of the mapping tells it.
    """
    if row.kind in ("kernel", "bias", "scale"):
        rank = 4 if row.kind == "kernel" else 1
        fitting = [name for name in names if len(table[name].shape) == rank]
    else:
        fitting = [name for name in names if kind_of(name) == row.kind]
        if not fitting and len(names) == 4 and all(name.rsplit("/", 1)[-1].isdigit() for name in names):
            fitting = [names[list(NORM).index(row.kind)]]
    return _only(fitting, row.layer + suffix, row.kind, table)


def kind_of(name: str) -> Kind | None:
    """The kind of a batch normalisation's weight, from the last part of its name: ``gamma:0``, ``bn_conv1_running_std``."""
    last = name.rsplit("/", 1)[-1].split(":")[0]
    for word in NORM:
        if last == word or last.endswith("_" + word):
            return word
    for old, kind in _OLD_NAMES.items():
        if last.endswith(old) and kind in NORM:
            return kind
    return None


def write(config: SSDConfig, tensors: Mapping[str, Array], dst: Path, request: Request) -> list[Path]:
    """Write a file as ``save_weights`` writes it; a whole model as ``save`` does, in the form that it came in.

    ``.h5`` is read by ``load_weights(path, by_name=True)`` of Keras 2 and 3. ``.weights.h5`` is read by ``load_weights(path)`` of Keras 2.15
    and 3, which pairs layers by class and position.

    Raises:
        MappingError: no Keras project has the network, or its layers' positions are not certain.
        UsageError: another suffix.
        OutputError: the file could not be written.
    """
    if isinstance(config.layers, Graph) and config.layers.origin is not None and config.source == "keras":
        return [write_again(config.layers.origin, tensors, dst)]
    if dst.suffix not in (".h5", ".hdf5"):
        raise UsageError("a Keras weight file ends in .h5", where=str(dst))
    if config.source == "caffe":
        config = as_ssd_keras(config)
    elif config.source != "keras":
        raise MappingError(
            "only networks of Keras projects, and Caffe's VGG16 SSDs, are written for Keras",
            where=config.name,
            got=f"a network of {config.source}",
        )
    rows = rows_of(config)
    ordered: dict[str, dict[str, Array]] = {}
    for row in rows:
        array = apply_all(inverse(row.ops, row.shape), tensors[row.target])
        kind = "conv4_3_norm_gamma" if row.kind == "scale" and config.name.startswith("ssd_keras") else row.kind
        ordered.setdefault(row.layer, {})[f"{row.layer}/{kind}:0"] = array
    if dst.name.endswith(".weights.h5"):
        order = in_model_order(config)
        write_numbered(dst, [(word, layer, list(ordered[layer].values())) for word, layer in order])
    else:
        write_weights(dst, ordered)
    return [dst]


def write_again(origin: SourceText, tensors: Mapping[str, Array], dst: Path) -> Path:
    """A whole model with its own text, its weights under the names that they came under.

    Raises:
        UsageError: the suffix is not that of the form it came in.
        MappingError: the tensors are not those of the text.
        OutputError: the file could not be written.
    """
    settings = {k.removeprefix("--set "): v for k, v in origin.facts.items() if k.startswith("--set ")}
    whole = network_of(parse(origin.text, str(dst)), settings, str(dst))
    archive = any("/vars/" in name for name in origin.stored.values())
    if dst.suffix not in ((".keras",) if archive else (".h5", ".hdf5")):
        raise UsageError(
            "the model came in another form", where=str(dst), expected=".keras" if archive else ".h5", got=dst.suffix
        )
    layers: dict[str, dict[str, Array]] = {}
    for weight in whole.made.weights:
        if len(weight.owner) > 1:
            raise MappingError(
                f"model {weight.owner[0]!r} within the model: the order of its weights in the file is not kept",
                where=str(dst),
                hint="the checkpoint holds all of them; only the way back into one Keras file is missing",
            )
        if weight.target not in tensors or weight.target not in origin.stored:
            raise MappingError("the checkpoint lacks a tensor of the model's text", where=str(dst), got=weight.target)
        array = apply_all(inverse(weight.ops, weight.shape), tensors[weight.target])
        layers.setdefault(weight.owner[0], {})[origin.stored[weight.target]] = array
    write_whole(dst, origin.text, layers, origin.facts)
    return dst


def as_ssd_keras(config: SSDConfig) -> SSDConfig:
    """ssd_keras' network that computes the same from the tensors of one of Caffe's.

    Two differences are let pass, as ssd_keras' own conversions of Caffe's files have them: sizes that Caffe cuts to whole pixels, and the
    place of eps in the L2 normalisation.

    Raises:
        MappingError: other layers, pixels or prior sizes.
    """
    theirs = NETWORKS.get(f"ssd_keras_{config.name}")
    if theirs is None or isinstance(config.layers, Graph):
        raise MappingError("no Keras project known here has this network", where=config.name)
    width = config.layers.backbone.options.get("width", 64)
    twin: SSDConfig = theirs(f"ssd_keras_{config.name}", config.num_classes, width=width)
    if config.layers.extras != twin.staged.extras or config.pixels != twin.pixels or prior_gap(config, twin) > 2.0:
        raise MappingError("ssd_keras has other pixels, priors or layers than this network", where=config.name)
    return twin
