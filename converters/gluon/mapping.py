"""The layers of a GluonCV network as the reference's modules and as GluonCV's names, and the mapping of its files' tensors.

From one ``GluonLayer`` follow a tensor's two names in files, its reference tensor, and the node of MXNet's graph that computes the layer. The
order is that of the forward pass. Anchors, which GluonCV stores, are checked and dropped. One network is written in three dialects, with the
same tensors:

- ``structural`` (``save_parameters``): attribute path, ``features.stages.0.0.weight``, ``class_predictors.0.predictor.bias``;
- ``legacy`` (``save_params``, ``collect_params().save``): block prefixes with counters, ``ssd14_resnetv10_conv0_weight``,
  with or without the network's own prefix (``ssd14_``), which may be any word;
- ``export`` (``export``, Module checkpoints): legacy names behind ``arg:`` or ``aux:``.

Counters of blocks that occur once carry no meaning: they tell how many networks a process had built before. Networks that were trained
with statistics over several GPUs have ``syncbatchnorm`` where others have ``batchnorm``; it is the same layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ssdconv.converters.tensors import Array, Drop, LazyTensor, MappedTensor, TensorMapping, TensorTable, ToShape
from ssdconv.errors import MappingError
from ssdconv.ssd_ref.backbones.plain import BLOCKS
from ssdconv.ssd_ref.config import Backbone, Graph, PriorMap, SSDConfig

Kind = Literal["conv", "norm", "expander_norm", "constant", "scale", "act"]

_SUFFIXES: dict[Kind, tuple[tuple[str, str], ...]] = {
    "conv": (("weight", "weight"), ("bias", "bias")),
    "norm": (("gamma", "weight"), ("beta", "bias"), ("running_mean",) * 2, ("running_var",) * 2),
    "expander_norm": (
        ("gamma", "weight"),
        ("beta", "bias"),
        ("moving_mean", "running_mean"),
        ("moving_var", "running_var"),
    ),
    "constant": (("", "scale"),),
    "scale": (("scale", "weight"),),
    "act": (),
}
"""Kind of layer -> (name of the tensor in GluonCV, in the reference)."""


@dataclass(frozen=True)
class GluonLayer:
    """One layer.

    Attributes:
        kind: which tensors it has.
        module: path of the reference module, from the SSD.
        flat: GluonCV's name in legacy files, without the network's prefix.
        dotted: its attribute path in the backbone's own class ("" for layers that have none).
        node: node of MXNet's graph with its output, without the network's prefix ("" where none equals the module's).
        needs: a module without which the node does not exist either, "" for ``module`` itself.
    """

    kind: Kind
    module: str
    flat: str
    dotted: str = ""
    node: str = ""
    needs: str = ""

    def tensors(self) -> Iterator[tuple[str, str, str]]:
        """(reference tensor, legacy name, name below ``dotted``) of each tensor that such a layer can have."""
        for theirs, ours in _SUFFIXES[self.kind]:
            yield f"{self.module}.{ours}", f"{self.flat}_{theirs}".rstrip("_"), f"{self.dotted}.{theirs}".rstrip(".")


def parts_of(config: SSDConfig) -> Iterator[GluonLayer]:
    """All layers of a network.

    Raises:
        MappingError: GluonCV has no such network.
    """
    if isinstance(config.layers, Graph) or config.source != "gluon":
        raise MappingError("not a network of GluonCV", where=config.name)
    backbone = config.layers.backbone
    yield from backbone_parts(backbone)
    yield from _extras(config)
    for index in range(len(config.priors)):
        for offset, (word, attribute) in enumerate((("conf", "class"), ("loc", "box"))):
            flat = f"convpredictor{2 * index + offset}_conv0"
            dotted = f"{attribute}_predictors.{index}.predictor"
            yield GluonLayer("conv", f"heads.{word}.{index}", flat, dotted, f"{flat}_fwd")


def backbone_parts(backbone: Backbone) -> Iterator[GluonLayer]:
    """The layers of a backbone alone."""
    options = dict(backbone.options)
    if backbone.kind == "vgg16":
        yield from _vgg()
    elif backbone.kind == "mobilenet_v1":
        yield from _mobilenet()
    elif backbone.kind == "resnet":
        version = options["version"]
        yield from {"v1": _resnet_v1, "v2": _resnet_v2}.get(version, _resnet_v1b)(options)
    else:
        raise MappingError(f"GluonCV has no backbone {backbone.kind!r}")


def _unit(module: str, flat: str, norm: str, act: str, dotted: tuple[str, str]) -> Iterator[GluonLayer]:
    """Convolution, batch normalisation and, where ``act`` names its node, activation."""
    yield GluonLayer("conv", f"{module}.conv", flat, dotted[0], f"{flat}_fwd")
    yield GluonLayer("norm", f"{module}.norm", norm, dotted[1], f"{norm}_fwd")
    if act:
        yield GluonLayer("act", f"{module}.act", act, node=act)


def _vgg() -> Iterator[GluonLayer]:
    net = "vggatrousextractor0"
    yield GluonLayer("constant", "backbone.init_scale", f"{net}_init_scale", "init_scale", f"{net}_broadcast_mul0")
    counter = 0
    for stage, count in enumerate((2, 2, 3, 3, 3)):
        for index in range(count):
            flat, module = f"{net}_conv{counter}", f"backbone.conv{stage + 1}_{index + 1}"
            yield GluonLayer("conv", f"{module}.conv", flat, f"stages.{stage}.{2 * index}", f"{flat}_fwd")
            yield GluonLayer("act", f"{module}.act", "", node=f"{net}_relu{counter}_fwd")
            counter += 1
        if stage == 3:
            scale = f"{net}_normalize0"
            yield GluonLayer("scale", "heads.l2norm.0", f"{scale}_normalize", "norm4", f"{scale}_broadcast_mul0")
        yield GluonLayer("act", f"backbone.pool{stage + 1}", "", node=f"{net}_pooling{stage}")
    for index, module in enumerate(("backbone.fc6", "backbone.fc7")):
        flat = f"{net}_dilated_conv{index}"
        yield GluonLayer("conv", f"{module}.conv", flat, f"stages.5.{2 * index}", f"{flat}_fwd")
        yield GluonLayer("act", f"{module}.act", "", node=f"{net}_dilated_relu{index}_fwd")


def _mobilenet() -> Iterator[GluonLayer]:
    names = ["conv0"] + [f"conv{i}{part}" for i in range(1, 14) for part in ("_dw", "")]
    for index, name in enumerate(names):
        dotted = (f"features.{3 * index}", f"features.{3 * index + 1}")
        act = f"mobilenet0_relu{index}_fwd"
        yield from _unit(f"backbone.{name}", f"mobilenet0_conv{index}", f"mobilenet0_batchnorm{index}", act, dotted)


def _resnet_v1(options: dict[str, Any]) -> Iterator[GluonLayer]:
    net, depth = "resnetv10", options["depth"]
    yield from _unit(
        "backbone.conv1", f"{net}_conv0", f"{net}_batchnorm0", f"{net}_relu0_fwd", ("features.0", "features.1")
    )
    yield GluonLayer("act", "backbone.pool1", "", node=f"{net}_pool0_fwd")
    body = 3 if depth >= 50 else 2
    for stage, blocks in enumerate(BLOCKS[depth], 1):
        counter, relus, head = 0, 0, f"{net}_stage{stage}"
        for block in range(blocks):
            module, dotted = f"backbone.stage{stage}.{block}", f"features.{stage + 3}.{block}"
            for conv in range(1, body + 1):
                act = f"{head}_relu{relus}_fwd" if conv < body else ""
                path = (f"{dotted}.body.{3 * conv - 3}", f"{dotted}.body.{3 * conv - 2}")
                yield from _unit(
                    f"{module}.conv{conv}", f"{head}_conv{counter}", f"{head}_batchnorm{counter}", act, path
                )
                counter += 1
                relus += bool(act)
            if block == 0 and (stage > 1 or depth >= 50):
                path = (f"{dotted}.downsample.0", f"{dotted}.downsample.1")
                yield from _unit(
                    f"{module}.downsample", f"{head}_conv{counter}", f"{head}_batchnorm{counter}", "", path
                )
                counter += 1
            yield GluonLayer("act", f"{module}.act", "", node=f"{head}_activation{block}")


def _resnet_v1b(options: dict[str, Any]) -> Iterator[GluonLayer]:
    version, depth = options["version"], options["depth"]
    net = f"resnet{version}"
    stem = ["conv1"] if version == "v1b" else ["conv1_1", "conv1_2", "conv1_3"]
    for index, name in enumerate(stem):
        last = index == len(stem) - 1
        path = ("conv1" if version == "v1b" else f"conv1.{3 * index}", "bn1" if last else f"conv1.{3 * index + 1}")
        yield from _unit(
            f"backbone.{name}", f"{net}_conv{index}", f"{net}_batchnorm{index}", f"{net}_relu{index}_fwd", path
        )
    yield GluonLayer("act", "backbone.pool1", "", node=f"{net}_pool0_fwd")
    body = 3 if depth >= 50 else 2
    for stage, blocks in enumerate(BLOCKS[depth], 1):
        counter, head = 0, f"{net}_layers{stage}"
        for block in range(blocks):
            module, dotted = f"backbone.stage{stage}.{block}", f"layer{stage}.{block}"
            for conv in range(1, body + 1):
                act = f"{head}_relu{counter}_fwd" if conv < body else ""
                path = (f"{dotted}.conv{conv}", f"{dotted}.bn{conv}")
                yield from _unit(
                    f"{module}.conv{conv}", f"{head}_conv{counter}", f"{head}_batchnorm{counter}", act, path
                )
                counter += 1
            if block == 0 and (stage > 1 or depth >= 50):
                down, path = f"{net}_down{stage}", (f"{dotted}.downsample.0", f"{dotted}.downsample.1")
                yield from _unit(f"{module}.downsample", f"{down}_conv0", f"{down}_batchnorm0", "", path)
            yield GluonLayer("act", f"{module}.act", "", node=f"{head}_relu{counter - 1}_fwd")


def _resnet_v2(options: dict[str, Any]) -> Iterator[GluonLayer]:
    net, depth = "resnetv20", options["depth"]
    yield GluonLayer("norm", "backbone.norm0", f"{net}_batchnorm0", "features.0", f"{net}_batchnorm0_fwd")
    yield from _unit(
        "backbone.conv1", f"{net}_conv0", f"{net}_batchnorm1", f"{net}_relu0_fwd", ("features.1", "features.2")
    )
    yield GluonLayer("act", "backbone.pool1", "", node=f"{net}_pool0_fwd")
    body = 3 if depth >= 50 else 2
    for stage, blocks in enumerate(BLOCKS[depth], 1):
        convs, norms, head = 0, 0, f"{net}_stage{stage}"
        for block in range(blocks):
            module, dotted = f"backbone.stage{stage}.{block}", f"features.{stage + 4}.{block}"
            for step in range(1, body + 1):
                norm, conv = f"{head}_batchnorm{norms}", f"{head}_conv{convs}"
                yield GluonLayer("norm", f"{module}.norm{step}", norm, f"{dotted}.bn{step}", f"{norm}_fwd")
                yield GluonLayer("act", f"{module}.act{step}", "", node=f"{head}_activation{norms}")
                yield GluonLayer("conv", f"{module}.conv{step}", conv, f"{dotted}.conv{step}", f"{conv}_fwd")
                norms, convs = norms + 1, convs + 1
            if block == 0 and (stage > 1 or depth >= 50):
                conv = f"{head}_conv{convs}"
                yield GluonLayer("conv", f"{module}.downsample", conv, f"{dotted}.downsample", f"{conv}_fwd")
                convs += 1
            yield GluonLayer("act", module, "", node=f"{head}__plus{block}", needs=f"{module}.conv{body}")


def _extras(config: SSDConfig) -> Iterator[GluonLayer]:
    kind, stages = config.staged.backbone.kind, config.staged.extras.stages
    for index, stage in enumerate(stages):
        for place, spec in enumerate(stage):
            module = f"extras.{spec.name}"
            if kind == "vgg16":
                flat = f"vggatrousextractor0_extra{index}_conv{place}"
                yield GluonLayer("conv", f"{module}.conv", flat, f"extras.{index}.{2 * place}", f"{flat}_fwd")
                act = f"vggatrousextractor0_extra{index}_relu{place}_fwd"
            elif spec.norm is None:
                flat = f"resnetv1bssd0_conv{2 * index + place}"
                yield GluonLayer("conv", f"{module}.conv", flat, f"more_stages.{index}.{2 * place}", f"{flat}_fwd")
                act = f"resnetv1bssd0_relu{2 * index + place}_fwd"
            else:
                word = "expand" if place else "expand_trans"
                conv, norm = f"{word}_conv{index}", f"{word}_bn{index}"
                yield GluonLayer("conv", f"{module}.conv", conv, node=conv)
                yield GluonLayer("expander_norm", f"{module}.norm", norm, node=norm)
                act = f"{word}_relu{index}"
            yield GluonLayer("act", f"{module}.act", "", node=act)


Dialect = Literal["structural", "legacy", "export", "unnamed"]

_COUNTER = re.compile(r"(?<![a-z0-9])(resnetv[12]|mobilenet|vggatrousextractor|normalize|resnetv1bssd)\d+_")
_ANCHOR = re.compile(r"(ssd|lite)anchorgenerator\d+_anchor_(\d+)$")
_NETWORK = re.compile(r"^ssd\d+_")
_HEAD = re.compile(r"(?:.*_)?(convpredictor\d+_conv0_(?:weight|bias))")
_FIRST_BOX_HEAD = "convpredictor1_conv0_weight"


@dataclass(frozen=True)
class ParamName:
    """A tensor's name in both schemes; ``legacy`` as the first network of a process has it (``ssd0_…``)."""

    structural: str
    legacy: str


def dialect_of(names: Sequence[str]) -> Dialect:
    """Which scheme a file's names follow; ``unnamed`` for an empty list."""
    if not names:
        return "unnamed"
    if any(name.startswith(("arg:", "aux:")) for name in names):
        return "export"
    return "structural" if any("." in name for name in names) else "legacy"


def prefix_counts(names: Iterable[str]) -> dict[str, int]:
    """How many names begin with ``arg:``, with ``aux:``, and with neither (key ``""``)."""
    counts = {"arg": 0, "aux": 0, "": 0}
    for name in names:
        counts[name[:3] if name.startswith(("arg:", "aux:")) else ""] += 1
    return counts


def bare(name: str) -> str:
    """The name without ``arg:`` or ``aux:``."""
    return name[4:] if name.startswith(("arg:", "aux:")) else name


def without_counters(name: str, prefix: str = "") -> str:
    """The name as the first network of a process would have it, without the network's own prefix.

    >>> without_counters("arg:ssd14_resnetv13_stage1_conv0_weight")
    'resnetv10_stage1_conv0_weight'
    """
    name = bare(name).replace("syncbatchnorm", "batchnorm")
    head = "features." if name.startswith("features.") else ""
    name = name.removeprefix(head)
    if match := _HEAD.fullmatch(name):
        return match[1]  # after reset_class the class predictors have the network's prefix twice
    name = name.removeprefix(prefix) if prefix else _NETWORK.sub("", name, count=1)
    return head + _ANCHOR.sub(r"\1anchorgenerator\2_anchor_\2", _COUNTER.sub(r"\g<1>0_", name))


def resolve(names: Iterable[str], wanted: Sequence[ParamName], *, where: str = "") -> dict[str, str]:
    """Find a network's tensors among a file's names.

    Args:
        names: all names of the file, in any dialect and any order.
        wanted: the network's tensors.
        where: file name for the error message.

    Returns:
        Structural name -> name in the file, one per wanted tensor. A tensor that the file lacks gets the name that it
        would have there, so that a mapping's check can tell what is missing in the file's own terms.

    Raises:
        MappingError: two names of the file mean the same tensor, or the file has no names.
    """
    names = list(names)
    if names == [str(index) for index in range(len(names))]:
        raise MappingError(
            "the file is a list of arrays without names, and arrays are never paired by position",
            where=where or None,
            hint="load it into its network with MXNet and save it with `net.save_parameters`",
        )
    dialect = dialect_of(names)
    prefix = network_prefix(names)
    known = {without_counters(w.legacy): w.structural for w in wanted}
    known |= {without_counters(w.structural): w.structural for w in wanted}
    found: dict[str, str] = {}
    for name in names:
        structural = known.get(without_counters(name, prefix))
        if structural is None:
            continue
        if structural in found:
            raise MappingError(
                f"{found[structural]!r} and {name!r} are both {structural!r}",
                where=where or None,
                expected="one of them",
            )
        found[structural] = name
    for w in wanted:
        found.setdefault(w.structural, in_dialect(w, dialect, prefix))
    return found


def plain_names(names: Iterable[str]) -> set[str]:
    """A file's names without counters and without the network's own prefix, whatever it is."""
    names = list(names)
    prefix = network_prefix(names)
    return {without_counters(name, prefix) for name in names}


def network_prefix(names: Iterable[str]) -> str:
    """The prefix that the user gave the whole network, read off the first box predictor; "" without one."""
    for name in names:
        name = bare(name)
        if name.endswith(_FIRST_BOX_HEAD) and "." not in name:
            return name[: -len(_FIRST_BOX_HEAD)]
    return ""


def in_dialect(name: ParamName, dialect: Dialect, prefix: str = "ssd0_") -> str:
    """The name that a tensor has in a file of that dialect, with the network's own prefix."""
    if dialect == "structural":
        return name.structural
    legacy = prefix + without_counters(name.legacy)
    if dialect == "legacy":
        return legacy
    statistics = ("_running_mean", "_running_var", "_moving_mean", "_moving_var")
    return ("aux:" if legacy.endswith(statistics) else "arg:") + legacy


Shape = tuple[int, ...]

_V1B_PLACES = {
    "conv1": "stage1.0",
    "bn1": "stage1.1",
    "layer1": "stage1.4",
    "layer2": "stage1.5",
    "layer3": "stage2.0",
    "layer4": "stage2.1",
}
"""Attribute of ResNet v1b -> where ``ResNetV1bSSD`` puts it."""


@dataclass(frozen=True)
class GluonRow:
    """One tensor: where it goes in the reference, and its names in files."""

    target: str
    name: ParamName


def rows_of(config: SSDConfig) -> list[GluonRow]:
    """Every tensor that the network's layers can have (biases that it lacks included); anchors are not among them."""
    backbone = config.staged.backbone
    from_symbol = backbone.kind != "vgg16" and bool(config.staged.extras.stages[0][0].norm)
    rows = []
    for part in parts_of(config):
        for target, legacy, dotted in part.tensors():
            if target.startswith("heads.") and not target.startswith("heads.l2norm"):
                structural = dotted
            elif from_symbol:
                structural = f"features.{legacy}"
            elif backbone.kind == "resnet":
                first, rest = dotted.split(".", 1)
                structural = f"features.{_V1B_PLACES.get(first, first)}.{rest}"
            else:
                structural = f"features.{dotted}"
            rows.append(GluonRow(target, ParamName(structural, f"ssd0_{legacy}")))
    return rows


def anchor_names(config: SSDConfig) -> list[ParamName]:
    """Names of the stored anchors, one per map."""
    word = "lite" if config.staged.heads.kernel == 1 else "ssd"
    return [
        ParamName(f"anchor_generators.{i}.anchors", f"ssd0_{word}anchorgenerator{i}_anchor_{i}")
        for i in range(len(config.priors))
    ]


def anchors(config: SSDConfig) -> list[Array]:
    """The anchors as GluonCV stores them, one array per map.

    Returns:
        (1, 1, A, A, 4 * cells) float32: (cx, cy, w, h) in input pixels for each prior of each cell; A is 128, then half the
        one before, but at least 16, so that larger inputs find theirs too.
    """
    arrays, side = [], 128
    for entry in config.priors:
        arrays.append(table_of(entry, side, side))
        side = max(side // 2, 16)
    return arrays


def table_of(entry: PriorMap, rows: int, columns: int) -> Array:
    """(1, 1, rows, columns, 4 * anchors) float32 centres and sides in pixels, as GluonCV's SSDAnchorGenerator stores them."""
    values = np.empty((rows, columns, len(entry.box_sizes), 4))
    values[..., 0] = ((np.arange(columns) + entry.offsets[1]) * entry.step[1])[None, :, None]
    values[..., 1] = ((np.arange(rows) + entry.offsets[0]) * entry.step[0])[:, None, None]
    values[..., 2:] = np.asarray(entry.box_sizes)
    return values.reshape(1, 1, rows, columns, -1).astype(np.float32)


def spacing(table: Array) -> tuple[tuple[float, float], tuple[float, float]]:
    """Step and offset, each (y, x), of a table of anchors (rows, columns, anchors, 4): from its first and last centres."""
    first, last = table[0, 0, 0, :2], table[-1, -1, 0, :2]
    step = (last - first) / (np.array(table.shape[1::-1]) - 1)
    step = np.where(np.abs(step - np.rint(step)) < 1e-3, np.rint(step), step)
    offset = first / np.where(step > 0, step, 1)
    return (float(step[1]), float(step[0])), (round(float(offset[1]), 5), round(float(offset[0]), 5))


def mapping(config: SSDConfig, table: TensorTable, shapes: Mapping[str, Shape]) -> TensorMapping:
    """Pair a file's tensors with the reference's and check its anchors.

    Args:
        config: the network.
        table: the file.
        shapes: names and shapes of the reference's tensors.

    Raises:
        MappingError: two tensors of the file are the same one, or its anchors are not the network's.
    """
    rows = [row for row in rows_of(config) if row.target in shapes]
    stored = anchor_names(config)
    found = resolve(table, [row.name for row in rows] + stored, where=str(table.path))
    entries = []
    for row in rows:
        shape = shapes[row.target]
        if ".l2norm." in row.target:
            entries.append(MappedTensor(found[row.name.structural], row.target, (1, *shape, 1, 1), (ToShape(shape),)))
        else:
            entries.append(MappedTensor(found[row.name.structural], row.target, shape))
    drops = []
    for name, expected in zip(stored, anchors(config), strict=True):
        if found[name.structural] in table:
            check_anchors(table[found[name.structural]], expected, config, str(table.path))
            drops.append(Drop(found[name.structural], "anchors, equal to the network's priors to the last bit"))
    return TensorMapping(tuple(entries), tuple(drops))


def check_anchors(tensor: LazyTensor, expected: Array, config: SSDConfig, where: str) -> None:
    """Raise MappingError unless a stored anchor table is the network's, bit for bit in the file's own dtype."""
    expected = expected.astype(tensor.dtype if tensor.dtype.kind == "f" else expected.dtype)
    if tuple(tensor.shape) != expected.shape or tensor.dtype != expected.dtype:
        raise MappingError(
            f"anchors {tensor.name!r} have another shape than those of {config.name}",
            where=where,
            expected=f"{expected.shape} of floating point",
            got=f"{tensor.shape} {tensor.dtype}",
        )
    values = tensor.load()
    if values.tobytes() != expected.tobytes():
        at = np.unravel_index(int((values != expected).argmax()), expected.shape)
        raise MappingError(
            f"anchors {tensor.name!r} are not those of {config.name}",
            where=where,
            expected=f"{float(expected[at])!r} at {tuple(int(i) for i in at)}",
            got=repr(float(values[at])),
            hint="convert the file without --network: priors are read from its own anchors",
        )
