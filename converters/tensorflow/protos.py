"""The protocol buffers that checkpoints and frozen graphs hold, decoded by hand: dtypes, shapes, slices, tensors.

Field numbers: tensorflow/core/framework/types.proto, tensor_shape.proto, tensor_slice.proto, tensor.proto and
tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ssdconv.converters.protobuf_wire import FIXED32, LEN, VARINT, Field, Wire, signed64
from ssdconv.converters.tensors import Array
from ssdconv.errors import FormatError

Shape = tuple[int, ...]

DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    17: np.dtype("<u2"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}
"""DataType codes that have a NumPy dtype; the others (strings, resources, bfloat16, complex) are listed but never loaded."""

UNREADABLE = np.dtype(object)
MAX_DIMS = 16
MAX_SIDE = 1 << 40

_VALUES: dict[int, tuple[int, str]] = {1: (5, "<f4"), 2: (6, "<f8")}
"""dtype code -> field of TensorProto that lists the values of that type packed, and their form."""

_VARINTS = {3: 7, 4: 7, 5: 7, 6: 7, 9: 10, 10: 11, 17: 7, 22: 16, 23: 17}
"""dtype code -> field of TensorProto that lists the values as varints."""


def dtype_of(code: int) -> np.dtype[Any]:
    """The NumPy dtype of a DataType code; ``UNREADABLE`` where it has none."""
    return DTYPES.get(code, UNREADABLE)


def messages(wire: Wire, field: Field) -> Iterator[Field]:
    """The fields of an embedded message.

    Raises:
        FormatError: the field is not one.
    """
    if field.wire != LEN:
        raise wire.error(f"field {field.number} is not a message", field.start)
    return wire.fields(field.begin, field.end)


def number(wire: Wire, field: Field) -> int:
    """A varint or fixed32 field.

    Raises:
        FormatError: the field is neither.
    """
    if field.wire == FIXED32:
        return int.from_bytes(bytes(wire.data[field.begin : field.end]), "little")
    if field.wire != VARINT:
        raise wire.error(f"field {field.number} is not a number", field.start)
    return field.value


def string(wire: Wire, field: Field) -> str:
    """A text field.

    Raises:
        FormatError: no text, or longer than any name.
    """
    if field.wire != LEN or field.end - field.begin > 4096:
        raise wire.error(f"field {field.number} is no name", field.start)
    try:
        return bytes(wire.data[field.begin : field.end]).decode()
    except UnicodeDecodeError:
        raise wire.error("a name is not UTF-8", field.start) from None


def shape(wire: Wire, field: Field) -> Shape:
    """A TensorShapeProto.

    Raises:
        FormatError: unknown rank, too many dimensions, or a side that cannot be.
    """
    sides = []
    for part in messages(wire, field):
        if part.number == 3 and number(wire, part):
            raise wire.error("a tensor of unknown rank", part.start)
        if part.number == 2:
            side = 0
            for inner in messages(wire, part):
                if inner.number == 1:
                    side = signed64(number(wire, inner))
            if not 0 <= side < MAX_SIDE:
                raise wire.error("impossible side of a tensor", part.start, expected="0 to 2^40", got=side)
            sides.append(side)
            if len(sides) > MAX_DIMS:
                raise wire.error("a tensor with too many dimensions", part.start, expected=f"<= {MAX_DIMS}")
    return tuple(sides)


def open_shape(wire: Wire, field: Field) -> Shape | None:
    """A TensorShapeProto that may leave sides open (-1), or the rank (None)."""
    sides = []
    for part in messages(wire, field):
        if part.number == 3 and number(wire, part):
            return None
        if part.number == 2:
            side = 0
            for inner in messages(wire, part):
                if inner.number == 1:
                    side = signed64(number(wire, inner))
            sides.append(side if 0 <= side < MAX_SIDE else -1)
            if len(sides) > MAX_DIMS:
                raise wire.error("a shape with too many dimensions", part.start, expected=f"<= {MAX_DIMS}")
    return tuple(sides)


def extents(wire: Wire, field: Field) -> tuple[tuple[int, int], ...]:
    """A TensorSliceProto: (start, length) per dimension, (0, -1) for all of it."""
    found = []
    for part in messages(wire, field):
        if part.number == 1:
            start, length = 0, -1
            for inner in messages(wire, part):
                if inner.number == 1:
                    start = signed64(number(wire, inner))
                if inner.number == 2:
                    length = signed64(number(wire, inner))
            found.append((start, length))
            if len(found) > MAX_DIMS:
                raise wire.error("a slice with too many dimensions", part.start)
    return tuple(found)


def count(sides: Shape) -> int:
    """Number of elements, in Python integers."""
    total = 1
    for side in sides:
        total *= side
    return total


def tensor_values(wire: Wire, begin: int, end: int, code: int, sides: Shape) -> Array:
    """The elements of the TensorProto in bytes ``begin`` to ``end``.

    Values stand as raw bytes (``tensor_content``) or as packed numbers; one number alone stands for all elements.

    Raises:
        FormatError: another number of values than the shape has, or a type that is not read.
    """
    dtype = dtype_of(code)
    if dtype == UNREADABLE:
        raise wire.error("a tensor of a type that is not read", begin, got=f"DataType {code}")
    listed, form = _VALUES.get(code, (0, ""))
    raw: list[memoryview] = []
    packed: list[memoryview] = []
    view = memoryview(wire.data)
    for field in wire.fields(begin, end):
        if field.number == 4 and field.wire == LEN:
            raw = [view[field.begin : field.end]]
        elif listed and field.number == listed and field.wire in (LEN, FIXED32):
            packed.append(view[field.begin : field.end])
    wanted = count(sides)
    if code in _VARINTS and not (raw and len(raw[0])):
        return _varints(wire, begin, end, code, sides)
    pieces = raw if raw and len(raw[0]) else packed
    if pieces is packed and not listed:
        raise wire.error(f"a {dtype} tensor without raw content is not read", begin)
    itemsize = dtype.itemsize if pieces is raw else np.dtype(form).itemsize
    length = sum(len(piece) for piece in pieces)
    alone = pieces is packed and length == itemsize and wanted > 1
    if length != wanted * itemsize and not alone:
        raise wire.error(
            "a tensor has another number of values than its shape", begin, expected=wanted, got=length // itemsize
        )
    if alone and wanted > 1 << 22:
        raise wire.error("a single value stands for more elements than any layer has", begin, got=wanted)
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    array = np.frombuffer(data, dtype)
    return np.broadcast_to(array, sides) if alone else array.reshape(sides)


def _varints(wire: Wire, begin: int, end: int, code: int, sides: Shape) -> Array:
    """Elements that stand as varints, one number for all elements included."""
    values: list[int] = []
    for field in wire.fields(begin, end):
        if field.number == _VARINTS[code] and field.wire == VARINT:
            values.append(signed64(field.value))
        elif field.number == _VARINTS[code] and field.wire == LEN:
            at = field.begin
            while at < field.end:
                value, at = wire.varint(at, field.end)
                values.append(signed64(value))
    wanted = count(sides)
    if len(values) != wanted and not (len(values) == 1 and wanted <= 1 << 22):
        raise wire.error(
            "a tensor has another number of values than its shape", begin, expected=wanted, got=len(values)
        )
    array = np.array(values, np.int64).astype(dtype_of(code))
    return array.reshape(sides) if len(values) == wanted else np.broadcast_to(array, sides)


def unreadable(name: str, where: str) -> FormatError:
    """The error for a tensor of a type that is not loaded."""
    return FormatError(
        f"tensor {name!r} is of a type that is not read (text, bfloat16, complex or a resource)", where=where
    )
