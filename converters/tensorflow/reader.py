"""Open a checkpoint (V2 or V1) or a frozen graph as a tensor table, whichever of its names is given."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ssdconv.converters.opened import OpenedFile
from ssdconv.converters.protobuf_wire import Wire
from ssdconv.converters.tensorflow.bundle import Bundle, open_shard, saved_tensors
from ssdconv.converters.tensorflow.graphdef import Node, graph_nodes
from ssdconv.converters.tensorflow.table import Table, is_table
from ssdconv.converters.tensors import LazyTensor, TensorTable
from ssdconv.errors import FormatError, MissingError

_PART = re.compile(r"(.+)\.(?:index|meta|data-\d{5}-of-\d{5})")


def index_of(path: Path) -> Path:
    """The file to open for a path as users give it: a prefix, ``.index``, ``.meta``, one ``.data`` shard, a SavedModel's folder, or a file itself."""
    path = Path(path)
    if (path / "saved_model.pb").is_file():
        return path / "saved_model.pb"
    match = _PART.fullmatch(path.name)
    if match or not path.is_file():
        prefix = path.with_name(match[1]) if match else path
        index = prefix.with_name(f"{prefix.name}.index")
        return index if prefix.name and index.is_file() else path
    return path


@dataclass(frozen=True)
class CheckpointFile:
    """What opening found.

    Attributes:
        flavour: the format.
        nodes: of a graph, by name.
        data: of a graph, the file's bytes.
        ends: of a detection graph that was planned, the nodes where it begins and ends: see ``whole.Whole.nodes``.
    """

    flavour: Literal["V2", "V1", "graph"]
    nodes: Mapping[str, Node] = field(default_factory=dict)
    data: mmap.mmap | bytes = b""
    ends: dict[str, str] = field(default_factory=dict)


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
        found, nodes = graph_nodes(Wire(file.data, str(path)), len(file.data), file)
    except FormatError as error:
        raise FormatError(
            f"neither a checkpoint nor a frozen graph of TensorFlow: {error.what}",
            where=error.where,
            expected=error.expected,
            got=error.got,
            hint="give a checkpoint's .index file, a V1 checkpoint, or a frozen GraphDef (.pb)",
        ) from None
    return _made(path, CheckpointFile("graph", nodes, file.data), found, file.unchanged, file.close)


def _made(
    path: Path,
    file: CheckpointFile,
    tensors: dict[str, LazyTensor],
    unchanged: Callable[[], None],
    close: Callable[[], None],
) -> TensorTable:
    kind = {"V2": "checkpoint V2", "V1": "checkpoint V1", "graph": "frozen graph"}[file.flavour]
    return TensorTable(path, kind, tensors, found=file, unchanged=unchanged, close=close)
