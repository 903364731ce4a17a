"""Small checkpoints: one written by the code under test, and tables put together from their description alone."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ssdconv.converters.plan import Request
from ssdconv.converters.tensorflow import source
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.tensorflow import hikapok

NARROW = hikapok("hikapok_ssd300_vgg16_voc", 5, width=2)


def slow_crc(data: bytes) -> int:
    """CRC-32C bit by bit (RFC 3720)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> bytes:
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def block(entries: list[tuple[bytes, bytes]], kind: int = 0, shrink: bool = True) -> bytes:
    """A block with its trailer; keys share prefixes with ``shrink``; ``kind`` 1 stores it as one Snappy literal."""
    body, last = b"", b""
    for key, value in entries:
        shared = 0
        while shrink and shared < min(len(key), len(last)) and key[shared] == last[shared]:
            shared += 1
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    body += struct.pack("<II", 0, 1)
    if kind == 1:
        body = varint(len(body)) + bytes([62 << 2]) + struct.pack("<I", len(body) - 1)[:3] + body
    stored = body + bytes([kind])
    return stored + masked(slow_crc(stored))


def table(
    blocks: list[bytes],
    keys: list[bytes],
    magic: int = 0xDB4775248B80FB57,
    handles: list[tuple[int, int]] | None = None,
) -> bytes:
    """A table file of finished blocks; ``keys`` are their last keys, ``handles`` others than where the blocks lie."""
    out, index = b"", []
    for number, (key, one) in enumerate(zip(keys, blocks, strict=True)):
        place, size = handles[number] if handles else (len(out), len(one) - 5)
        index.append((key, varint(place) + varint(size)))
        out += one
    last = block(index)
    handle = varint(0) + varint(0) + varint(len(out)) + varint(len(last) - 5)
    return out + last + handle.ljust(40, b"\0") + struct.pack("<Q", magic)


def packed_entry(array: np.ndarray, offset: int, code: int = 1, shard: int = 0) -> bytes:
    """A BundleEntryProto."""
    sides = b"".join(b"\x12" + varint(len(b"\x08" + varint(s))) + b"\x08" + varint(s) for s in array.shape)
    out = b"\x08" + varint(code) + b"\x12" + varint(len(sides)) + sides + b"\x18" + varint(shard)
    return out + b"\x20" + varint(offset) + b"\x28" + varint(array.nbytes) + b"\x35" + masked(slow_crc(array.tobytes()))


def small(folder: Path, kind: int = 0) -> tuple[Path, dict[str, np.ndarray]]:
    """A V2 checkpoint of three tensors in two blocks."""
    rng = np.random.default_rng(1)
    arrays = {
        "ssd300/conv1/bias": rng.standard_normal(3).astype("f4"),
        "ssd300/conv1/kernel": rng.standard_normal((2, 2)).astype("f4"),
        "ssd300/scalar": np.float32(7).reshape(()),
    }
    entries, data = [(b"", b"\x08\x01\x1a\x02\x08\x01")], b""
    for name, array in arrays.items():
        entries.append((name.encode(), packed_entry(array, len(data))))
        data += array.tobytes()
    index = table([block(entries[:2], kind), block(entries[2:], kind)], [entries[1][0], entries[3][0] + b"\xff"])
    (folder / "small.ckpt.index").write_bytes(index)
    (folder / "small.ckpt.data-00000-of-00001").write_bytes(data)
    return folder / "small.ckpt.index", arrays


@pytest.fixture(scope="session")
def packing() -> SimpleNamespace:
    """The functions of this module."""
    return SimpleNamespace(
        block=block, table=table, entry=packed_entry, small=small, crc=slow_crc, masked=masked, varint=varint
    )


@pytest.fixture
def narrow(tmp_path: Path) -> SimpleNamespace:
    """A narrow SSD.TensorFlow checkpoint with its config and reference tensors."""
    tensors = seeded_tensors(NARROW, 3)
    index, data = source.write(NARROW, tensors, tmp_path / "net.ckpt", Request())
    return SimpleNamespace(config=NARROW, tensors=tensors, index=index, data=data)
