"""Open a checkpoint (V2 or V1) or a frozen graph as a tensor table, whichever of its names is given.

Frozen graphs (``.pb``): the constants of a GraphDef, found by walking the message.

GraphDef: field 1 the nodes. NodeDef: 1 name, 2 op, 5 attributes (a map: 1 key, 2 AttrValue). AttrValue: 8 a TensorProto. TensorProto: 1
dtype, 2 shape, 4 raw content, 5 and 6 packed values (tensorflow/core/framework/graph.proto, node_def.proto, attr_value.proto).

Which file stands for a checkpoint, given any of its names. Imports nothing but the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from ssdconv.converters.opened import OpenedFile
from ssdconv.converters.protobuf_wire import LEN, VARINT, Field, Wire
from ssdconv.converters.tensorflow import protos
from ssdconv.converters.tensorflow.bundle import Bundle, open_shard, saved_tensors
from ssdconv.converters.tensorflow.table import Table, is_table
from ssdconv.converters.tensors import Array, LazyTensor, TensorTable
from ssdconv.errors import FormatError, MissingError

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


_PART = re.compile(r"(.+)\.(?:index|meta|data-\d{5}-of-\d{5})")


def index_of(path: Path) -> Path:
    """The file to open for a path as users give it: a prefix, ``.index``, ``.meta``, one ``.data`` shard, or a file itself."""
    path = Path(path)
    match = _PART.fullmatch(path.name)
    if match or not path.is_file():
        prefix = path.with_name(match[1]) if match else path
        index = prefix.with_name(f"{prefix.name}.index")
        return index if prefix.name and index.is_file() else path
    return path


@dataclass(frozen=True)
class CheckpointFile:
    """What opening found: the format, and for a graph the op of each node by its name."""

    flavour: Literal["V2", "V1", "graph"]
    ops: Mapping[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path) -> TensorTable:
    """Open a checkpoint or a frozen graph.

    Args:
        path: a checkpoint's prefix, its ``.index``, ``.meta`` or ``.data`` file, a V1 checkpoint, or a ``.pb`` graph.

    Returns:
        Tensors by variable name (by node name for a graph), without ":0", and a ``CheckpointFile``.

    Raises:
        MissingError: no such file, or a shard is missing.
        FormatError: damaged, or no such file format.
    """
    given, path = Path(path), index_of(path)
    if path.name.endswith(".meta"):
        raise MissingError(
            "this is the graph of a checkpoint; its weights are in files beside it, which are missing",
            where=str(given),
            expected=str(given)[: -len(".meta")] + ".index",
        )
    file = OpenedFile(path)
    try:
        if is_table(bytes(file.data[-8:])):
            return _table(path, file)
        return _graph(path, file)
    except BaseException:
        file.close()
        raise


def _table(path: Path, file: OpenedFile) -> TensorTable:
    table = Table(file.data, str(path))
    first = table.get(b"")
    if first is None:
        raise FormatError("a table, but not of a checkpoint: it has no header", where=str(path))
    if path.name.endswith(".index") or not _lists_tensors(table):
        prefix = path.with_name(path.name.removesuffix(".index"))
        bundle = Bundle(table, lambda index, count: open_shard(prefix, index, count))

        def close() -> None:
            bundle.close()
            file.close()

        def unchanged() -> None:
            file.unchanged()
            bundle.unchanged()

        try:
            return _made(path, CheckpointFile("V2"), bundle.tensors(), unchanged, close)
        except BaseException:
            bundle.close()
            raise
    return _made(path, CheckpointFile("V1"), saved_tensors(table, file), file.unchanged, file.close)


def _lists_tensors(table: Table) -> bool:
    """Whether the header is V1's list of tensors: a message in field 1, where V2 has a number."""
    value = table.get(b"")
    return value is not None and len(value) > 0 and value[0] == 1 << 3 | 2


def _graph(path: Path, file: OpenedFile) -> TensorTable:
    try:
        found, ops = graph_tensors(Wire(file.data, str(path)), len(file.data), file)
    except FormatError as error:
        raise FormatError(
            f"neither a checkpoint nor a frozen graph of TensorFlow: {error.what}",
            where=error.where,
            expected=error.expected,
            got=error.got,
            hint="give a checkpoint's .index file, a V1 checkpoint, or a frozen GraphDef (.pb)",
        ) from None
    return _made(path, CheckpointFile("graph", ops), found, file.unchanged, file.close)


def _made(
    path: Path,
    file: CheckpointFile,
    tensors: dict[str, LazyTensor],
    unchanged: Callable[[], None],
    close: Callable[[], None],
) -> TensorTable:
    kind = {"V2": "checkpoint V2", "V1": "checkpoint V1", "graph": "frozen graph"}[file.flavour]
    return TensorTable(path, kind, tensors, found=file, unchanged=unchanged, close=close)
