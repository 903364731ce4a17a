"""A graph's own text, and the way back to its file: all bytes but the network's tensors are kept, and the tensors put in again.

The text is a line of JSON, ``[[node, first byte, last byte], …]`` of the raw contents that were cut out, then the file without them;
compressed (zlib) and as base64, for it travels inside a checkpoint's config. Constants that stand as numbers stay in the text and are
written anew only where they changed. An unchanged network gives its file again, byte for byte.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ssdconv.converters.protobuf_wire import LEN, Field, Wire, encode_varint
from ssdconv.converters.tensorflow.graphdef import Node, graph_nodes, tensor_chain
from ssdconv.converters.tensors import Array
from ssdconv.errors import FormatError, MappingError
from ssdconv.ssd_ref.files import atomic_path

MAX_TEXT = 1 << 28
"""Bytes of a graph without its tensors."""


def text_of(data: bytes, nodes: Mapping[str, Node], cut: Sequence[str]) -> str:
    """The text of a file: ``cut`` are the constants whose values are left out.

    Raises:
        FormatError: what is left is larger than any graph's nodes.
    """
    cuts = sorted((*nodes[name].content, name) for name in cut if nodes[name].content[1] > nodes[name].content[0])
    parts, at = [], 0
    for begin, end, _ in cuts:
        parts.append(data[at:begin])
        at = end
    kept = b"".join((*parts, data[at:]))
    if len(kept) > MAX_TEXT:
        raise FormatError("the graph's nodes are larger than any network's", expected=f"<= {MAX_TEXT}", got=len(kept))
    head = json.dumps([[name, begin, end] for begin, end, name in cuts]).encode()
    return base64.b64encode(zlib.compress(head + b"\n" + kept, 9)).decode()


def write_again(text: str, arrays: Mapping[str, Array], dst: Path) -> Path:
    """Write a graph's file with these values of its constants, as the file stores them.

    Raises:
        FormatError: the text is damaged.
        MappingError: a value of another size than the file's.
        OutputError: the file could not be written.
    """
    data = _filled(text, arrays, str(dst))
    found, _ = graph_nodes(Wire(data, str(dst)), len(data))
    for name, array in arrays.items():
        if name not in found or found[name].shape != array.shape or found[name].dtype != array.dtype:
            raise MappingError(
                "the graph has no such tensor", where=f"node {name!r}", got=f"{array.dtype} {array.shape}"
            )
    changed = [name for name in arrays if np.asarray(found[name].load()).tobytes() != arrays[name].tobytes()]
    for name in changed:  # constants that stand as numbers
        data = _rewritten(data, tensor_chain(Wire(data, str(dst)), len(data), name), arrays[name].tobytes())
    with atomic_path(dst) as path:
        path.write_bytes(data)
    return dst


def plain(text: str, where: str) -> bytes:
    """The file of a text with zeros for what was cut out: its nodes are all there.

    Raises:
        FormatError: the text is damaged.
    """
    return _filled(text, None, where)


def _filled(text: str, arrays: Mapping[str, Array] | None, where: str) -> bytes:
    try:
        unpacked = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), 2 * MAX_TEXT)
        head, _, kept = unpacked.partition(b"\n")
        cuts = [(str(name), int(begin), int(end)) for name, begin, end in json.loads(head)]
    except (binascii.Error, zlib.error, ValueError, TypeError) as error:
        raise FormatError(f"the graph that the checkpoint remembers is damaged: {error}", where=where) from None
    parts, at, taken = [], 0, 0
    for name, begin, end in cuts:
        raw = bytes(min(end - begin, MAX_TEXT)) if arrays is None else b""
        if arrays is not None and name in arrays:
            raw = arrays[name].tobytes()
        if len(raw) != end - begin or begin < at:
            raise MappingError(
                "a tensor has another size than in the file", where=f"node {name!r}", expected=end - begin, got=len(raw)
            )
        parts += [kept[taken : taken + begin - at], raw]
        taken += begin - at
        at = end
    return b"".join((*parts, kept[taken:]))


def _rewritten(data: bytes, chain: Sequence[Field], raw: bytes) -> bytes:
    """The file with a TensorProto (the last of a chain of messages, each within the one before) holding other raw values."""
    tensor = chain[-1]
    new = b"".join(data[f.start : f.end] for f in Wire(data, "").fields(tensor.begin, tensor.end) if f.number in (1, 2))
    new += bytes([4 << 3 | LEN]) + encode_varint(len(raw)) + raw
    outer = [(0, len(data)), *((f.begin, f.end) for f in chain[:-1])]
    for field, (begin, end) in zip(reversed(chain), reversed(outer), strict=True):
        tag = encode_varint(field.number << 3 | LEN)
        new = data[begin : field.start] + tag + encode_varint(len(new)) + new + data[field.end : end]
    return new
