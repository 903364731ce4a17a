"""convert and reverse, end to end on seeded networks and on the real Caffe nets."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ssdconv
from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.converters.caffe.schema import messages
from ssdconv.converters.convert import convert, output_paths, reverse
from ssdconv.errors import FormatError, MappingError, MissingError, SsdconvError, UsageError
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.caffe import mobilenet, vgg
from ssdconv.ssd_ref.networks.registry import network

NARROW = vgg("ssd300_voc", 5, width=4)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow SSD300 as .caffemodel with its prototxt beside it."""
    folder = tmp_path_factory.mktemp("narrow")
    checkpoint.save(folder / "net.pth", NARROW, seeded_tensors(NARROW, 4))
    reverse(folder / "net.pth", folder / "net.caffemodel", "caffe")
    return folder / "net.caffemodel"


def with_prototxt(path: Path) -> dict[str, Path]:
    return {"prototxt": path.with_suffix(".prototxt")}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_there_and_back_is_bit_identical(narrow: Path, suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"out{suffix}"
    report = convert(narrow, out, **with_prototxt(narrow))
    assert report.outputs == (out,)
    reverse(out, tmp_path / "back.caffemodel", "caffe")
    with read_caffemodel(narrow) as first, read_caffemodel(tmp_path / "back.caffemodel") as second:
        assert list(first) == list(second)
        for name, tensor in first.items():
            assert tensor.load().tobytes() == second[name].load().tobytes()


def test_report_rows_are_the_written_tensors(narrow: Path, tmp_path: Path) -> None:
    report = convert(narrow, tmp_path / "out.pth", **with_prototxt(narrow))
    state = checkpoint.read(tmp_path / "out.pth").state_dict
    assert [row.target for row in report.rows] == list(state)
    for row in report.rows:
        array = state[row.target].numpy()
        assert row.sha256 == hashlib.sha256(array.tobytes()).hexdigest()
        assert (row.min, row.max) == (float(array.min()), float(array.max()))
        assert row.mean == pytest.approx(float(array.mean(dtype=np.float64)), abs=1e-5)
    assert report.source_sha256 == hashlib.sha256(narrow.read_bytes()).hexdigest()
    assert sum(count for _, _, count in report.groups()) == sum(t.numel() for t in state.values())
    assert report.to_json()["tensors"][0]["source"] == "conv1_1/0"


def test_provenance_travels_inside(narrow: Path, tmp_path: Path) -> None:
    convert(narrow, tmp_path / "out", format="both", **with_prototxt(narrow))
    for suffix in (".pth", ".safetensors"):
        held = checkpoint.read(tmp_path / f"out{suffix}").provenance
        assert held["sha256"] == hashlib.sha256(narrow.read_bytes()).hexdigest()
        assert (held["ssdconv"], held["source"], held["file"]) == (ssdconv.__version__, "caffe", narrow.name)


def test_the_same_file_gives_the_same_bytes(narrow: Path, tmp_path: Path) -> None:
    for suffix in (".pth", ".safetensors"):
        outputs = [tmp_path / f"{name}{suffix}" for name in "ab"]
        for out in outputs:
            convert(narrow, out, **with_prototxt(narrow))
        assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_the_pth_is_a_sound_zip_that_plain_torch_loads(narrow: Path, tmp_path: Path) -> None:
    convert(narrow, tmp_path / "out.pth", **with_prototxt(narrow))
    assert zipfile.ZipFile(tmp_path / "out.pth").testzip() is None
    for mmap in (False, True):
        loaded = torch.load(tmp_path / "out.pth", weights_only=True, mmap=mmap)
        assert loaded["state_dict"]["layers.conv1_1.weight"].shape == (4, 3, 3, 3)
        assert all(t.data_ptr() % 64 == 0 for t in loaded["state_dict"].values()) or not mmap


@pytest.mark.parametrize("name", ["ssd300_coco", "ssd512_voc", "mobilenet_ssd_voc", "mobilenet_ssd_voc_bn"])
def test_named_networks_are_recognised_in_full_size(name: str, tmp_path: Path) -> None:
    config = network(name)
    checkpoint.save(tmp_path / "net.safetensors", config, seeded_tensors(config, 1))
    reverse(tmp_path / "net.safetensors", tmp_path / "net.caffemodel", "caffe")
    report = convert(
        tmp_path / "net.caffemodel", tmp_path / "out.pth", prototxt=tmp_path / "net.prototxt", digests=False
    )
    assert report.config == replace(config, class_names=())  # nothing in the file names its classes


def test_fine_tuned_class_counts_and_own_priors(tmp_path: Path) -> None:
    config = mobilenet("mobilenet_ssd_voc", 7)
    checkpoint.save(tmp_path / "net.pth", config, seeded_tensors(config, 1))
    reverse(tmp_path / "net.pth", tmp_path / "net.caffemodel", "caffe")
    prototxt = tmp_path / "net.prototxt"
    assert convert(tmp_path / "net.caffemodel", tmp_path / "a.pth", prototxt=prototxt).config.num_classes == 7
    text = prototxt.read_text()
    assert text.count("min_size: 60") == 1
    prototxt.write_text(text.replace("min_size: 60", "min_size: 50"))
    own = convert(tmp_path / "net.caffemodel", tmp_path / "b.pth", prototxt=prototxt).config
    assert own.name == "mobilenet_ssd_custom"
    assert own.priors[0].box_sizes[0] == (50.0, 50.0)


def test_wrong_network_is_an_error_that_names_a_tensor(narrow: Path, tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"'conv1_1/0' has another shape .*expected \(64, 3, 3, 3\)"):
        convert(narrow, tmp_path / "out.pth", network="ssd300_voc")
    with pytest.raises(MappingError, match=r"no tensor 'conv10_1/0'|another shape"):
        convert(narrow, tmp_path / "out.pth", network="ssd512_voc")
    assert not list(tmp_path.iterdir())


def test_nan_and_infinity_are_named(tmp_path: Path) -> None:
    tensors = seeded_tensors(NARROW, 4)
    tensors["extras.conv7_1.conv.bias"][1] = np.nan
    tensors["backbone.fc6.conv.weight"][0, 0, 0, 0] = np.inf
    checkpoint.save(tmp_path / "net.pth", NARROW, tensors)
    reverse(tmp_path / "net.pth", tmp_path / "net.caffemodel", "caffe")
    report = convert(tmp_path / "net.caffemodel", tmp_path / "out.pth", prototxt=tmp_path / "net.prototxt")
    assert [w for w in report.warnings if "NaN" in w] == [
        "tensor 'fc6/0' holds NaN or infinite values",
        "tensor 'conv7_1/1' holds NaN or infinite values",
    ]


def test_a_large_finite_sum_is_no_warning(tmp_path: Path) -> None:
    tensors = seeded_tensors(NARROW, 4)
    tensors["backbone.fc6.conv.weight"][:] = 3e38  # the float32 sum overflows
    checkpoint.save(tmp_path / "net.pth", NARROW, tensors)
    reverse(tmp_path / "net.pth", tmp_path / "net.caffemodel", "caffe")
    report = convert(tmp_path / "net.caffemodel", tmp_path / "out.pth", prototxt=tmp_path / "net.prototxt")
    assert not [w for w in report.warnings if "NaN" in w]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"dst": "out.txt"}, UsageError),
        ({"dst": "out.pth", "format": "safetensors"}, UsageError),
        ({"dst": "out.pth", "format": "onnx"}, UsageError),
        ({"dst": "out.pth", "source": "darknet"}, UsageError),
        ({"dst": "out.pth", "network": "ssd301_voc"}, UsageError),
        ({"dst": "out.pth", "prototxt": "none.prototxt"}, MissingError),
    ],
)
def test_wishes_that_make_no_sense(change: dict, error: type[SsdconvError], narrow: Path, tmp_path: Path) -> None:
    with pytest.raises(error):
        convert(narrow, **{**change, "dst": tmp_path / change["dst"]})
    assert not list(tmp_path.iterdir())


def test_source_problems(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        convert(tmp_path / "none.caffemodel")
    for content, text in (
        (b"", "empty"),
        (b"<!DOCTYPE html><html>quota exceeded</html>", "web page"),
        (b"\x80\x02}q.", "not|layer"),
    ):
        (tmp_path / "x.caffemodel").write_bytes(content)
        with pytest.raises(FormatError, match=text):
            convert(tmp_path / "x.caffemodel", tmp_path / "out.pth")


def test_the_source_is_never_overwritten(narrow: Path, tmp_path: Path) -> None:
    link = tmp_path / "out.pth"
    link.symlink_to(narrow)
    with pytest.raises(UsageError, match="overwrite the source"):
        convert(narrow, link, **with_prototxt(narrow))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("weights", "prototxt", "priors", "classes"),
    [
        # priors: 8892 from the deploy net (conv8_2, conv9_2 with stride 2), 8732 from the train net inside the file
        ("weights/res10_face_ssd/res10_300x300_ssd_iter_140000.caffemodel", None, 8732, 2),
        ("weights/res10_face_ssd/res10_300x300_ssd_iter_140000.caffemodel", "deploy.prototxt", 8892, 2),
        (
            "weights/libfacedetection_v1/yufacedetectnet-open-v1.caffemodel",
            "yufacedetectnet-open-v1.prototxt",
            4420,
            2,
        ),
        (
            "weights/libfacedetection_v1/yufacedetectnet-open-v1.caffemodel",
            "yufacedetectnet-open-v1.train.prototxt",
            5875,
            2,
        ),
        ("weights/aizoo_facemask/face_mask_detection.caffemodel", "face_mask_detection.prototxt", 5972, 2),
        ("golden/vgg_ssd300_narrow.caffemodel", "vgg_ssd300_narrow.prototxt", 8732, 21),
    ],
)
def test_real_nets_convert_and_come_back(
    weights: str, prototxt: str | None, priors: int, classes: int, shared: Path, tmp_path: Path
) -> None:
    path = shared / weights
    report = convert(path, tmp_path / "out.safetensors", prototxt=path.parent / prototxt if prototxt else None)
    assert (report.config.num_priors, report.config.num_classes) == (priors, classes)
    assert not report.drops
    reverse(tmp_path / "out.safetensors", tmp_path / "back.caffemodel", "caffe")
    with read_caffemodel(path) as first, read_caffemodel(tmp_path / "back.caffemodel") as second:
        assert set(first) == set(second)
        for name, tensor in first.items():
            assert tensor.shape == second[name].shape
            assert tensor.load().tobytes() == second[name].load().tobytes()


def legacy(source: Path, target: Path) -> None:
    """Rewrite a file as Caffe wrote it before 2014-10: four dimensions in num, channels, height, width for every blob."""
    net = messages()["Net"]()
    net.ParseFromString(source.read_bytes())
    for layer in net.layer:
        for blob in layer.blobs:
            dims = [1] * (4 - len(blob.shape.dim)) + list(blob.shape.dim)
            blob.ClearField("shape")
            blob.num, blob.channels, blob.height, blob.width = dims
    target.write_bytes(net.SerializeToString())


@pytest.mark.parametrize("with_file", [True, False])
def test_blobs_of_four_legacy_dimensions(with_file: bool, tmp_path: Path) -> None:
    config = network("mobilenet_ssd_voc_bn") if with_file else NARROW
    checkpoint.save(tmp_path / "net.pth", config, seeded_tensors(config, 4))
    reverse(tmp_path / "net.pth", tmp_path / "net.caffemodel", "caffe")
    legacy(tmp_path / "net.caffemodel", tmp_path / "old.caffemodel")
    prototxt = tmp_path / "net.prototxt"
    modern = convert(tmp_path / "net.caffemodel", tmp_path / "a.pth", prototxt=prototxt)
    old = convert(tmp_path / "old.caffemodel", tmp_path / "b.pth", prototxt=prototxt)
    assert [r.sha256 for r in old.rows] == [r.sha256 for r in modern.rows]
    assert [r.target_shape for r in old.rows] == [r.target_shape for r in modern.rows]
    assert old.rows[1].source_shape != modern.rows[1].source_shape


def test_the_output_is_never_named_after_a_device_or_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for place in (Path("/dev/null"), tmp_path / "folder"):
        with pytest.raises(UsageError, match="folder or a device"):
            output_paths(tmp_path / "x.caffemodel", place, None)
    assert not Path("/dev/null.pth").exists()
