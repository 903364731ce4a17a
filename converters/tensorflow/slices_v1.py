"""Checkpoints of TensorFlow's V1 format: one table whose values are SavedTensorSlices messages.

The empty key holds the list of tensors (name, shape, dtype, slices); each other key (``ordered.slice_key``) one slice with its
values as a TensorProto. Only the list is read on opening. Messages: tensorflow/core/util/saved_tensor_slice.proto.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from ssdconv.converters.opened import OpenedFile
from ssdconv.converters.protobuf_wire import LEN, Field, Wire
from ssdconv.converters.tensorflow import protos
from ssdconv.converters.tensorflow.bundle import MAX_SLICES, Extents, check_tiling, place_of
from ssdconv.converters.tensorflow.ordered import slice_key
from ssdconv.converters.tensorflow.table import Table
from ssdconv.converters.tensors import Array, LazyTensor
from ssdconv.errors import FormatError


@dataclass(frozen=True)
class Saved:
    """A tensor as the list describes it."""

    name: str
    shape: protos.Shape
    code: int
    slices: tuple[Extents, ...]


def saved_tensors(table: Table, file: OpenedFile | None = None) -> dict[str, LazyTensor]:
    """All tensors of a V1 checkpoint by name; only the list of tensors is read."""
    found = {}
    for saved in listed(table):
        where = f"{table.where}, tensor {saved.name!r}"
        if saved.name in found:
            raise FormatError("two tensors have one name", where=where)
        dtype = protos.dtype_of(saved.code)
        found[saved.name] = LazyTensor(saved.name, saved.shape, dtype, partial(_load, table, file, saved, where), where)
    return found


def listed(table: Table) -> list[Saved]:
    """The list of tensors under the empty key."""
    value = table.get(b"")
    if value is None:
        raise FormatError("the table has no list of tensors", where=table.where)
    wire = Wire(bytes(value), f"{table.where}, list of tensors")
    return [
        _saved(wire, one)
        for part in wire.fields(0, len(value))
        if part.number == 1
        for one in protos.messages(wire, part)
        if one.number == 1
    ]


def _saved(wire: Wire, field: Field) -> Saved:
    name, code = "", 0
    sides: protos.Shape = ()
    slices: list[Extents] = []
    for part in protos.messages(wire, field):
        if part.number == 1:
            name = protos.string(wire, part)
        elif part.number == 2:
            sides = protos.shape(wire, part)
        elif part.number == 3:
            code = protos.number(wire, part)
        elif part.number == 4:
            slices.append(protos.extents(wire, part))
            if len(slices) > MAX_SLICES:
                raise wire.error("a tensor in too many slices", part.start)
    return Saved(name, sides, code, tuple(slices))


def _load(table: Table, file: OpenedFile | None, saved: Saved, where: str) -> Array:
    if protos.dtype_of(saved.code) == protos.UNREADABLE:
        raise protos.unreadable(saved.name, where)
    if file is not None:
        file.unchanged()
    places = [place_of(one, saved.shape, where) for one in saved.slices]
    sides = [tuple(s.stop - s.start for s in place) for place in places]
    check_tiling(places, sum(protos.count(s) for s in sides), saved.shape, where)
    pieces = [_piece(table, saved, one, side, where) for one, side in zip(saved.slices, sides, strict=True)]
    if len(pieces) == 1:
        return pieces[0]
    out = np.empty(saved.shape, protos.dtype_of(saved.code))
    for place, piece in zip(places, pieces, strict=True):
        out[place] = piece
    return out


def _piece(table: Table, saved: Saved, one: Extents, sides: protos.Shape, where: str) -> Array:
    value = table.get(slice_key(saved.name, one))
    if value is None:
        raise FormatError("a slice of the tensor is missing", where=where, got=one)
    wire = Wire(value, where)  # type: ignore[arg-type]
    for part in wire.fields(0, len(value)):
        if part.number != 2:
            continue
        for inner in protos.messages(wire, part):
            if inner.number == 3 and inner.wire == LEN:
                return protos.tensor_values(wire, inner.begin, inner.end, saved.code, sides)
    raise FormatError("a slice of the tensor holds no values", where=where)
