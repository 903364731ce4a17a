"""Read a .caffemodel without Caffe: its layer list as ``CaffeNet`` and its blobs as lazy arrays.

The file is one binary NetParameter: V2 ``layer`` (field 100, blobs 7) or V1 ``layers`` (field 2, blobs 6). Blobs are found
by walking the bytes; only what is left of a layer goes through protobuf, so reading costs memory for the layer list and
not for the weights. Kernels are OIHW, named ``<layer>/<index>``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from ssdconv.converters.caffe.blobs import Blob, read_blob, walk_blob
from ssdconv.converters.caffe.forks import renumbered
from ssdconv.converters.caffe.net import CaffeLayer, CaffeNet
from ssdconv.converters.caffe.plain import Reader
from ssdconv.converters.caffe.schema import messages
from ssdconv.converters.caffe.sniff import refuse_strangers
from ssdconv.converters.caffe.upgrade import MAX_LAYERS, MAX_NAME, inputs_of, layer_of, shown
from ssdconv.converters.opened import OpenedFile
from ssdconv.converters.protobuf_wire import LEN, Field, Wire
from ssdconv.converters.tensors import Array, LazyTensor, TensorTable
from ssdconv.errors import FormatError

MAX_BLOBS = 64  # of one layer
MAX_ALL_BLOBS = 20_000
MAX_LAYER_BYTES = 256 << 10  # of one layer without its blobs
MAX_NET_BYTES = 8 << 20  # of the file without its blobs
_V1_LAYERS, _V2_LAYER = 2, 100


@dataclass
class _Walk:
    """What the walk over one file has found so far."""

    layers: list[tuple[CaffeLayer, tuple[Blob, ...]]]
    header: list[bytes]
    spent: int = 0
    blobs: int = 0
    version: int = 0


def read_caffemodel(path: Path, *, use_mmap: bool = True) -> TensorTable:
    """Open a .caffemodel.

    Args:
        path: the file.
        use_mmap: map the file; False reads it whole first (for files on unreliable shares).

    Returns:
        Tensors ``<layer>/<index>`` in file order, float32 (float64 where stored so), read-only and possibly unaligned.
        ``meta["net"]`` is the ``CaffeNet`` with blob shapes; ``meta["unchanged"]()`` raises when the file was changed
        since it was opened.

    Raises:
        MissingError: no such file.
        FormatError: not a .caffemodel, or a damaged or hostile one.
    """
    source = OpenedFile(path, use_mmap=use_mmap)
    try:
        return _read(source)
    except BaseException:
        source.close()
        raise


def _read(source: OpenedFile) -> TensorTable:
    where = str(source.path)
    data = source.data
    refuse_strangers(bytes(data[:1024]), where, text=False)
    wire = Wire(data, where)
    reader = Reader(where)
    walk = _Walk([], [])
    for field in wire.fields(0, len(data)):
        if field.wire == LEN and field.number in (_V1_LAYERS, _V2_LAYER):
            _walk_layer(wire, field, walk, reader)
        else:
            _spend(wire, field, walk)
            walk.header.append(bytes(data[field.start : field.end]))
    if not walk.layers:
        raise FormatError(
            "the file holds no layers", where=where, expected="a NetParameter with layers", hint="is it cut off?"
        )
    head = _parse("Net", b"".join(walk.header), wire, 0, "net")
    layers = tuple(replace(layer, blobs=tuple(b.shape for b in blobs)) for layer, blobs in walk.layers)
    name = reader.text(head.name, "net name")
    reader.unknown_of(head, "net")
    inputs = inputs_of(head, layers, reader)
    net = CaffeNet(name, inputs, layers, reader.unknown)
    tensors = _tensors(source, walk, where)
    warnings = [f"{t.where}: no elements" for t in tensors.values() if t.nbytes == 0]
    if net.unknown:
        warnings.append(f"{len(net.unknown)} fields that the schema does not know, first: {net.unknown[0]}")
    meta = {"net": net, "unchanged": source.unchanged}
    return TensorTable(source.path, "caffemodel", tensors, meta=meta, warnings=tuple(warnings), close=source.close)


def _walk_layer(wire: Wire, field: Field, walk: _Walk, reader: Reader) -> None:
    """Add the layer in ``field``: blobs by walking, the rest through the schema."""
    v1 = field.number == _V1_LAYERS
    index = len(walk.layers)
    label = f"layer #{index}"
    if index >= MAX_LAYERS:
        raise wire.error("the file holds more layers than any network has", field.start, expected=f"<= {MAX_LAYERS}")
    if walk.version not in (0, field.number):
        raise wire.error("the file mixes V1 'layers' and V2 'layer'", field.start, layer=label)
    walk.version = field.number
    blobs: list[Field] = []
    rest: list[Field] = []
    spent = walk.spent
    for part in wire.fields(field.begin, field.end):
        if part.number == (6 if v1 else 7) and part.wire == LEN:
            blobs.append(part)
            continue
        _spend(wire, part, walk)
        rest.append(part)
        if walk.spent - spent > MAX_LAYER_BYTES:
            raise wire.error("a layer's parameters are too large", field.start, expected=MAX_LAYER_BYTES, layer=label)
    data = wire.data
    pieces = {part: bytes(data[part.start : part.end]) for part in rest}
    named = [p for p in rest if p.number == (4 if v1 else 1) and p.wire == LEN]
    if named:
        label = f"layer {shown(bytes(data[named[-1].begin : named[-1].end])[:MAX_NAME].decode('utf-8', 'replace'))}"
    if not v1:
        kinds = [p for p in rest if p.number == 2 and p.wire == LEN]
        kind = bytes(data[kinds[-1].begin : kinds[-1].end]).decode("utf-8", "replace") if kinds else ""
        alias = renumbered(kind, rest)
        if alias is not None:
            stray, tag, remark = alias
            pieces[stray] = tag + pieces[stray][_tag_size(pieces[stray]) :]
            reader.remark(f"{label}: {remark}")
    message = _parse("V1Layer" if v1 else "Layer", b"".join(pieces.values()), wire, field.start, label)
    layer = layer_of(message, index, reader, v1=v1)
    walk.blobs += len(blobs)
    if len(blobs) > MAX_BLOBS or walk.blobs > MAX_ALL_BLOBS:
        raise wire.error(
            "too many blobs",
            field.start,
            expected=f"<= {MAX_BLOBS} a layer and {MAX_ALL_BLOBS} in all",
            got=f"{len(blobs)} and {walk.blobs}",
            layer=label,
        )
    found = tuple(walk_blob(wire, part, f"{label} blob {i}") for i, part in enumerate(blobs))
    for i, blob in enumerate(found):
        for number in blob.unknown:
            reader.note(label, f"blobs[{i}].{number}")
    walk.layers.append((layer, found))


def _tag_size(piece: bytes) -> int:
    return next(i for i, byte in enumerate(piece) if byte < 0x80) + 1


def _spend(wire: Wire, field: Field, walk: _Walk) -> None:
    walk.spent += field.end - field.start
    if walk.spent > MAX_NET_BYTES:
        raise wire.error("the file holds too much besides weights", field.start, expected=f"<= {MAX_NET_BYTES} bytes")


def _parse(kind: str, data: bytes, wire: Wire, offset: int, label: str) -> Any:
    message = messages()[kind]()
    try:
        message.MergeFromString(data)
    except DecodeError as error:
        raise wire.error(f"a message inside is damaged: {error}", offset, layer=label) from None
    return message


def _tensors(source: OpenedFile, walk: _Walk, where: str) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}
    owner: dict[str, tuple[int, int]] = {}
    for index, (layer, blobs) in enumerate(walk.layers):
        if not blobs:
            continue
        if layer.name in owner:
            first, offset = owner[layer.name]
            raise FormatError(
                f"two layers named {layer.name!r} both hold blobs",
                where=f"{where}, layers #{first} and #{index}, offsets {offset} and {blobs[0].offset}",
                expected="one layer of a name with blobs",
            )
        owner[layer.name] = index, blobs[0].offset
        for i, blob in enumerate(blobs):
            name = f"{layer.name}/{i}"
            place = f"layer {shown(layer.name)} blob {i}, offset {blob.offset}"
            tensors[name] = LazyTensor(name, blob.shape, blob.dtype, partial(_load, source, blob), place)
    return tensors


def _load(source: OpenedFile, blob: Blob) -> Array:
    source.unchanged()
    return read_blob(blob, source.data)
