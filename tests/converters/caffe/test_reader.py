"""Reading .caffemodel files: layers, blobs, and what is no such file."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssdconv.converters.caffe.net import CaffeNet
from ssdconv.converters.caffe.reader import MAX_RUNS, read_blob, read_caffemodel, walk_blob
from ssdconv.converters.caffe.schema import messages
from ssdconv.converters.protobuf_wire import Wire
from ssdconv.errors import FormatError, MissingError, SsdconvError

MODELS = [
    "weights/res10_face_ssd/res10_300x300_ssd_iter_140000.caffemodel",
    "weights/libfacedetection_v1/yufacedetectnet-open-v1.caffemodel",
    "weights/aizoo_facemask/face_mask_detection.caffemodel",
    "golden/vgg_ssd300_narrow.caffemodel",
]


@pytest.mark.shared
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("use_mmap", [True, False])
def test_equal_to_a_full_protobuf_parse(shared: Path, name: str, use_mmap: bool):
    net = messages()["Net"]()
    net.ParseFromString((shared / name).read_bytes())
    expected = {
        f"{layer.name.decode()}/{i}": np.array(blob.data, "<f4").reshape(tuple(blob.shape.dim))
        for layer in net.layer
        for i, blob in enumerate(layer.blobs)
    }
    with read_caffemodel(shared / name, use_mmap=use_mmap) as table:
        assert table.format == "caffemodel"
        assert list(table) == list(expected)
        assert {n: t.shape for n, t in table.items()} == {n: a.shape for n, a in expected.items()}
        for key, array in expected.items():
            loaded = table[key].load()
            assert loaded.dtype == table[key].dtype == np.float32
            assert loaded.tobytes() == array.tobytes(), key
        layers = table.found(CaffeNet).layers
        assert [la.name for la in layers] == [la.name.decode() for la in net.layer]
        assert [la.type for la in layers] == [la.type.decode() for la in net.layer]
        assert [la.bottoms for la in layers] == [tuple(b.decode() for b in la.bottom) for la in net.layer]
        assert [len(la.blobs) for la in layers] == [len(la.blobs) for la in net.layer]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "prototxt"), [(MODELS[0], "deploy.prototxt"), (MODELS[3], "vgg_ssd300_narrow.prototxt")]
)
def test_equal_to_opencv(shared: Path, name: str, prototxt: str):
    import cv2

    net = cv2.dnn.readNetFromCaffe(str((shared / name).parent / prototxt), str(shared / name))
    table = read_caffemodel(shared / name)
    compared = 0
    for layer in table.found(CaffeNet).layers:
        if layer.type == "Convolution" and net.getLayerId(layer.name) > 0:
            np.testing.assert_array_equal(net.getParam(layer.name, 0), table[f"{layer.name}/0"].load())
            compared += 1
    assert compared > 20


@pytest.mark.shared
def test_parameters_of_a_real_train_net(shared: Path):
    table = read_caffemodel(shared / MODELS[0])
    layers = {layer.name: layer for layer in table.found(CaffeNet).layers}
    data, prior = layers["data"], layers["fc7_mbox_priorbox"]
    assert data.params["transform_param"]["mean_value"] == [104, 117, 123] and data.phase == "TRAIN"
    # training snapshots say phase: TRAIN in every layer, which restricts none of them
    assert prior.phase == "" and prior.params["prior_box_param"]["variance"] == [
        float(np.float32(v)) for v in (0.1, 0.1, 0.2, 0.2)
    ]
    assert layers["mbox_loss"].params["multibox_loss_param"]["code_type"] == "CENTER_SIZE"
    assert layers["conv1_h"].blobs == ((32, 3, 7, 7), (32,))
    assert table.found(CaffeNet).unknown == () and table.warnings == ()


@pytest.mark.shared
def test_fields_of_another_caffe_are_listed(shared: Path):
    table = read_caffemodel(shared / MODELS[1])  # written by NVIDIA's Caffe: fields 145 to 148 in every layer
    assert "layer data: field '145'" in table.found(CaffeNet).unknown
    assert any("does not know" in text for text in table.warnings)


def test_every_kind_of_blob(emit, save):
    table = read_caffemodel(save(emit.small()))
    got = {name: (t.dtype.name, t.load().tolist()) for name, t in table.items()}
    assert got == {
        "conv/0": ("float32", [[[[1], [2]]], [[[3], [4]]]]),
        "conv/1": ("float32", [[[[5, 6]]]]),
        "norm/0": ("float32", [7, 8, 9]),
        "ip/0": ("float64", [0.1, 0.2]),
    }
    net = table.found(CaffeNet)
    assert net.name == "small" and net.inputs == {"data": (1, 1, 4, 4)}
    assert net.layers[1].params == {"convolution_param": {"num_output": 2}}
    assert net.layers[1].blobs == ((2, 1, 2, 1), (1, 1, 1, 2))
    assert net.layers[2].params == {"norm_param": {"across_spatial": False}}
    assert "layer conv blob 1, offset " in table["conv/1"].where


def test_v1_net(emit, save):
    data = emit.sub(1, "old") + emit.sub(3, "data") + b"".join(emit.int(4, d) for d in (1, 3, 8, 9))
    data += emit.v1_layer(
        "c1", 4, emit.sub(2, "data"), emit.sub(3, "c1"), emit.sub(1001, "w"), emit.sub(1001, ""),
        emit.sub(10, emit.int(1, 2)), blobs=(emit.legacy(2, 3, 1, 1) + emit.floats(*range(6)), emit.legacy(1, 1, 1, 2) + emit.floats(6, 7)),
    )  # fmt: skip
    data += emit.v1_layer("loss", 21, emit.sub(2, "c1"), emit.sub(32, emit.int(1, 0)))
    data += emit.v1_layer("odd", 99)
    table = read_caffemodel(save(data))
    net = table.found(CaffeNet)
    assert [layer.type for layer in net.layers] == ["Convolution", "SoftmaxWithLoss", ""]
    assert net.inputs == {"data": (1, 3, 8, 9)} and net.layers[0].shared == ("w", "")
    assert net.layers[0].params == {"convolution_param": {"num_output": 2}} and net.layers[1].phase == "TRAIN"
    assert table["c1/0"].shape == (2, 3, 1, 1) and table["c1/1"].load().tolist() == [[[[6, 7]]]]
    assert net.unknown == ("layer odd: field '5'",)


def test_shared_parameters(emit, save):
    param = emit.sub(6, emit.sub(1, "w")) + emit.sub(6, b"")
    net = read_caffemodel(save(emit.layer("a", "Convolution", param))).found(CaffeNet)
    assert net.layers[0].shared == ("w", "")


@pytest.mark.parametrize(
    ("rules", "phase"),
    [
        (lambda e: e.int(10, 0), ""),
        (lambda e: e.sub(8, e.int(1, 0)), "TRAIN"),
        (lambda e: e.sub(8, e.int(1, 1)), "TEST"),
        (lambda e: e.sub(8, e.int(1, 1)) + e.sub(8, e.int(1, 0)), ""),
        (lambda e: e.sub(8, e.sub(4, "deploy")), ""),
        (lambda e: e.sub(9, e.int(1, 0)), "TEST"),
        (lambda e: e.sub(9, e.int(1, 1)), "TRAIN"),
        (lambda e: e.sub(9, e.int(1, 1) + e.sub(4, "x")), ""),
    ],
)
def test_phase_comes_from_the_rules(emit, save, rules, phase):
    net = read_caffemodel(save(emit.layer("a", "Dropout", rules(emit)))).found(CaffeNet)
    assert net.layers[0].phase == phase


def test_pixels_of_old_data_layers_move_to_transform_param(emit, save):
    data = emit.sub(107, emit.sub(1, "db") + emit.tag(2, 5) + b"\0\0\0\x3f" + emit.int(6, 1))
    net = read_caffemodel(save(emit.layer("d", "Data", data))).found(CaffeNet)
    assert net.layers[0].params == {"data_param": {"source": "db"}, "transform_param": {"scale": 0.5, "mirror": True}}


@pytest.mark.parametrize(
    ("kind", "number", "body", "params"),
    [
        ("Permute", 144, lambda e: e.int(1, 0) + e.int(1, 2), {"permute_param": {"order": [0, 2]}}),
        ("Normalize", 149, lambda e: e.int(1, 0), {"norm_param": {"across_spatial": False}}),
        ("PriorBox", 146, lambda e: e.int(4, 1), {"prior_box_param": {"flip": True}}),
        ("DetectionOutput", 147, lambda e: e.int(1, 21), {"detection_output_param": {"num_classes": 21}}),
        ("Upsample", 150, lambda e: e.int(1, 2), {"upsample_param": {"scale": 2}}),
        ("Crop", 144, lambda e: e.int(1, 2), {"crop_param": {"axis": 2}}),
    ],
)
def test_field_numbers_of_other_caffes(emit, save, kind, number, body, params):
    net = read_caffemodel(save(emit.layer("a", kind, emit.sub(number, body(emit))))).found(CaffeNet)
    assert net.layers[0].params == params
    assert (net.unknown == ()) == (kind == "Crop")


def test_own_number_goes_before_another_caffes(emit, save):
    both = emit.sub(202, emit.int(1, 3)) + emit.sub(145, b"")
    net = read_caffemodel(save(emit.layer("a", "Permute", both))).found(CaffeNet)
    assert net.layers[0].params["permute_param"] == {"order": [3]} and net.unknown == ()


def test_numbers_of_other_kinds_are_no_parameters(emit, save):
    net = read_caffemodel(save(emit.layer("a", "Permute", emit.int(145, 1)))).found(CaffeNet)  # NVIDIA's forward_type
    assert net.layers[0].params == {} and net.unknown == ("layer a: field '145'",)


def test_unknown_fields_are_listed_at_any_depth(emit, save):
    inner = emit.sub(106, emit.int(1, 2) + emit.int(77, 1) + emit.sub(7, emit.int(66, 1)))
    data = emit.int(55, 1) + emit.layer("a", "Convolution", emit.int(999, 1), inner, emit.sub(998, "x"))
    assert sorted(read_caffemodel(save(data)).found(CaffeNet).unknown) == [
        "layer a: field '998'",
        "layer a: field '999'",
        "layer a: field 'convolution_param.77'",
        "layer a: field 'convolution_param.weight_filler.66'",
        "net: field '55'",
    ]


def test_same_name_without_blobs_is_legal(emit, save):
    blob = emit.shape(1) + emit.floats(1)
    data = emit.layer("data", "Data") + emit.layer("data", "Data") + emit.layer("c") + emit.layer("c", blobs=(blob,))
    table = read_caffemodel(save(data))
    assert [layer.name for layer in table.found(CaffeNet).layers] == ["data", "data", "c", "c"] and list(table) == [
        "c/0"
    ]


def test_names_cannot_steer_the_terminal(emit, save):
    name = "a\x1b[2J\n" + "n" * 200
    with pytest.raises(FormatError) as caught:
        read_caffemodel(save(emit.layer(name, blobs=(emit.shape(2) + emit.floats(1),))))
    assert r"layer a\x1b[2J\nnnn" in str(caught.value) and "\x1b" not in str(caught.value)
    table = read_caffemodel(save(emit.layer(name, "X", emit.int(999, 1), blobs=(emit.shape(1) + emit.floats(1),))))
    assert all(
        len(text) < 150 and text.isprintable() for text in (table.found(CaffeNet).unknown[0], table[f"{name}/0"].where)
    )


def test_zero_element_blobs_warn(emit, save):
    table = read_caffemodel(save(emit.layer("a", blobs=(emit.shape(0, 3),))))
    assert table["a/0"].load().shape == (0, 3) and "no elements" in table.warnings[0]


def test_arrays_outlive_the_table(emit, save):
    path = save(emit.small())
    table = read_caffemodel(path)
    array = table["conv/0"].load()
    table.close()
    del table
    gc.collect()
    path.unlink()
    assert array.ravel().tolist() == [1, 2, 3, 4]


def test_loading_after_close_is_an_error(emit, save):
    table = read_caffemodel(save(emit.small()))
    table.close()
    with pytest.raises(SsdconvError, match="closed before"):
        table["conv/0"].load()


@pytest.mark.parametrize("how", ["shortened", "touched", "replaced", "removed"])
def test_a_file_changed_while_open_is_an_error(emit, save, how):
    path = save(emit.small())
    table = read_caffemodel(path)
    table.unchanged()
    if how == "shortened":
        os.truncate(path, 10)
    elif how == "touched":
        os.utime(path, ns=(1, 1))
    elif how == "replaced":
        other = save(emit.small(), "other")
        os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
        other.replace(path)
    else:
        path.unlink()
    with pytest.raises(FormatError, match=r"changed while|went away"):
        table.unchanged()
    with pytest.raises(FormatError, match=r"changed while|went away"):
        table["conv/0"].load()


def test_missing_file(tmp_path):
    with pytest.raises(MissingError, match="no such file") as caught:
        read_caffemodel(tmp_path / "none.caffemodel")
    assert caught.value.exit_code == 4


@pytest.mark.shared
def test_reading_is_fast_and_without_torch(shared: Path):
    code = """if True:
        import sys, time
        from pathlib import Path
        from ssdconv.converters.caffe.reader import read_caffemodel
        from ssdconv.converters.caffe.schema import messages
        messages()
        best = 1.0
        for _ in range(5):
            start = time.process_time()
            read_caffemodel(Path(sys.argv[1])).close()
            best = min(best, time.process_time() - start)
        assert not {"torch", "cv2", "h5py"} & set(sys.modules), "heavy imports"
        print(best)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(shared / MODELS[0])], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.02  # measured 0.005 s


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
