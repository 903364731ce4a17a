"""Fields of dataclasses within dataclasses by dotted names, for the tools that change one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any


def paths(rule: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every field; parts that a rule does not have are one field."""
    for field in fields(rule):
        value = getattr(rule, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            yield from paths(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def changed(rule: Any, path: str, value: Any) -> Any:
    """The rule with another value at a dotted name."""
    head, _, rest = path.partition(".")
    return replace(rule, **{head: value if not rest else changed(getattr(rule, head), rest, value)})
