"""Two weight files of any formats, tensor by tensor, in the reference's names and layouts, and their configs, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ssdconv.errors import MappingError
from ssdconv.parity.config_diff import FieldDifference, config_differences
from ssdconv.parity.diagnose.evidence import Difference, Truths, differences, share
from ssdconv.parity.diagnose.hypothesis import Net, tensor_specs
from ssdconv.parity.diagnose.sides import WeightFile, pair

LEAST_SHARED = 0.5
"""Share of B's tensors that A must have, with equal shapes, for the two to be versions of one network."""


@dataclass(frozen=True)
class DiffRow:
    """One tensor that differs.

    Attributes:
        name: in the reference.
        kind: name of the known mistake ("kernel-layout + fp16-rounding"), "missing in A", "missing in B", "shape", or "different".
        detail: where the kind is known, how exactly; else how much differs.
        largest, relative: largest absolute difference, and over B's largest value.
        fraction: share of the numbers that differ.
    """

    name: str
    kind: str
    detail: str = ""
    largest: float = 0.0
    relative: float = 0.0
    fraction: float = 1.0


@dataclass(frozen=True)
class DiffReport:
    """How file A differs from file B.

    Attributes:
        a, b: the files.
        network: that both hold.
        tensors: in both together.
        fields: what their configs say otherwise, field by field.
        equal: of them with equal bits.
        rows: the others, in order of execution.
        notes: what a reader should know.
    """

    a: str
    b: str
    network: str
    tensors: int
    equal: int
    rows: tuple[DiffRow, ...] = ()
    notes: tuple[str, ...] = ()
    fields: tuple[FieldDifference, ...] = ()

    def __bool__(self) -> bool:
        return not self.rows and not self.fields

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        data: dict[str, Any] = msgspec.to_builtins(self, enc_hook=str)  # notices become their texts
        return {"same": bool(self), **data}


def diff(a: Path, b: Path, *, prototxt: Path | None = None) -> DiffReport:
    """Compare two weight files; B is the yardstick.

    Args:
        a, b: checkpoints of ssdconv, source files, or state dicts under known names.
        prototxt: network definition where one of them is a Caffe file that does not tell its layers.

    Raises:
        MissingError, FormatError, UnsafeFileError: a file is missing, damaged or refused.
        MappingError: they hold different networks.
    """
    left, right = pair(a, b, prototxt)
    mine, truth = left.net.tensors, right.net.tensors
    shared = [n for n in truth if n in mine and mine[n].shape == truth[n].shape]
    if len(shared) < LEAST_SHARED * len(truth):
        raise MappingError(
            "these files hold different networks",
            where=str(a),
            expected=f"{right.net.config.name} ({len(truth)} tensors) as in {Path(b).name}",
            got=f"{left.net.config.name} ({len(mine)} tensors), of which {len(shared)} fit",
            hint="`ssdconv inspect FILE` shows which network a file holds",
        )
    specs = tensor_specs(Net(right.net.config, {n: truth[n] for n in shared}))
    found = {d.name: _row(d) for d in differences(mine, Truths({n: truth[n] for n in shared}), specs)}
    for name in [n for n in (*truth, *mine) if n not in shared]:
        found[name] = _unpaired(name, left.net, right.net)
    order = {n: i for i, n in enumerate([*truth, *mine])}
    rows = tuple(sorted(found.values(), key=lambda row: order[row.name]))
    names = set(truth) | set(mine)
    fields, untold = _fields(left, right)
    notes = (*left.notes, *right.notes, *untold)
    return DiffReport(str(a), str(b), right.net.config.name, len(names), len(names) - len(rows), rows, notes, fields)


def _fields(left: WeightFile, right: WeightFile) -> tuple[tuple[FieldDifference, ...], tuple[str, ...]]:
    """Fields in which the configs differ, and what could not be compared: pixels that a source file does not tell are nobody's."""
    mine, theirs = left.net.config, right.net.config
    found = config_differences(mine, theirs)
    notes: tuple[str, ...] = ()
    if not (left.pixels_told and right.pixels_told) and any(d.link == "pixels" for d in found):
        found = tuple(d for d in found if d.link != "pixels")
        notes = ("pixels are not compared: the source file does not tell them",)
    if type(mine.layers) is not type(theirs.layers):
        notes = (
            *notes,
            "layers are not compared one by one: one file tells a layer graph, the other is a named network",
        )
    return found, notes


def _row(found: Difference) -> DiffRow:
    kind = " + ".join(dict.fromkeys(step.hypothesis.name for step in found.steps)) or "different"
    detail = "; ".join(step.detail for step in found.steps) or share(found)
    return DiffRow(found.name, kind, detail, found.largest, found.relative, found.fraction)


def _unpaired(name: str, left: Net, right: Net) -> DiffRow:
    if name not in left.tensors:
        return DiffRow(name, "missing in A")
    if name not in right.tensors:
        return DiffRow(name, "missing in B")
    return DiffRow(name, "shape", f"{left.tensors[name].shape} in A, {right.tensors[name].shape} in B")
