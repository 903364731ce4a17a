"""Checked reading of a layer's parameters.

Parameters arrive as plain JSON data from files that nobody vouches for: every number is checked for kind and range,
and every complaint names the layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ssdconv.errors import FormatError

INT_MAX = 2**31 - 1
"""Largest count, size or offset that Caffe can address."""


class Params:
    """Typed access to one layer's parameter message.

    Args:
        data: field name -> value; repeated fields are lists.
        where: "layer NAME (TYPE)" for error messages.
        defaults: values of absent fields, for calls that give no default of their own.
    """

    def __init__(self, data: Mapping[str, Any], where: str, defaults: Mapping[str, Any] | None = None) -> None:
        self.data = data
        self.where = where
        self.defaults = defaults or {}

    def __contains__(self, name: str) -> bool:
        return name in self.data

    def fail(self, what: str, *, expected: object = None, got: object = None, hint: str | None = None) -> FormatError:
        """An error that names the layer, for the caller to raise."""
        return FormatError(what, where=self.where, expected=expected, got=got, hint=hint)

    def integer(self, name: str, default: int | None = None, low: int = 0, high: int = INT_MAX) -> int:
        """A whole number within [low, high]."""
        values = self.integers(name, low, high)
        if len(values) > 1:
            raise self.fail(f"{name} is given {len(values)} times", expected="one value")
        found: int = values[0] if values else self._default(name, default)
        return found

    def integers(self, name: str, low: int = 0, high: int = INT_MAX) -> tuple[int, ...]:
        """A repeated whole number, each within [low, high]; empty when absent."""
        values = _listed(self.data.get(name))
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise self.fail(f"{name} is out of range", expected=f"a whole number in {low}..{high}", got=repr(value))
        return tuple(values)

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        values = self.numbers(name)
        if len(values) > 1:
            raise self.fail(f"{name} is given {len(values)} times", expected="one value")
        found: float = values[0] if values else self._default(name, default)
        return found

    def numbers(self, name: str) -> tuple[float, ...]:
        """A repeated finite number; empty when absent."""
        values = _listed(self.data.get(name))
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
                raise self.fail(f"{name} is not a finite number", got=repr(value))
        return tuple(float(value) for value in values)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """A boolean."""
        value = self.data[name] if name in self.data else self._default(name, default)
        if not isinstance(value, bool):
            raise self.fail(f"{name} is not true or false", got=repr(value))
        return value

    def choice(self, name: str, default: str | None, allowed: tuple[str, ...]) -> str:
        """The name of an enum value among ``allowed``."""
        value = self.data[name] if name in self.data else self._default(name, default)
        if value not in allowed:
            raise self.fail(f"{name} is not supported", expected=" or ".join(allowed), got=repr(value))
        return str(value)

    def message(self, name: str) -> Params:
        """A message field; empty when absent."""
        value = self.data.get(name, {})
        if not isinstance(value, Mapping):
            raise self.fail(f"{name} is not a message", got=repr(value))
        return Params(value, self.where)

    def axis(self, name: str, default: int | None, rank: int, *, end: bool = False) -> int:
        """An axis counted from the front; negative ones count from the back, as in Caffe.

        ``end`` allows ``rank`` itself (one past the last axis).
        """
        value = self.integer(name, default, low=-INT_MAX)
        top = rank if end else rank - 1
        if not -rank <= value <= top:
            raise self.fail(f"{name} does not exist in a blob of {rank} axes", got=value)
        return value + rank if value < 0 else value

    def _default(self, name: str, given: Any) -> Any:
        return self.defaults[name] if given is None else given


def _listed(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
