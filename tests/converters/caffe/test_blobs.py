import numpy as np
import pytest

from ssdconv.converters.caffe.blobs import MAX_RUNS, read_blob, walk_blob
from ssdconv.converters.protobuf_wire import Wire
from ssdconv.errors import FormatError


def load(emit, body: bytes):
    data = b"\x55" + emit.sub(7, body)  # one byte in front, so that offsets are not zero
    wire = Wire(data, "x.caffemodel")
    blob = walk_blob(wire, wire.field(1, len(data)), "layer a blob 0")
    return read_blob(blob, data), blob


def test_packed_is_a_read_only_view(emit):
    body = emit.shape(2, 3) + emit.floats(*range(6))
    array, blob = load(emit, body)
    assert array.dtype == np.float32 and array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not array.flags.writeable and array.base is not None
    assert len(blob.runs) == 1 and not blob.runs[0].unpacked


def test_unpacked_is_one_strided_view(emit):
    array, blob = load(emit, emit.shape(1000) + emit.floats_unpacked(*range(1000)) + emit.int(99, 1))
    assert array.tolist() == list(range(1000))
    assert array.strides == (5,) and len(blob.runs) == 1


def test_unpacked_longer_than_one_scan(emit):
    count = 2**21 + 77
    values = np.arange(count, dtype="<f4")
    records = np.zeros(count, np.dtype([("t", "u1"), ("v", "<f4")]))
    records["t"], records["v"] = 0x2D, values
    array, _ = load(emit, emit.shape(count) + records.tobytes() + emit.floats_unpacked(1.0, number=6))
    np.testing.assert_array_equal(array, values)


def test_runs_of_both_kinds_are_joined_in_order(emit):
    body = emit.floats(1, 2) + emit.floats_unpacked(3) + emit.shape(6) + emit.floats(4) + emit.floats_unpacked(5, 6)
    array, blob = load(emit, body)
    assert array.tolist() == [1, 2, 3, 4, 5, 6] and len(blob.runs) == 4
    assert not array.flags.writeable


def test_overlong_tags_are_single_records(emit):
    overlong = b"\xad\x00\x00\x00\x80\x3f"  # tag 0x2d written in two bytes, then 1.0
    array, _ = load(emit, emit.shape(3) + overlong + emit.floats_unpacked(2) + overlong)
    assert array.tolist() == [1, 2, 1]


@pytest.mark.parametrize("style", ["packed", "unpacked", "both"])
def test_double_data(emit, style):
    values = [0.1, -1e300, 3.0]
    body = {
        "packed": emit.doubles(*values),
        "unpacked": emit.doubles_unpacked(*values),
        "both": emit.doubles(*values[:1]) + emit.doubles_unpacked(*values[1:]),
    }[style]
    array, _ = load(emit, emit.shape(3) + body)
    assert array.dtype == np.float64 and array.tolist() == values


def test_double_data_wins_over_data_as_in_caffe(emit):
    array, _ = load(emit, emit.shape(2) + emit.floats(1, 2) + emit.doubles(3, 4))
    assert array.dtype == np.float64 and array.tolist() == [3, 4]


def test_diffs_are_stepped_over(emit):
    body = emit.shape(1) + emit.floats(9, 9, number=6) + emit.floats_unpacked(8, 8, number=6) + emit.floats(1)
    array, _ = load(emit, body + emit.doubles(7, number=9) + emit.doubles_unpacked(7, 7, number=9))
    assert array.tolist() == [1]


@pytest.mark.parametrize(
    ("head", "count", "shape"),
    [
        (lambda e: e.legacy(2, 1, 1, 3), 6, (2, 1, 1, 3)),
        (lambda e: e.int(1, 1) + e.int(4, 5) + e.int(2, 1) + e.int(3, 1), 5, (1, 1, 1, 5)),
        (lambda e: e.int(1, 4), 0, (4, 0, 0, 0)),  # absent legacy sides count as 0
        (lambda e: e.shape(2, 3, packed=False), 6, (2, 3)),
        (lambda e: e.shape(2) + e.shape(3), 6, (2, 3)),  # protobuf merges two occurrences
        (lambda e: e.shape(5) + e.legacy(1, 1, 1, 5), 5, (5,)),
        (lambda e: e.shape(5) + e.legacy(0, 0, 0, 0), 5, (5,)),
        (lambda e: e.shape(9) + e.legacy(1, 1, 1, 5), 5, (1, 1, 1, 5)),
        (lambda e: b"", 1, ()),  # neither shape nor legacy sides: a scalar
        (lambda e: e.shape(), 1, ()),
        (lambda e: e.shape(0), 0, (0,)),
        (lambda e: e.shape(3, 0, 2), 0, (3, 0, 2)),
    ],
)
def test_shapes(emit, head, count, shape):
    array, _ = load(emit, head(emit) + (emit.floats(*range(count)) if count else b""))
    assert array.shape == shape and array.size == count


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (lambda e: e.shape(-1, 2) + e.floats(1, 2), "negative side"),
        (lambda e: e.legacy(-1, 1, 1, 2) + e.floats(1, 2), "negative side"),
        (lambda e: e.shape(2**31) + e.floats(1), "side that is too large"),
        (lambda e: e.shape(2**32, 2**32) + e.floats(1), "side that is too large"),
        (lambda e: e.shape(*[2**31 - 1] * 4) + e.floats(1), "length does not fit its shape"),
        (lambda e: e.shape(3) + e.floats(1, 2), "length does not fit its shape"),
        (lambda e: e.shape(1) + e.floats(1, 2), "length does not fit its shape"),
        (lambda e: e.shape(0) + e.floats(1), "length does not fit its shape"),
        (lambda e: e.shape(2) + e.floats(1, 2) + e.doubles(3), "length does not fit its shape"),
        (lambda e: e.shape(*[1] * 33) + e.floats(1), "too many dimensions"),
        (lambda e: e.shape(*[1] * 33, packed=False) + e.floats(1), "too many dimensions"),
        (lambda e: e.shape(1) * 33 + e.floats(1), "too many dimensions"),
        (lambda e: e.shape(1) + e.sub(5, b"\0\0\0\0\0"), "not a whole count of 4-byte numbers"),
        (lambda e: e.shape(1) + e.sub(8, b"\0\0\0\0"), "not a whole count of 8-byte numbers"),
        (lambda e: e.shape(1) + e.tag(5, 1) + bytes(8), "wrong width"),
        (lambda e: b"", "neither shape nor data"),
        (lambda e: e.floats(1) * (MAX_RUNS + 1) + e.shape(MAX_RUNS + 1), "too many runs"),
    ],
)
def test_bad_blobs_name_layer_and_offset(emit, body, text):
    with pytest.raises(FormatError, match=text) as caught:
        load(emit, body(emit))
    assert "x.caffemodel, layer a blob 0, offset " in caught.value.where


def test_unknown_fields_are_told(emit):
    _, blob = load(emit, emit.shape(1) + emit.floats(1) + emit.int(10, 2) + emit.sub(12, b"abc"))
    assert blob.unknown == (10, 12)
