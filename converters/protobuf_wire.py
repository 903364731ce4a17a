"""Protobuf's wire format, walked field by field over a buffer and never copied.

A message is a run of (tag, value) pairs; a tag is ``number << 3 | wire type`` as a base-128 varint. Caffe's and TensorFlow's files are
read and written with it; it knows neither. Every number is bounded before it is used, unknown fields are skipped without recursion, and every complaint is a
FormatError with the file and the byte offset.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ssdconv.errors import FormatError

VARINT, FIXED64, LEN, GROUP, END_GROUP, FIXED32 = range(6)
MAX_GROUP_DEPTH = 32
MAX_FIELDS = 500_000  # a 2,000-layer net has about 50,000
_MAX_TAG = 2**32


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number, wire: field number and wire type.
        start: offset of its tag.
        begin, end: the value's bytes; for LEN without the length prefix, for groups up to and with the end tag.
        value: the number itself for VARINT fields, else 0.
    """

    number: int
    wire: int
    start: int
    begin: int
    end: int
    value: int


@dataclass
class Wire:
    """A buffer and the name of its file for error messages; ``budget`` fields may be read from it in all."""

    data: mmap.mmap | bytes
    where: str
    budget: int = MAX_FIELDS

    def error(
        self, what: str, offset: int, *, expected: object = None, got: object = None, layer: str = ""
    ) -> FormatError:
        """A FormatError that names the file, the layer if known, and the byte offset."""
        place = f"{self.where}, {layer}, offset {offset}" if layer else f"{self.where}, offset {offset}"
        return FormatError(
            what, where=place, expected=expected, got=got, hint="the file is damaged or not what its name says"
        )

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The unsigned 64-bit number at ``at`` and the offset behind it; its bytes must end before ``end``.

        Raises:
            FormatError: cut short, or larger than 64 bits.
        """
        data = self.data
        value = shift = 0
        start = at
        while at < end:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= 1 << 64:
                    break
                return value, at
            shift += 7
            if shift == 70:
                break
        else:
            raise self.error("truncated: a number is cut off by the end of its message", start, expected=f"end > {end}")
        raise self.error("a number is larger than 64 bits (varint overflow)", start)

    def fields(self, at: int, end: int) -> Iterator[Field]:
        """The fields of the message in bytes ``at`` to ``end``, in file order.

        Raises:
            FormatError: field number 0, a wire type that does not exist, a value that reaches past ``end``, groups that
                do not match or nest deeper than ``MAX_GROUP_DEPTH``.
        """
        while at < end:
            field = self.field(at, end)
            yield field
            at = field.end

    def field(self, at: int, end: int) -> Field:
        """The field at ``at`` of a message that ends at ``end``; raises as ``fields`` does."""
        field = self._field(at, end)
        if field.wire == END_GROUP:
            raise self.error("end of a group that never began", at, got=f"field {field.number}")
        if field.wire == GROUP:
            return field._replace(end=self._skip_group(field, end))
        return field

    def _field(self, at: int, end: int) -> Field:
        self.budget -= 1
        if self.budget < 0:
            raise self.error("the file holds more fields than any network has", at, expected=f"<= {MAX_FIELDS}")
        tag, begin = self.varint(at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0 or tag >= _MAX_TAG:
            raise self.error("invalid field number", at, expected="1 to 536870911", got=number)
        value = 0
        if wire == VARINT:
            value, stop = self.varint(begin, end)
        elif wire == LEN:
            size, begin = self.varint(begin, end)
            stop = begin + size
            if stop > end:
                raise self.error(
                    f"truncated: field {number} reaches past the end of its message",
                    at,
                    expected=f"at most {end - begin} bytes",
                    got=f"a length of {size}",
                )
        elif wire in (FIXED32, FIXED64):
            stop = begin + (4 if wire == FIXED32 else 8)
            if stop > end:
                raise self.error(f"truncated: field {number} is cut off by the end of its message", at)
        elif wire in (GROUP, END_GROUP):
            stop = begin
        else:
            raise self.error("invalid wire type", at, expected="0 to 5", got=f"{wire} in field {number}")
        return Field(number, wire, at, begin, stop, value)

    def _skip_group(self, first: Field, end: int) -> int:
        """Offset behind the end tag of the group that ``first`` opens."""
        open_groups = [first.number]
        at = first.end
        while open_groups:
            if at >= end:
                raise self.error(f"truncated: group {open_groups[-1]} never ends", first.start)
            field = self._field(at, end)
            at = field.end
            if field.wire == GROUP:
                open_groups.append(field.number)
                if len(open_groups) > MAX_GROUP_DEPTH:
                    raise self.error(
                        "groups are nested too deeply", field.start, expected=f"at most {MAX_GROUP_DEPTH} levels"
                    )
            elif field.wire == END_GROUP and open_groups.pop() != field.number:
                raise self.error("a group is closed by another group's end", field.start)
        return at


def signed64(value: int) -> int:
    """A varint read as int64."""
    return value - (1 << 64) if value >> 63 else value


def signed32(value: int) -> int:
    """A varint read as int32: the low 32 bits, as protobuf does it."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def encode_varint(value: int) -> bytes:
    """An unsigned number as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
