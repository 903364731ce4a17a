"""MXNet's ``NAME-symbol.json``: the graph that ``net.export`` and Module checkpoints write beside ``NAME-0000.params``.

A node reads outputs of nodes before it, so a symbol has no cycles; one that says otherwise is refused. Attributes are strings in every
version of MXNet, under ``attrs`` (since 0.12), ``attr`` or ``param``.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.gate import read_text, reader

MAX_NODES = 100_000
_EPOCH = re.compile(r"-\d{4}$")


@dataclass(frozen=True)
class SymbolNode:
    """One node.

    Attributes:
        op: MXNet's operator; "null" for an input or a tensor of the file.
        name: of the node.
        attrs: parameters as text.
        inputs: values read: (node, which of its outputs).
        file: of the symbol, for messages.
    """

    op: str
    name: str
    attrs: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[tuple[int, int], ...] = ()
    file: str = ""

    @property
    def where(self) -> str:
        return f"{self.file}, node {self.name!r} ({self.op})"

    def fail(self, what: str, **words: Any) -> FormatError:
        """An error that names the node and its operator."""
        return FormatError(what, where=self.where, **words)

    def _value(self, key: str) -> Any:
        try:
            return ast.literal_eval(self.attrs[key])
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise self.fail(f"attribute {key} cannot be read", got=self.attrs[key][:80]) from None

    def text(self, key: str, default: str = "") -> str:
        """An attribute as it stands; ``None`` counts as not given."""
        found = self.attrs.get(key, default)
        return default if found == "None" else found

    def number(self, key: str, default: float) -> float:
        """A number."""
        value = self._value(key) if self.text(key) else default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(f"attribute {key} is no number", got=self.attrs[key][:80])
        return value

    def integer(self, key: str, default: int) -> int:
        """A whole number."""
        value = self.number(key, default)
        if value != int(value):
            raise self.fail(f"attribute {key} is no whole number", got=value)
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or False, as 1 and 0 too."""
        text = self.text(key, str(default)).lower()
        if text not in ("true", "false", "1", "0"):
            raise self.fail(f"attribute {key} is neither True nor False", got=text[:80])
        return text in ("true", "1")

    def numbers(self, key: str, default: tuple[float, ...] = ()) -> tuple[float, ...]:
        """A tuple of numbers; one number stands for itself."""
        if not self.text(key):
            return default
        value = self._value(key)
        values = tuple(value) if isinstance(value, list | tuple) else (value,)
        if len(values) > 64 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
            raise self.fail(f"attribute {key} is no list of numbers", got=self.attrs[key][:80])
        return values

    def integers(self, key: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """A tuple of whole numbers."""
        values = self.numbers(key, default)
        if any(v != int(v) or abs(v) > 1 << 40 for v in values):
            raise self.fail(f"attribute {key} is no list of whole numbers", got=self.attrs[key][:80])
        return tuple(int(v) for v in values)


@dataclass(frozen=True)
class Symbol:
    """A graph.

    Attributes:
        file: its name for messages.
        text: as stored.
        nodes: each after those that it reads.
        heads: values that the graph gives.
    """

    file: str
    text: str
    nodes: tuple[SymbolNode, ...]
    heads: tuple[tuple[int, int], ...]


def beside_name(params: Path) -> Path:
    """Where the symbol of a .params file lies."""
    return params.with_name(_EPOCH.sub("", params.stem) + "-symbol.json")


def beside(params: Path) -> Path | None:
    """``NAME-symbol.json`` beside ``NAME-0000.params``, where there is one."""
    path = beside_name(params)
    return path if _EPOCH.search(params.stem) and path.is_file() else None


@reader
def read_symbol(path: Path) -> Symbol:
    """Read a symbol file.

    Raises:
        FormatError: not a symbol of MXNet.
        MissingError: no such file.
    """
    return parse_symbol(read_text(path, "document", "symbol"), str(path))


def parse_symbol(text: str, file: str) -> Symbol:
    """Read a symbol's JSON; see ``read_symbol``."""
    try:
        held = json.loads(text)
        raw = held["nodes"]
        if not isinstance(raw, list) or not 0 < len(raw) <= MAX_NODES:
            raise FormatError("no graph has so many nodes", where=file, expected=f"1 to {MAX_NODES:,}")
        nodes = tuple(_node(entry, file) for entry in raw)
        heads = tuple(_place(head) for head in held["heads"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, AttributeError) as error:
        raise FormatError(
            "not a symbol of MXNet", where=file, expected="JSON with nodes and heads, as `net.export` writes it"
        ) from error
    for index, node in enumerate(nodes):
        for place, output in node.inputs:
            if not 0 <= place < index or not 0 <= output < 1 << 16:
                raise node.fail("reads a node that does not come before it", expected=f"0 to {index - 1}", got=place)
    (twice, times), *_ = Counter(node.name for node in nodes).most_common(1)
    if times > 1:
        raise FormatError("two nodes have one name", where=file, got=twice)
    if not heads or any(not 0 <= place < len(nodes) for place, _ in heads):
        raise FormatError("the graph gives no value of its nodes", where=file, got=heads[:3])
    return Symbol(file, text, nodes, heads)


def _node(entry: Mapping[str, Any], file: str) -> SymbolNode:
    attrs = {**entry.get("param", {}), **entry.get("attr", {}), **entry.get("attrs", {})}
    inputs = tuple(_place(place) for place in entry["inputs"])
    return SymbolNode(str(entry["op"]), str(entry["name"]), {str(k): str(v) for k, v in attrs.items()}, inputs, file)


def _place(entry: Any) -> tuple[int, int]:
    return int(entry[0]), int(entry[1]) if len(entry) > 1 else 0
