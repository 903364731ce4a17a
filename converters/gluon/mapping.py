"""GluonCV's tensors and the reference's, by name, with the anchors that GluonCV stores checked and dropped.

One network is written in three dialects, with the same tensors:

- ``structural`` (``save_parameters``): attribute path, ``features.stages.0.0.weight``, ``class_predictors.0.predictor.bias``;
- ``legacy`` (``save_params``, ``collect_params().save``): block prefixes with counters, ``ssd14_resnetv10_conv0_weight``,
  with or without the network's own prefix (``ssd14_``), which may be any word;
- ``export`` (``export``, Module checkpoints): legacy names behind ``arg:`` or ``aux:``.

Counters of blocks that occur once carry no meaning: they tell how many networks a process had built before. Networks that were trained
with statistics over several GPUs have ``syncbatchnorm`` where others have ``batchnorm``; it is the same layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ssdconv.converters.gluon.parts import parts_of
from ssdconv.converters.tensors import Array, Drop, LazyTensor, MappedTensor, TensorMapping, TensorTable, ToShape
from ssdconv.errors import MappingError
from ssdconv.ssd_ref.config import SSDConfig

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
    assert config.staged is not None
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
    assert config.staged is not None
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
        values = np.empty((side, side, len(entry.cells), 4))
        centres = (np.arange(side)[:, None] + np.asarray(entry.offsets)) * np.asarray(entry.step)
        values[..., 0] = centres[None, :, None, 1]
        values[..., 1] = centres[:, None, None, 0]
        values[..., 2:] = np.asarray(entry.cells)
        arrays.append(values.reshape(1, 1, side, side, -1).astype(np.float32))
        side = max(side // 2, 16)
    return arrays


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
