import pytest

from ssdconv.converters.protobuf_wire import MAX_GROUP_DEPTH, Wire, encode_varint, signed32, signed64
from ssdconv.errors import FormatError


def wire(data: bytes, **more: int) -> Wire:
    return Wire(data, "x.bin", **more)


def read(data: bytes) -> list[tuple[int, int, bytes, int]]:
    w = wire(data)
    return [(f.number, f.wire, data[f.begin : f.end], f.value) for f in w.fields(0, len(data))]


def test_known_encodings():
    # 08 96 01: field 1 = 150; 12 07 "testing": field 2; from protobuf's encoding guide
    assert read(bytes.fromhex("089601")) == [(1, 0, b"\x96\x01", 150)]
    assert read(b"\x12\x07testing") == [(2, 2, b"testing", 0)]
    assert read(b"\x0d\0\0\x80\x3f\x11" + bytes(8)) == [(1, 5, b"\0\0\x80?", 0), (2, 1, bytes(8), 0)]


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32 - 1, 2**63, 2**64 - 1])
def test_varint_round_trip(value):
    data = encode_varint(value)
    assert wire(data).varint(0, len(data)) == (value, len(data))


def test_signs():
    assert [signed64(2**64 - 1), signed64(2**63 - 1), signed64(5)] == [-1, 2**63 - 1, 5]
    assert [signed32(2**64 - 1), signed32(2**31), signed32(2**31 - 1)] == [-1, -(2**31), 2**31 - 1]


def test_groups_are_skipped_whole():
    group = b"\x0b" + b"\x08\x05" + b"\x13\x14" + b"\x0c"  # group 1 { field 1 = 5, group 2 { } }
    fields = list(wire(group + b"\x10\x07").fields(0, len(group) + 2))
    assert [(f.number, f.start, f.end, f.value) for f in fields] == [(1, 0, 6, 0), (2, 6, 8, 7)]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x08", "truncated: a number is cut off"),
        (b"\x08\x80", "truncated: a number is cut off"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "varint overflow"),
        (b"\x08" + b"\x80" * 10 + b"\x01", "varint overflow"),
        (b"\x12\x08testing", "reaches past the end"),
        (b"\x12" + b"\xff" * 9 + b"\x01", "reaches past the end"),
        (b"\x0d\0\0\0", "cut off by the end"),
        (b"\x11" + bytes(7), "cut off by the end"),
        (b"\x00\x01", "invalid field number"),
        (encode_varint(2**32 | 8) + b"\x01", "invalid field number"),
        (b"\x0e", "invalid wire type"),
        (b"\x0f", "invalid wire type"),
        (b"\x0c", "end of a group that never began"),
        (b"\x0b\x14", "closed by another group's end"),
        (b"\x0b\x08\x01", "group 1 never ends"),
        (b"\x0b" * (MAX_GROUP_DEPTH + 1) + b"\x0c" * (MAX_GROUP_DEPTH + 1), "nested too deeply"),
    ],
)
def test_damage_names_file_and_offset(data, text):
    good = b"\x08\x01"
    with pytest.raises(FormatError, match=text) as caught:
        read(good + data)
    assert caught.value.where.startswith("x.bin, offset ")
    assert int(caught.value.where.split()[-1]) >= len(good)


def test_groups_may_nest_up_to_the_limit():
    assert len(read(b"\x0b" * MAX_GROUP_DEPTH + b"\x0c" * MAX_GROUP_DEPTH)) == 1


def test_ten_byte_varint_of_64_bits_is_fine():
    assert read(b"\x08" + b"\xff" * 9 + b"\x01")[0][3] == 2**64 - 1


def test_budget_of_fields():
    w = wire(b"\x08\x01" * 5, budget=4)
    with pytest.raises(FormatError, match="more fields than any network") as caught:
        list(w.fields(0, 10))
    assert caught.value.where == "x.bin, offset 8"
    assert len(list(wire(b"\x08\x01" * 5, budget=5).fields(0, 10))) == 5
