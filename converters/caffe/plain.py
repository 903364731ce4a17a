"""Schema messages as plain JSON data and back: set fields only, enums as names, bytes as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

from ssdconv.errors import FormatError

MAX_VALUES = 200_000
MAX_UNKNOWN = 500
_MESSAGE, _ENUM, _BYTES = 11, 14, 12


class Reader:
    """Turns messages of one file into plain data, within a budget of values, and collects unknown fields.

    Attributes:
        unknown: fields that the schema does not know, as "layer conv1: field 'foo'".
    """

    def __init__(self, where: str, known_unknown: tuple[str, ...] = ()) -> None:
        self.where = where
        self._unknown = list(known_unknown)
        self._more = 0
        self._left = MAX_VALUES

    @property
    def unknown(self) -> tuple[str, ...]:
        """The unknown fields met so far; beyond ``MAX_UNKNOWN`` only their count."""
        tail = (f"... and {self._more} more unknown fields",) if self._more else ()
        return tuple(self._unknown) + tail

    def note(self, place: str, field: str) -> None:
        """Remember an unknown field."""
        if len(self._unknown) < MAX_UNKNOWN:
            self._unknown.append(f"{place}: field '{field}'")
        else:
            self._more += 1

    def remark(self, text: str) -> None:
        """Remember something else that was tolerated."""
        if len(self._unknown) < MAX_UNKNOWN:
            self._unknown.append(text)
        else:
            self._more += 1

    def text(self, value: bytes, place: str) -> str:
        """Bytes of the file as text.

        Raises:
            FormatError: not UTF-8.
        """
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(
                "a name is not UTF-8 text", where=f"{self.where}, {place}", got=repr(value[:40])
            ) from None

    def unknown_of(self, message: Any, place: str, prefix: str = "") -> None:
        """Note the unknown fields of one message, not of those inside it."""
        for entry in UnknownFieldSet(message):
            self.note(place, f"{prefix}{entry.field_number}")

    def plain(self, message: Any, place: str, prefix: str = "") -> dict[str, Any]:
        """The set fields of ``message`` as plain data.

        Args:
            message: any schema message.
            place: "layer conv1", for messages.
            prefix: path of the message within the layer, with a dot at the end.

        Raises:
            FormatError: more values than any real net has, or text that is not UTF-8.
        """
        self.unknown_of(message, place, prefix)
        out: dict[str, Any] = {}
        for entry, value in message.ListFields():
            if _is_repeated(entry):
                self._spend(len(value), place)
                out[entry.name] = [self._value(entry, v, place, prefix) for v in value]
            else:
                self._spend(1, place)
                out[entry.name] = self._value(entry, value, place, prefix)
        return out

    def _value(self, entry: Any, value: Any, place: str, prefix: str) -> Any:
        if entry.type == _MESSAGE:
            return self.plain(value, place, f"{prefix}{entry.name}.")
        if entry.type == _ENUM:
            return entry.enum_type.values_by_number[value].name
        return self.text(value, place) if entry.type == _BYTES else value

    def _spend(self, count: int, place: str) -> None:
        self._left -= count
        if self._left < 0:
            raise FormatError(
                "the layer parameters hold more values than any network has",
                where=f"{self.where}, {place}",
                expected=f"<= {MAX_VALUES}",
            )


def fill(message: Any, data: Mapping[str, Any], place: str) -> None:
    """Set the fields of ``message`` from plain data: the inverse of ``Reader.plain``.

    Raises:
        FormatError: a field that the schema does not have, or a value of the wrong type or range.
    """
    for name, value in data.items():
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            raise FormatError(f"Caffe's {message.DESCRIPTOR.name} has no field {name!r}", where=place)
        try:
            if _is_repeated(field):
                target = getattr(message, name)
                for item in value:
                    if field.type == _MESSAGE:
                        fill(target.add(), item, f"{place}.{name}")
                    else:
                        target.append(_scalar(field, item))
            elif field.type == _MESSAGE:
                getattr(message, name).SetInParent()
                fill(getattr(message, name), value, f"{place}.{name}")
            else:
                setattr(message, name, _scalar(field, value))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise FormatError(f"{name!r} cannot hold this value: {error}", where=place, got=repr(value)[:80]) from None


def _scalar(field: Any, value: Any) -> Any:
    if field.type == _ENUM and isinstance(value, str):
        return field.enum_type.values_by_name[value].number
    if field.type == _BYTES and isinstance(value, str):
        return value.encode("utf-8")
    return value


def _is_repeated(field: Any) -> bool:
    # ``label`` is deprecated in new protobufs, ``is_repeated`` absent in old ones
    repeated = getattr(field, "is_repeated", None)
    return field.label == 3 if repeated is None else bool(repeated)
