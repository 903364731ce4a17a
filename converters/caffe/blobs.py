"""BlobProto: the shape and the places of the numbers of one learned tensor, found by walking.

Fields: 1-4 legacy num/channels/height/width, 5 ``data`` (float), 6 ``diff``, 7 ``shape`` {1 ``dim``}, 8 ``double_data``,
9 ``double_diff``. ``data`` comes packed (one length-prefixed run), unpacked (a tag before every float: records of five
bytes), or as several runs of either kind, which count as one concatenated list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ssdconv.converters.caffe.net import MAX_DIMS, MAX_SIDE, Shape
from ssdconv.converters.protobuf_wire import FIXED32, FIXED64, LEN, VARINT, Field, Wire, signed32, signed64
from ssdconv.converters.tensors import Array

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
