"""Frozen graphs (``.pb``): the constants of a GraphDef, found by walking the message.

GraphDef: field 1 the nodes. NodeDef: 1 name, 2 op, 5 attributes (a map: 1 key, 2 AttrValue). AttrValue: 8 a TensorProto. TensorProto: 1
dtype, 2 shape, 4 raw content, 5 and 6 packed values (tensorflow/core/framework/graph.proto, node_def.proto, attr_value.proto).
"""

from __future__ import annotations

from functools import partial

from ssdconv.converters.opened import OpenedFile
from ssdconv.converters.protobuf_wire import LEN, VARINT, Field, Wire
from ssdconv.converters.tensorflow import protos
from ssdconv.converters.tensors import Array, LazyTensor
from ssdconv.errors import FormatError

MAX_NODES = 100_000


def graph_tensors(
    wire: Wire, size: int, file: OpenedFile | None = None
) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Constants by node name, and the op of every node.

    Raises:
        FormatError: not a GraphDef, or damaged.
    """
    found: dict[str, LazyTensor] = {}
    ops: dict[str, str] = {}
    for node in wire.fields(0, size):
        if node.number != 1:
            if node.number > 5:
                raise wire.error("not a GraphDef: it has no such field", node.start, got=f"field {node.number}")
            continue
        name, op, value = _node(wire, node)
        if not op or name in ops:
            raise wire.error("a node without op, or of a name that another one has", node.start, got=repr(name[:80]))
        ops[name] = op
        if len(ops) > MAX_NODES:
            raise wire.error("too many nodes", node.start, expected=f"<= {MAX_NODES}")
        if op == "Const" and value is not None:
            found[name] = _constant(wire, name, value, file)
    if not ops:
        raise FormatError("a graph without nodes", where=wire.where)
    return found, ops


def _node(wire: Wire, node: Field) -> tuple[str, str, Field | None]:
    name = op = ""
    value = None
    for part in protos.messages(wire, node):
        if part.number == 1:
            name = protos.string(wire, part)
        elif part.number == 2:
            op = protos.string(wire, part)
        elif part.number == 5:
            key, held = "", None
            for inner in protos.messages(wire, part):
                if inner.number == 1:
                    key = protos.string(wire, inner)
                elif inner.number == 2:
                    held = inner
            if key == "value" and held is not None:
                for inner in protos.messages(wire, held):
                    if inner.number == 8 and inner.wire == LEN:
                        value = inner
    return name, op, value


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
