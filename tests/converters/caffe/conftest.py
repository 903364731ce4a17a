"""An independent, naive emitter of Caffe's binary format, for building good and bad files byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest


class Emit:
    """Protobuf fields and Caffe messages as bytes; nothing here uses the code under test."""

    @staticmethod
    def varint(value: int) -> bytes:
        value &= (1 << 64) - 1
        out = b""
        while True:
            low, value = value & 127, value >> 7
            if not value:
                return out + bytes([low])
            out += bytes([low | 128])

    @classmethod
    def tag(cls, number: int, wire: int) -> bytes:
        return cls.varint(number * 8 + wire)

    @classmethod
    def int(cls, number: int, value: int) -> bytes:
        return cls.tag(number, 0) + cls.varint(value)

    @classmethod
    def sub(cls, number: int, *parts: bytes | str) -> bytes:
        body = b"".join(p.encode() if isinstance(p, str) else p for p in parts)
        return cls.tag(number, 2) + cls.varint(len(body)) + body

    @classmethod
    def floats(cls, *values: float, number: int = 5) -> bytes:
        return cls.sub(number, struct.pack(f"<{len(values)}f", *values))

    @classmethod
    def floats_unpacked(cls, *values: float, number: int = 5) -> bytes:
        return b"".join(cls.tag(number, 5) + struct.pack("<f", v) for v in values)

    @classmethod
    def doubles(cls, *values: float, number: int = 8) -> bytes:
        return cls.sub(number, struct.pack(f"<{len(values)}d", *values))

    @classmethod
    def doubles_unpacked(cls, *values: float, number: int = 8) -> bytes:
        return b"".join(cls.tag(number, 1) + struct.pack("<d", v) for v in values)

    @classmethod
    def shape(cls, *dims: int, packed: bool = True) -> bytes:
        if packed:
            return cls.sub(7, cls.sub(1, *[cls.varint(d) for d in dims]))
        return cls.sub(7, *[cls.int(1, d) for d in dims])

    @classmethod
    def legacy(cls, *dims: int) -> bytes:
        return b"".join(cls.int(i + 1, d) for i, d in enumerate(dims))

    @classmethod
    def layer(cls, name: str | bytes, kind: str = "Convolution", *parts: bytes, blobs: tuple[bytes, ...] = ()) -> bytes:
        return cls.sub(100, cls.sub(1, name), cls.sub(2, kind), *parts, *[cls.sub(7, b) for b in blobs])

    @classmethod
    def v1_layer(cls, name: str, kind: int, *parts: bytes, blobs: tuple[bytes, ...] = ()) -> bytes:
        return cls.sub(2, cls.sub(4, name), cls.int(5, kind), *parts, *[cls.sub(6, b) for b in blobs])

    @classmethod
    def small(cls) -> bytes:
        """A small good net of 3 layers and 4 blobs in which every kind of blob occurs."""
        conv = (
            cls.shape(2, 1, 2, 1) + cls.floats(1, 2, 3, 4),
            cls.legacy(1, 1, 1, 2) + cls.floats_unpacked(5, 6),
        )
        return b"".join(
            [
                cls.sub(1, "small"),
                cls.layer("data", "Input", cls.sub(4, "data"), cls.sub(143, cls.sub(1, cls.sub(1, b"\1\1\4\4")))),
                cls.layer(
                    "conv",
                    "Convolution",
                    cls.sub(3, "data"),
                    cls.sub(4, "conv"),
                    cls.sub(106, cls.int(1, 2)),
                    blobs=conv,
                ),
                cls.layer(
                    "norm",
                    "Normalize",
                    cls.sub(206, cls.int(1, 0)),
                    blobs=(cls.shape(3, packed=False) + cls.floats(7) + cls.floats_unpacked(8) + cls.floats(9),),
                ),
                cls.layer("ip", "InnerProduct", blobs=(cls.shape(2) + cls.doubles(0.1, 0.2),)),
            ]
        )


@pytest.fixture(scope="session")
def emit() -> type[Emit]:
    """The emitter class."""
    return Emit


@pytest.fixture
def save(tmp_path: Path) -> Callable[[bytes | str], Path]:
    """Write bytes (or text) to a file and give its path."""

    def write(data: bytes | str, name: str = "net.caffemodel") -> Path:
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return write
