"""Frozen graphs (``.pb``): nodes and constants of a GraphDef, found by walking the message.

GraphDef: field 1 the nodes. NodeDef: 1 name, 2 op, 3 inputs, 5 attributes (a map: 1 key, 2 AttrValue). AttrValue: 1 a list, 2 text, 3 a whole
number, 4 a float, 5 a truth value, 6 a DataType, 7 a shape, 8 a TensorProto. TensorProto: 1 dtype, 2 shape, 4 raw content, 5 and 6
packed values (tensorflow/core/framework/graph.proto, node_def.proto, attr_value.proto). A SavedModel holds such a graph: field 2 its
MetaGraphDefs, of each field 2 the GraphDef (tensorflow/core/protobuf/saved_model.proto, meta_graph.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from ssdconv.converters.opened import OpenedFile
from ssdconv.converters.protobuf_wire import FIXED32, LEN, VARINT, Field, Wire, signed64
from ssdconv.converters.tensorflow import protos
from ssdconv.converters.tensors import Array, LazyTensor
from ssdconv.errors import FormatError

MAX_NODES = 100_000
MAX_FIELDS = 10_000_000
"""Fields of a graph's messages that are read in all: a hundred per node."""


@dataclass(frozen=True)
class Node:
    """One node of a graph; its attributes are read when they are asked for.

    Attributes:
        name, op: as the graph has them.
        inputs: what it reads: "node", or "node:1" for a further output; without control inputs.
        attributes: key -> AttrValue message.
        content: first and last byte of a constant's raw values within the file; empty where they stand as numbers.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Field] = field(repr=False, compare=False)
    wire: Wire = field(repr=False, compare=False)
    content: tuple[int, int] = (0, 0)

    @property
    def where(self) -> str:
        """The node for messages."""
        return f"node {self.name!r} ({self.op})"

    def fail(self, what: str, *, expected: object = None, got: object = None, hint: str | None = None) -> FormatError:
        """An error that names the node, for the caller to raise."""
        return FormatError(what, where=f"{self.wire.where}, {self.where}", expected=expected, got=got, hint=hint)

    def _held(self, key: str, number: int, wire: int) -> Field | None:
        if key not in self.attributes:
            return None
        found = [f for f in protos.messages(self.wire, self.attributes[key]) if f.number == number and f.wire == wire]
        return found[-1] if found else None

    def integer(self, key: str, default: int = 0) -> int:
        """A whole number, or the code of a DataType."""
        held = self._held(key, 3, VARINT) or self._held(key, 6, VARINT)
        return default if held is None else signed64(held.value)

    def flag(self, key: str, default: bool = False) -> bool:
        """A truth value; an empty message is false."""
        held = self._held(key, 5, VARINT)
        return default if key not in self.attributes else bool(held and held.value)

    def number(self, key: str, default: float) -> float:
        """A float; an empty message is 0."""
        if key not in self.attributes:
            return default
        held = self._held(key, 4, FIXED32)
        if held is None:
            return 0.0
        (value,) = struct.unpack("<f", bytes(self.wire.data[held.begin : held.end]))
        return float(value)

    def text(self, key: str, default: str = "") -> str:
        """A string."""
        held = self._held(key, 2, LEN)
        return default if held is None else protos.string(self.wire, held)

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers; empty where there is none."""
        held = self._held(key, 1, LEN)
        values: list[int] = []
        for part in protos.messages(self.wire, held) if held is not None else ():
            if part.number == 3 and part.wire == VARINT:
                values.append(signed64(part.value))
            elif part.number == 3 and part.wire == LEN:
                at = part.begin
                while at < part.end and len(values) <= protos.MAX_DIMS * 4:
                    value, at = self.wire.varint(at, part.end)
                    values.append(signed64(value))
        return tuple(values)

    def sides(self, key: str) -> tuple[int, ...] | None:
        """A shape, -1 for sides that are not known; None for an unknown rank."""
        held = self._held(key, 7, LEN)
        return None if held is None else protos.open_shape(self.wire, held)


def graph_of(wire: Wire, size: int) -> tuple[int, int]:
    """First and last byte of the GraphDef in a file: all of it, or what a SavedModel holds.

    Raises:
        FormatError: a SavedModel with several graphs, or none.
    """
    if size == 0 or wire.data[0] != 1 << 3 | VARINT:
        return 0, size
    graphs = [
        inner
        for part in wire.fields(0, size)
        if part.number == 2 and part.wire == LEN
        for inner in wire.fields(part.begin, part.end)
        if inner.number == 2 and inner.wire == LEN
    ]
    if len(graphs) != 1:
        raise FormatError("a SavedModel with another number of graphs", where=wire.where, expected=1, got=len(graphs))
    return graphs[0].begin, graphs[0].end


def tensor_chain(wire: Wire, size: int, name: str) -> tuple[Field, ...]:
    """The messages from the file down to the TensorProto of a constant, each within the one before.

    Raises:
        FormatError: there is no such constant.
    """
    begin, _ = graph_of(wire, size)
    outer = _around(wire, size, begin) if begin else ()
    for node in wire.fields(begin, outer[-1].end if outer else size):
        parts = list(protos.messages(wire, node)) if node.number == 1 else []
        if any(p.number == 1 and protos.string(wire, p) == name for p in parts):
            for entry in (p for p in parts if p.number == 5):
                inner = list(protos.messages(wire, entry))
                if any(p.number == 1 and protos.string(wire, p) == "value" for p in inner):
                    (held,) = (p for p in inner if p.number == 2)
                    (tensor,) = (p for p in protos.messages(wire, held) if p.number == 8)
                    return (*outer, node, entry, held, tensor)
    raise FormatError("the graph has no such constant", where=wire.where, got=name)


def _around(wire: Wire, size: int, begin: int) -> tuple[Field, ...]:
    """The messages of a SavedModel that the GraphDef at ``begin`` lies in, itself last."""
    for part in wire.fields(0, size):
        if part.number == 2 and part.wire == LEN and part.begin < begin <= part.end:
            (graph,) = (f for f in wire.fields(part.begin, part.end) if f.number == 2 and f.begin == begin)
            return part, graph
    raise FormatError("not a SavedModel", where=wire.where)


def graph_nodes(wire: Wire, size: int, file: OpenedFile | None = None) -> tuple[dict[str, LazyTensor], dict[str, Node]]:
    """Constants by node name, and every node.

    Raises:
        FormatError: not a GraphDef, or damaged.
    """
    wire = Wire(wire.data, wire.where, MAX_FIELDS)
    begin, end = graph_of(wire, size)
    fields: list[Field] = []
    for part in wire.fields(begin, end):
        if part.number == 1:
            fields.append(part)
        elif part.number > 5:
            raise wire.error("not a GraphDef: it has no such field", part.start, got=f"field {part.number}")
        if len(fields) > MAX_NODES:
            raise wire.error("too many nodes", part.start, expected=f"<= {MAX_NODES}")
    found: dict[str, LazyTensor] = {}
    nodes: dict[str, Node] = {}
    for part in fields:
        node, value = _node(wire, part)
        if not node.op or node.name in nodes:
            raise wire.error(
                "a node without op, or of a name that another one has", part.start, got=repr(node.name[:80])
            )
        nodes[node.name] = node
        if node.op == "Const" and value is not None:
            found[node.name] = _constant(wire, node.name, value, file)
    if not nodes:
        raise FormatError("a graph without nodes", where=wire.where)
    return found, nodes


def _node(wire: Wire, node: Field) -> tuple[Node, Field | None]:
    name = op = ""
    inputs: list[str] = []
    attributes: dict[str, Field] = {}
    for part in protos.messages(wire, node):
        if part.number == 1:
            name = protos.string(wire, part)
        elif part.number == 2:
            op = protos.string(wire, part)
        elif part.number == 3:
            inputs.append(protos.string(wire, part))
        elif part.number == 5:
            key, held = "", None
            for inner in protos.messages(wire, part):
                if inner.number == 1:
                    key = protos.string(wire, inner)
                elif inner.number == 2 and inner.wire == LEN:
                    held = inner
            if held is not None:
                attributes[key] = held
    value, content = None, (0, 0)
    if op == "Const" and "value" in attributes:
        for inner in protos.messages(wire, attributes["value"]):
            if inner.number == 8 and inner.wire == LEN:
                value = inner
        for inner in protos.messages(wire, value) if value is not None else ():
            if inner.number == 4 and inner.wire == LEN:
                content = (inner.begin, inner.end)
    reads = tuple(name.removesuffix(":0") for name in inputs if not name.startswith("^"))
    return Node(name, op, reads, attributes, wire, content), value


def _constant(wire: Wire, name: str, value: Field, file: OpenedFile | None) -> LazyTensor:
    code = 0
    sides: protos.Shape = ()
    for part in protos.messages(wire, value):
        if part.number == 1 and part.wire == VARINT:
            code = part.value
        elif part.number == 2:
            sides = protos.shape(wire, part)
    where = f"{wire.where}, node {name!r}, offset {value.begin}"
    return LazyTensor(
        name, sides, protos.dtype_of(code), partial(_load, wire, name, value, code, sides, file, where), where
    )


def _load(
    wire: Wire, name: str, value: Field, code: int, sides: protos.Shape, file: OpenedFile | None, where: str
) -> Array:
    if protos.dtype_of(code) == protos.UNREADABLE:
        raise protos.unreadable(name, where)
    if file is not None:
        file.unchanged()
    data = wire.data if file is None else file.data
    return protos.tensor_values(Wire(data, wire.where), value.begin, value.end, code, sides)
