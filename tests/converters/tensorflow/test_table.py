"""Tables: prefix-compressed keys, several blocks, Snappy, and every check named."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

from ssdconv.converters.tensorflow.bundle import table_bytes
from ssdconv.converters.tensorflow.table import Table
from ssdconv.errors import FormatError

ENTRIES = [(b"", b"head"), (b"abc", b"1"), (b"abcd", b""), (b"abx", b"33"), (b"b\xff", b"4" * 300)]


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("cut", [1, 3])
def test_entries(packing: SimpleNamespace, kind: int, cut: int) -> None:
    blocks = [packing.block(ENTRIES[:cut], kind), packing.block(ENTRIES[cut:], kind)]
    table = Table(packing.table(blocks, [ENTRIES[cut - 1][0], b"c"]), "x")
    assert [(key, bytes(value)) for key, value in table] == ENTRIES
    for key, value in ENTRIES:
        found = table.get(key)
        assert found is not None and bytes(found) == value
    assert table.get(b"abcde") is None and table.get(b"zz") is None


def test_what_we_write_is_read_back() -> None:
    entries = [(f"net/layer{i:04d}/kernel".encode(), bytes([i % 251]) * 40) for i in range(500)]
    assert [(k, bytes(v)) for k, v in Table(table_bytes(entries), "x")] == entries
    assert len(Table(table_bytes(entries), "x").index) > 5


def test_every_flipped_bit_of_a_block_is_found(packing: SimpleNamespace) -> None:
    one = packing.block(ENTRIES)
    good = packing.table([one], [b"c"])
    for at in range(len(one)):
        bad = bytearray(good)
        bad[at] ^= 4
        with pytest.raises(FormatError, match=r"block at offset 0: a block's CRC-32C is wrong"):
            list(Table(bytes(bad), "x"))


def test_every_cut_is_an_error(packing: SimpleNamespace) -> None:
    good = packing.table([packing.block(ENTRIES)], [b"c"])
    for length in range(len(good)):
        with pytest.raises(FormatError):
            list(Table(good[:length], "x"))


def with_body(packing: SimpleNamespace, body: bytes, kind: int = 0) -> bytes:
    """A table whose one block holds ``body``, its CRC right."""
    stored = body + bytes([kind])
    return packing.table([stored + packing.masked(packing.crc(stored))], [b"c"])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"\0", "too short"),
        (struct.pack("<I", 99), "restart points"),
        (struct.pack("<I", 0), "restart points"),
        (b"\x05\x01\x00a" + struct.pack("<II", 0, 1), "entry of a block is damaged"),
        (b"\x00\x01\x7fa" + struct.pack("<II", 0, 1), "entry of a block is damaged"),
        (b"\x00\x01\x00b\x00\x01\x00a" + struct.pack("<II", 0, 1), "not in order"),
        (b"\x00\x01\x00b\x01\x00\x00" + struct.pack("<II", 0, 1), "not in order"),
        (b"\x80" + struct.pack("<II", 0, 1), "cut off"),
    ],
)
def test_hostile_blocks_with_right_crc(packing: SimpleNamespace, body: bytes, text: str) -> None:
    with pytest.raises(FormatError, match=text):
        list(Table(with_body(packing, body), "x"))


def test_other_damage(packing: SimpleNamespace) -> None:
    good = packing.table([packing.block(ENTRIES)], [b"c"])
    with pytest.raises(FormatError, match="magic"):
        Table(good[:-1] + b"\0", "x")
    with pytest.raises(FormatError, match="unknown method"):
        list(Table(with_body(packing, packing.block(ENTRIES)[:-5], 2), "x"))
    far = packing.varint(0) + packing.varint(0) + packing.varint(1 << 60) + packing.varint(5)
    with pytest.raises(FormatError, match="past the end"):
        Table(good[:-48] + far.ljust(40, b"\0") + good[-8:], "x")


def test_blocks_do_not_share_bytes(packing: SimpleNamespace) -> None:
    """Thousands of handles of one large block would be checked and read again and again."""
    one, two = packing.block(ENTRIES[:2]), packing.block(ENTRIES[2:])
    good = Table(packing.table([one, two], [b"ab", b"c"]), "x")
    offsets = [handle.offset for _, handle in good.index]
    assert offsets == sorted(offsets) and len(set(offsets)) == 2
    with pytest.raises(FormatError, match="share bytes"):
        Table(packing.table([one, two], [b"ab", b"c"], handles=[(0, len(one) - 5), (0, len(one) - 5)]), "x")
