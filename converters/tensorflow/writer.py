"""Write checkpoints of TensorFlow's V2 format that ``tf.train.Saver.restore`` reads: one ``.index`` and one ``.data`` shard."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ssdconv.converters.protobuf_wire import LEN, VARINT, encode_varint
from ssdconv.converters.tensorflow.bundle import shard_path
from ssdconv.converters.tensorflow.crc32c import crc32c, masked
from ssdconv.converters.tensorflow.protos import DTYPES
from ssdconv.converters.tensorflow.table import FOOTER, MAGIC
from ssdconv.converters.tensors import Array
from ssdconv.errors import UsageError
from ssdconv.ssd_ref.files import atomic_path

_CODES = {dtype: code for code, dtype in DTYPES.items()}
_BLOCK = 4096
_RESTART = 16
_HEADER = bytes([1 << 3 | VARINT, 1, 3 << 3 | LEN, 2, 1 << 3 | VARINT, 1])
"""BundleHeaderProto: one shard, little-endian, written for readers of version 1 and later."""


def write_bundle(prefix: Path, tensors: Mapping[str, Array]) -> list[Path]:
    """Write a checkpoint, atomically: the old index stands until the new data is complete.

    Args:
        prefix: what TensorFlow calls the checkpoint's path; ``.index`` and ``.data-00000-of-00001`` are added.
        tensors: by variable name without ":0".

    Returns:
        The index, then the shard.

    Raises:
        UsageError: no tensor, or one whose name or dtype TensorFlow cannot hold.
        OutputError: a file could not be written.
    """
    if not tensors:
        raise UsageError("no tensor to write", where=str(prefix))
    index, shard = prefix.with_name(prefix.name + ".index"), shard_path(prefix, 0, 1)
    with atomic_path(index) as table, atomic_path(shard) as data:
        entries = [(b"", _HEADER)]
        offset = 0
        with open(data, "wb") as stream:
            for name in sorted(tensors, key=str.encode):
                array = np.asarray(tensors[name], tensors[name].dtype.newbyteorder("<"), order="C")
                if array.dtype not in _CODES or not name or not name.isprintable():
                    raise UsageError(f"tensor {name[:80]!r} cannot be written to a checkpoint", got=array.dtype)
                raw = array.tobytes()
                stream.write(raw)
                entries.append((name.encode(), _entry(array, offset, crc32c(raw))))
                offset += array.nbytes
        table.write_bytes(table_bytes(entries))
    return [index, shard]


def _entry(array: Array, offset: int, crc: int) -> bytes:
    """BundleEntryProto."""
    sides = b"".join(_field(2, LEN, _field(1, VARINT, encode_varint(side))) for side in array.shape)
    return (
        _field(1, VARINT, encode_varint(_CODES[array.dtype]))
        + _field(2, LEN, sides)
        + (_field(4, VARINT, encode_varint(offset)) if offset else b"")
        + _field(5, VARINT, encode_varint(array.nbytes))
        + bytes([6 << 3 | 5])
        + struct.pack("<I", masked(crc))
    )


def _field(number: int, wire: int, body: bytes) -> bytes:
    return bytes([number << 3 | wire]) + (encode_varint(len(body)) if wire == LEN else b"") + body


def table_bytes(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A whole table file of sorted keys and values, uncompressed."""
    out = bytearray()
    index: list[tuple[bytes, bytes]] = []
    start = 0
    while start < len(entries):
        stop, size = start, 0
        while stop < len(entries) and size < _BLOCK:
            size += len(entries[stop][0]) + len(entries[stop][1]) + 6
            stop += 1
        index.append((entries[stop - 1][0], _append(out, _block(entries[start:stop]))))
        start = stop
    handles = _append(out, _block([])) + _append(out, _block(index))
    footer = handles.ljust(FOOTER - 8, b"\0") + MAGIC.to_bytes(8, "little")
    return bytes(out) + footer


def _append(out: bytearray, block: bytes) -> bytes:
    """Add a block and its trailer; returns its handle."""
    handle = encode_varint(len(out)) + encode_varint(len(block))
    stored = block + b"\0"
    out += stored + struct.pack("<I", masked(crc32c(stored)))
    return handle


def _block(entries: list[tuple[bytes, bytes]]) -> bytes:
    out, restarts, last = bytearray(), [0], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % _RESTART:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        elif number:
            restarts.append(len(out))
        out += (
            encode_varint(shared) + encode_varint(len(key) - shared) + encode_varint(len(value)) + key[shared:] + value
        )
        last = key
    return bytes(out) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
