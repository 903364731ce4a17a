"""Read a .caffemodel without Caffe: its layer list as ``CaffeNet`` and its blobs as lazy arrays.

The file is one binary NetParameter: V2 ``layer`` (field 100, blobs 7) or V1 ``layers`` (field 2, blobs 6). Blobs are found
by walking the bytes; only what is left of a layer goes through protobuf, so reading costs memory for the layer list and
not for the weights. Kernels are OIHW, named ``<layer>/<index>``.

Fields of a BlobProto: 1-4 legacy num/channels/height/width, 5 ``data`` (float), 6 ``diff``, 7 ``shape`` {1 ``dim``}, 8 ``double_data``,
9 ``double_diff``. ``data`` comes packed (one length-prefixed run), unpacked (a tag before every float: records of five
bytes), or as several runs of either kind, which count as one concatenated list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from ssdconv.converters.caffe.net import (
    MAX_DIMS,
    MAX_LAYERS,
    MAX_NAME,
    MAX_SIDE,
    CaffeLayer,
    CaffeNet,
    Reader,
    Shape,
    inputs_of,
    layer_of_message,
    shown,
)
from ssdconv.converters.caffe.schema import messages, renumbered
from ssdconv.converters.caffe.sniff import refuse_strangers
from ssdconv.converters.opened import OpenedFile
from ssdconv.converters.protobuf_wire import FIXED32, FIXED64, LEN, VARINT, Field, Wire, signed32, signed64
from ssdconv.converters.tensors import Array, LazyTensor, TensorTable
from ssdconv.errors import FormatError

MAX_RUNS = 4096
_DATA, _DIFF, _SHAPE, _DOUBLE_DATA, _DOUBLE_DIFF = 5, 6, 7, 8, 9
_FLOAT, _DOUBLE = np.dtype("<f4"), np.dtype("<f8")
_SCAN = 1 << 20  # unpacked records looked at in one go


@dataclass(frozen=True, slots=True)
class Run:
    """``count`` numbers from ``offset`` on: back to back, or (``unpacked``) each behind a one-byte tag."""

    offset: int
    count: int
    unpacked: bool


@dataclass(frozen=True, slots=True)
class Blob:
    """One blob, unread.

    Attributes:
        shape: the tensor's shape; legacy blobs have four dimensions.
        dtype: float32, or float64 where the file stores ``double_data``.
        runs: where the numbers are.
        offset: start of the blob in the file.
        unknown: numbers of fields that Caffe's BlobProto does not have.
    """

    shape: Shape
    dtype: np.dtype[np.float32] | np.dtype[np.float64]
    runs: tuple[Run, ...]
    offset: int
    unknown: tuple[int, ...] = ()


def read_blob(blob: Blob, data: object) -> Array:
    """The blob's numbers, shape ``blob.shape``, read-only: a view of ``data`` for a single run, else a copy.

    Views may be unaligned, since the file's offsets are arbitrary.
    """
    views = [_view(run, blob.dtype, data) for run in blob.runs]
    if len(views) == 1:
        flat = views[0]
    elif views:
        flat = np.concatenate(views)
    else:
        flat = np.zeros(0, blob.dtype)
    array = flat.reshape(blob.shape)
    array.flags.writeable = False
    return array


def _view(run: Run, dtype: np.dtype[np.float32] | np.dtype[np.float64], data: object) -> Array:
    if not run.unpacked:
        return np.frombuffer(data, dtype, run.count, run.offset)  # type: ignore[call-overload,no-any-return]
    record = np.dtype({"names": ["tag", "value"], "formats": ["u1", dtype], "offsets": [0, 1]})
    records = np.frombuffer(data, record, run.count, run.offset)  # type: ignore[call-overload]
    return records["value"]  # type: ignore[no-any-return]


def walk_blob(wire: Wire, field: Field, layer: str) -> Blob:
    """Find shape and numbers of the BlobProto in ``field``.

    Args:
        wire: the file.
        field: the LEN field of the layer that holds the blob.
        layer: "layer conv1 blob 0", for messages.

    Raises:
        FormatError: sides that are negative or too large, a shape that does not fit the count of numbers, data that is
            not whole numbers, no shape and no data.
    """
    legacy: dict[int, int] = {}
    dims: list[int] | None = None
    runs: dict[int, list[Run]] = {_DATA: [], _DOUBLE_DATA: [], _DIFF: [], _DOUBLE_DIFF: []}
    unknown: list[int] = []
    at = field.begin
    while at < field.end:
        part = wire.field(at, field.end)
        at = part.end
        if part.number in runs and part.wire in (LEN, FIXED32, FIXED64):
            run = _run(wire, part, field.end, layer)
            if run is not None:
                at = max(at, run.offset + run.count * (1 + _item(part.number))) if run.unpacked else at
                runs[part.number].append(run)
            if len(runs[part.number]) > MAX_RUNS:
                raise wire.error(
                    "a blob's data is split into too many runs", part.start, expected=MAX_RUNS, layer=layer
                )
        elif part.number == _SHAPE and part.wire == LEN:
            dims = (dims or []) + _dims(wire, part, layer)
            if len(dims) > MAX_DIMS:
                raise wire.error("a blob has too many dimensions", part.start, expected=f"<= {MAX_DIMS}", layer=layer)
        elif 1 <= part.number <= 4 and part.wire == VARINT:
            legacy[part.number] = signed32(part.value)
        elif part.number not in unknown and len(unknown) < 8:
            unknown.append(part.number)
    shapes: list[Shape] = [] if dims is None else [tuple(dims)]
    if legacy:
        shapes.append(tuple(legacy.get(i, 0) for i in (1, 2, 3, 4)))
    double = bool(runs[_DOUBLE_DATA])  # as Caffe does it: double_data is used where there is any
    found = tuple(runs[_DOUBLE_DATA if double else _DATA])
    shape = _fitting(wire, field.start, shapes, found, layer)
    return Blob(shape, _DOUBLE if double else _FLOAT, found, field.start, tuple(unknown))


def _item(number: int) -> int:
    return 4 if number in (_DATA, _DIFF) else 8


def _run(wire: Wire, part: Field, end: int, layer: str) -> Run | None:
    """The run of numbers that ``part`` begins; for unpacked ones with all following records of the same tag."""
    size = _item(part.number)
    if part.wire == LEN:
        count, rest = divmod(part.end - part.begin, size)
        if rest:
            raise wire.error(
                f"a blob's data is not a whole count of {size}-byte numbers",
                part.start,
                got=f"{part.end - part.begin} bytes",
                layer=layer,
            )
        return Run(part.begin, count, False) if count else None
    if part.end - part.begin != size:
        raise wire.error(
            "a blob's data has the wrong width", part.start, expected=f"{size} bytes a number", layer=layer
        )
    if part.begin - part.start != 1:  # an overlong tag: no fixed record size
        return Run(part.begin, 1, False)
    record = size + 1
    most = (end - part.start) // record
    tag = wire.data[part.start]
    count, step = 0, 32
    while count < most:
        step = min(2 * step, _SCAN, most - count)
        tags = np.frombuffer(wire.data, np.uint8, (step - 1) * record + 1, part.start + count * record)[::record]
        other = tags != tag
        if other.any():
            count += int(other.argmax())
            break
        count += step
    return Run(part.start, count, True)


def _dims(wire: Wire, shape: Field, layer: str) -> list[int]:
    """``dim`` of a BlobShape, packed or not."""
    dims: list[int] = []
    for part in wire.fields(shape.begin, shape.end):
        if part.number != 1:
            continue
        if part.wire == VARINT:
            dims.append(signed64(part.value))
        elif part.wire == LEN:
            at = part.begin
            while at < part.end and len(dims) <= MAX_DIMS:
                value, at = wire.varint(at, part.end)
                dims.append(signed64(value))
        if len(dims) > MAX_DIMS:
            raise wire.error("a blob has too many dimensions", part.start, expected=f"<= {MAX_DIMS}", layer=layer)
    return dims


def _fitting(wire: Wire, offset: int, shapes: list[Shape], runs: tuple[Run, ...], layer: str) -> Shape:
    count = sum(run.count for run in runs)
    for shape in shapes:
        for side in shape:
            if side < 0:
                raise wire.error("a blob has a negative side", offset, got=list(shape), layer=layer)
            if side > MAX_SIDE:
                raise wire.error(
                    "a blob has a side that is too large", offset, expected=f"<= {MAX_SIDE}", got=side, layer=layer
                )
    if not shapes:
        if not count:
            raise wire.error("a blob has neither shape nor data", offset, layer=layer)
        shapes = [()]
    for shape in shapes:
        if math.prod(shape) == count:
            return shape
    raise wire.error(
        "a blob's length does not fit its shape",
        offset,
        expected=" or ".join(f"{math.prod(s)} numbers for {list(s)}" for s in shapes),
        got=f"{count} numbers",
        layer=layer,
    )


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
        What it found is a ``CaffeNet`` with blob shapes.

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
    told, close, unchanged = tuple(warnings), source.close, source.unchanged
    return TensorTable(source.path, "caffemodel", tensors, found=net, warnings=told, unchanged=unchanged, close=close)


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
    layer = layer_of_message(message, index, reader, v1=v1)
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
