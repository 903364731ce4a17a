"""A stored symbol of MXNet (``NAME-symbol.json``) as the oracle of its .params file: layers, anchors and boxes as the file says.

``net.export`` and Module checkpoints write one beside ``NAME-0000.params``. Counters of blocks and the network's prefix differ from file to
file; a node is known by its name without them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdconv.converters.gluon.mapping import bare, network_prefix, without_counters
from ssdconv.converters.tensors import TensorTable
from ssdconv.errors import FormatError, MissingError

_EPOCH = re.compile(r"-\d{4}$")
OURS = "ssd0_"
MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Symbol:
    """What is read of a symbol before MXNet runs it.

    Attributes:
        path: the file.
        data: its only input that the .params file does not hold.
        nodes: operators by name as the first network of a process has it (``ssd0_…``).
        ends: the symbol ends in ids, scores and boxes.
    """

    path: Path
    data: str
    nodes: dict[str, str]
    ends: bool

    def job(self, params: Path, wanted: Iterable[str]) -> dict[str, Any]:
        """The worker's job that runs it."""
        return {
            "do": "symbol",
            "symbol": str(self.path.resolve()),
            "params": str(params.resolve()),
            "data": self.data,
            "nodes": {name: self.nodes[name] for name in wanted if name in self.nodes},
            "ends": self.ends,
        }


def beside(params: Path) -> Path | None:
    """``NAME-symbol.json`` beside ``NAME-0000.params``, where there is one."""
    path = params.with_name(_EPOCH.sub("", params.stem) + "-symbol.json")
    return path if _EPOCH.search(params.stem) and path.is_file() else None


def read_symbol(path: Path, table: TensorTable) -> Symbol:
    """A symbol that belongs to a file.

    Raises:
        FormatError: not a symbol of MXNet.
        MissingError: a symbol of something else than these tensors.
    """
    where = str(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FormatError("too large for a symbol", where=where, expected=f"<= {MAX_BYTES:,} bytes")
        held = json.loads(path.read_bytes())
        nodes = [(str(n["op"]), str(n["name"])) for n in held["nodes"]]
        heads = [nodes[int(head[0])][0] for head in held["heads"]]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise FormatError(
            "not a symbol of MXNet", where=where, expected="JSON with nodes and heads, as `net.export` writes it"
        ) from error
    inputs = [name for op, name in nodes if op == "null"]
    tensors = {bare(name) for name in table}
    free = [name for name in inputs if name not in tensors]
    if len(free) != 1:
        raise MissingError(
            "oracle MXNet not run: the symbol is not of this file's network",
            where=where,
            expected="one input, and every other one among the file's tensors",
            got=f"{len(free)} that it does not hold: {', '.join(free[:3])}",
        )
    prefix = network_prefix(inputs)
    named = {OURS + plain(name, prefix): name for op, name in nodes if op != "null"}
    return Symbol(path, free[0], named, heads == ["slice_axis"] * 3)


def plain(name: str, prefix: str) -> str:
    """A node's name without counters and prefix; ``reset_class`` doubles the prefix before the class predictors."""
    return without_counters(name.removeprefix(prefix) if name.startswith(prefix * 2) else name, prefix)
