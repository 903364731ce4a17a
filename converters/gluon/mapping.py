"""GluonCV's tensors and the reference's, by name, with the anchors that GluonCV stores checked and dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ssdconv.converters.gluon.names import ParamName, resolve
from ssdconv.converters.gluon.parts import parts_of
from ssdconv.converters.tensors import Array, Drop, Entry, LazyTensor, Reshape, TensorMapping, TensorTable
from ssdconv.errors import MappingError
from ssdconv.ssd_ref.config import SSDConfig

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
class Row:
    """One tensor: where it goes in the reference, and its names in files."""

    target: str
    name: ParamName


def rows_of(config: SSDConfig) -> list[Row]:
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
            rows.append(Row(target, ParamName(structural, f"ssd0_{legacy}")))
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
            entries.append(Entry(found[row.name.structural], row.target, (1, *shape, 1, 1), (Reshape(shape),)))
        else:
            entries.append(Entry(found[row.name.structural], row.target, shape))
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
