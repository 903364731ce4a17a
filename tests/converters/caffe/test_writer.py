from pathlib import Path

import numpy as np
import pytest

from ssdconv.converters.caffe.net import CaffeLayer, CaffeNet
from ssdconv.converters.caffe.prototxt import read_prototxt, write_prototxt
from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.converters.caffe.schema import messages
from ssdconv.converters.caffe.writer import write_caffemodel
from ssdconv.errors import FormatError, MappingError

cv2 = pytest.importorskip("cv2")


def net(*layers: CaffeLayer) -> CaffeNet:
    return CaffeNet("written", {"data": (1, 3, 8, 8)}, layers)


def test_round_trip_is_bit_identical(tmp_path):
    rng = np.random.default_rng(0)
    odd = np.array([np.nan, -0.0, np.inf, 1e-45], "<f4")
    odd.view("<u4")[0] = 0x7FC01234  # a NaN with a payload
    blobs = {
        "a/0": rng.standard_normal((4, 3, 3, 3)).astype("f4"),
        "a/1": odd,
        "b/0": rng.standard_normal((2, 300)),  # float64
        "c/0": np.zeros((0, 3), "f4"),
        "d/0": np.float32(2.5).reshape(()),
        "e/0": np.asfortranarray(rng.standard_normal((5, 7)).astype("f4")),
        "f/0": rng.standard_normal(6).astype(">f4"),
    }
    layers = [CaffeLayer(n, "Convolution", params={"convolution_param": {"num_output": 4}}) for n in "abcdef"]
    write_caffemodel(net(*layers), blobs, tmp_path / "x.caffemodel")
    table = read_caffemodel(tmp_path / "x.caffemodel")
    assert list(table) == list(blobs)
    for name, array in blobs.items():
        little = array.astype(array.dtype.newbyteorder("<"))
        assert table[name].shape == array.shape and table[name].load().tobytes() == little.tobytes(), name
    assert table.found(CaffeNet).inputs == {"data": (1, 3, 8, 8)} and table.found(CaffeNet).name == "written"
    assert [p.name for p in tmp_path.iterdir()] == ["x.caffemodel"]


def test_protobuf_reads_what_we_write(tmp_path):
    write_caffemodel(net(CaffeLayer("a", "Bias")), {"a/0": np.arange(300, dtype="f4")}, tmp_path / "x")
    message = messages()["Net"]()
    message.ParseFromString((tmp_path / "x").read_bytes())
    blob = message.layer[0].blobs[0]
    assert list(blob.data) == list(range(300)) and list(blob.shape.dim) == [300] and not blob.HasField("num")
    assert [layer.name for layer in message.layer] == [b"a"] and list(message.input_shape[0].dim) == [1, 3, 8, 8]


def test_same_bytes_twice(tmp_path):
    layer = CaffeLayer(
        "a", "PriorBox", params={"prior_box_param": {"min_size": [30.0], "variance": [0.1, 0.1, 0.2, 0.2]}}
    )
    for name in ("x", "y"):
        write_caffemodel(net(layer), {}, tmp_path / name)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_blobs_are_asked_for_one_layer_at_a_time(tmp_path):
    class Lazy(dict):
        asked: list[str] = []  # noqa: RUF012

        def __getitem__(self, name: str) -> np.ndarray:
            self.asked.append(name)
            return np.ones(3, "f4")

    write_caffemodel(
        net(CaffeLayer("b", "X"), CaffeLayer("a", "X")), Lazy({"a/0": 0, "b/0": 0, "b/1": 0}), tmp_path / "x"
    )
    assert Lazy.asked == ["b/0", "b/1", "a/0"]


def test_train_test_pair_gives_the_blobs_to_the_layer_that_lists_them(tmp_path):
    pair = CaffeLayer("a", "X", phase="TRAIN"), CaffeLayer("a", "X", phase="TEST", blobs=((1,),))
    write_caffemodel(net(*pair), {"a/0": np.ones(1, "f4")}, tmp_path / "x")
    assert [la.blobs for la in read_caffemodel(tmp_path / "x").found(CaffeNet).layers] == [(), ((1,),)]


@pytest.mark.parametrize(
    ("blobs", "error", "text"),
    [
        ({"a/0": np.ones(2, "f4")}, MappingError, "another shape"),
        ({}, MappingError, "does not get its blobs"),
        ({"a/0": np.ones(3, "f4"), "a/2": np.ones(3, "f4")}, MappingError, "'a/1' is missing"),
        ({"a/0": np.ones(3, "f4"), "z/0": np.ones(3, "f4")}, MappingError, "belongs to no layer"),
        ({"a": np.ones(3, "f4")}, MappingError, "not of the form"),
        ({"a/00": np.ones(3, "f4")}, MappingError, "not of the form"),
        ({"a/0": np.ones(3, "f2")}, MappingError, "cannot be stored"),
        ({"a/0": np.ones(3, "i4")}, MappingError, "cannot be stored"),
    ],
)
def test_blobs_that_do_not_fit_leave_no_file(tmp_path, blobs, error, text):
    with pytest.raises(error, match=text):
        write_caffemodel(net(CaffeLayer("a", "X", blobs=((3,),))), blobs, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_parameters_that_the_schema_lacks(tmp_path):
    with pytest.raises(FormatError, match="no field"):
        write_caffemodel(net(CaffeLayer("a", "X", params={"no_param": {}})), {}, tmp_path / "x")


def small_ssd() -> tuple[CaffeNet, dict[str, np.ndarray]]:
    """Two feature maps, four priors each, three classes, from image to DetectionOutput."""
    rng = np.random.default_rng(1)

    def conv(name: str, bottom: str, out: int, stride: int = 1) -> CaffeLayer:
        params = {"num_output": out, "pad": [1], "kernel_size": [3], "stride": [stride]}
        return CaffeLayer(name, "Convolution", (bottom,), (name,), {"convolution_param": params})

    layers = [
        conv("c1", "data", 8, 2),
        CaffeLayer("r1", "ReLU", ("c1",), ("c1",)),
        CaffeLayer(
            "n1", "Normalize", ("c1",), ("n1",), {"norm_param": {"across_spatial": False, "channel_shared": False}}
        ),
        conv("c2", "c1", 8, 2),
    ]
    blobs: dict[str, np.ndarray] = {"n1/0": np.full(8, 3, "f4")}
    for source in ("n1", "c2"):
        for what, out in (("loc", 16), ("conf", 12)):
            layers += [
                conv(f"{source}_{what}", source, out),
                CaffeLayer(f"{source}_{what}_perm", "Permute", (f"{source}_{what}",), (f"{source}_{what}_perm",),
                           {"permute_param": {"order": [0, 2, 3, 1]}}),
                CaffeLayer(f"{source}_{what}_flat", "Flatten", (f"{source}_{what}_perm",), (f"{source}_{what}_flat",),
                           {"flatten_param": {"axis": 1}}),
            ]  # fmt: skip
        layers.append(
            CaffeLayer(f"{source}_prior", "PriorBox", (source, "data"), (f"{source}_prior",), {
                "prior_box_param": {"min_size": [8.0], "max_size": [16.0], "aspect_ratio": [2.0], "flip": True,
                                    "variance": [0.1, 0.1, 0.2, 0.2]}})
        )  # fmt: skip
    for what, axis in (("loc", 1), ("conf", 1), ("prior", 2)):
        ends = "_prior" if what == "prior" else f"_{what}_flat"
        layers.append(CaffeLayer(what, "Concat", ("n1" + ends, "c2" + ends), (what,), {"concat_param": {"axis": axis}}))
    layers += [
        CaffeLayer("resh", "Reshape", ("conf",), ("resh",), {"reshape_param": {"shape": {"dim": [0, -1, 3]}}}),
        CaffeLayer("soft", "Softmax", ("resh",), ("soft",), {"softmax_param": {"axis": 2}}),
        CaffeLayer("softflat", "Flatten", ("soft",), ("softflat",)),
        CaffeLayer("out", "DetectionOutput", ("loc", "softflat", "prior"), ("out",), {
            "detection_output_param": {"num_classes": 3, "share_location": True, "background_label_id": 0, "code_type": "CENTER_SIZE", "keep_top_k": 20,
                                       "confidence_threshold": 0.01, "nms_param": {"nms_threshold": 0.45, "top_k": 40}}}),
    ]  # fmt: skip
    channels = {"data": 3, "c1": 8, "n1": 8, "c2": 8}
    for layer in layers:
        if layer.type == "Convolution":
            out = layer.params["convolution_param"]["num_output"]
            blobs[f"{layer.name}/0"] = rng.standard_normal((out, channels[layer.bottoms[0]], 3, 3)).astype("f4") * 0.2
            blobs[f"{layer.name}/1"] = rng.standard_normal(out).astype("f4")
    return CaffeNet("small_ssd", {"data": (1, 3, 32, 32)}, tuple(layers)), blobs


def test_opencv_runs_what_we_write(tmp_path):
    network, blobs = small_ssd()
    write_prototxt(network, tmp_path / "x.prototxt")
    write_caffemodel(network, blobs, tmp_path / "x.caffemodel")
    oracle = cv2.dnn.readNetFromCaffe(str(tmp_path / "x.prototxt"), str(tmp_path / "x.caffemodel"))
    for name, array in blobs.items():
        layer, index = name.split("/")
        if layer != "n1":
            np.testing.assert_array_equal(oracle.getParam(layer, int(index)).reshape(array.shape), array)
    oracle.setInput(np.random.default_rng(2).standard_normal((1, 3, 32, 32)).astype("f4"))
    detections = oracle.forward("out")
    assert detections.shape[:2] == (1, 1) and detections.shape[3] == 7 and 0 < detections.shape[2] <= 20
    assert set(np.unique(detections[..., 1])) <= {1.0, 2.0}


@pytest.mark.shared
@pytest.mark.parametrize(
    ("folder", "model", "prototxt", "last"),
    [
        ("golden", "vgg_ssd300_narrow.caffemodel", "vgg_ssd300_narrow.prototxt", "detection_out"),
        ("weights/res10_face_ssd", "res10_300x300_ssd_iter_140000.caffemodel", "deploy.prototxt", "detection_out"),
    ],
)
def test_rewritten_files_give_opencv_the_same_output(shared: Path, tmp_path: Path, folder, model, prototxt, last):
    table = read_caffemodel(shared / folder / model)
    write_caffemodel(table.found(CaffeNet), {name: t.load() for name, t in table.items()}, tmp_path / "y.caffemodel")
    write_prototxt(read_prototxt(shared / folder / prototxt), tmp_path / "y.prototxt")
    image = np.random.default_rng(3).uniform(-120, 130, (1, 3, 300, 300)).astype("f4")
    outputs = []
    for text, weights in (
        (shared / folder / prototxt, shared / folder / model),
        (tmp_path / "y.prototxt", tmp_path / "y.caffemodel"),
    ):
        oracle = cv2.dnn.readNetFromCaffe(str(text), str(weights))
        oracle.setInput(image)
        outputs.append([np.array(a) for a in oracle.forward([last, "mbox_loc", "mbox_conf_flatten"])])
    for before, after in zip(*outputs, strict=True):
        assert before.size > 7
        np.testing.assert_array_equal(before, after)


def test_a_blob_without_axes_is_written_as_caffe_writes_it(tmp_path):
    """Without a shape; OpenCV cannot read an empty one. The bytes are those of a file that Caffe wrote."""
    layer = CaffeLayer("n", "Normalize", ("data",), ("n",), {"norm_param": {"across_spatial": False}})
    write_caffemodel(net(layer), {"n/0": np.float32(10.5).reshape(())}, tmp_path / "x.caffemodel")
    assert b"\x3a\x06\x2a\x04" + np.float32(10.5).tobytes() in (tmp_path / "x.caffemodel").read_bytes()
    write_prototxt(net(layer), tmp_path / "x.prototxt")
    loaded = cv2.dnn.readNetFromCaffe(str(tmp_path / "x.prototxt"), str(tmp_path / "x.caffemodel"))
    x = np.random.default_rng(0).random((1, 3, 8, 8)).astype("f4")
    loaded.setInput(x)
    assert np.allclose(loaded.forward(), 10.5 * x / np.sqrt((x**2).sum(1, keepdims=True)), rtol=1e-5)
