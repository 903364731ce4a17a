"""Live ChainerCV: every link, raw heads, detections, pixels, both ways of files, and a Caffe network through caffe2npz.

Networks are narrow (an eighth of the channels, built so in ChainerCV too) but for one of each size, whose full width runs in
the slow tests. Weights are seeded; the background is favoured, so that detections stay as few as those of trained networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ssdconv.converters.caffe.prototxt import read_prototxt
from ssdconv.converters.caffe.source import write as write_caffe
from ssdconv.converters.chainer.caffe2npz import caffe2npz
from ssdconv.converters.chainer.source import write
from ssdconv.converters.convert import convert
from ssdconv.converters.plan import Request
from ssdconv.errors import MissingError, UsageError
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.oracles.chainer import COLUMN, ChainerOracle, detection_rows
from ssdconv.parity.oracles.opencv import OpenCVOracle
from ssdconv.parity.oracles.worker import Worker
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.checkpoint import load, save
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.image_file import read_image
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.caffe import vgg
from ssdconv.ssd_ref.networks.chainer import chainer
from ssdconv.ssd_ref.preprocess import prepare as prepare_pixels
from ssdconv.ssd_ref.priors import prior_boxes

MAKER = Worker("chainer", str(Path(__file__).parent / "workers" / "chainer_maker"))

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("chainer_env")]


def quiet(config: SSDConfig, seed: int, bias: float = 8.0) -> dict[str, Any]:
    """Seeded tensors with the background favoured in every conf head."""
    tensors = seeded_tensors(config, seed)
    for name, array in tensors.items():
        if name.startswith("heads.conf.") and name.endswith("bias"):
            array.reshape(-1, config.num_classes)[:, 0] += bias
    return tensors


def proved(folder: Path, config: SSDConfig, probes: int, **wishes: Any) -> None:
    """Write, convert and verify a network on a picture and on noise."""
    write(config, quiet(config, 2), folder / "x.npz", Request())
    convert(folder / "x.npz", folder / "x.pth", **wishes)
    report = verify(folder / "x.pth", folder / "x.npz")
    assert report.passed, report.first_divergent
    assert len(report.inputs[0].probes) == probes
    assert all(name.startswith("/multibox/loc/") for name in report.not_compared), "everything but raw loc convolutions"
    for result in report.inputs:
        assert result.detections is not None and result.detections.matched == result.detections.oracle > 20


@pytest.mark.parametrize(("name", "classes"), [("ssd300_voc", 21), ("ssd512_voc", 4)])
def test_every_link_and_detection(tmp_path: Path, name: str, classes: int) -> None:
    # SSD300: 23 convolutions, norm4, 6 conf heads; input, mb_locs and mb_confs. SSD512: one stage and one head more.
    config = chainer(name, classes, width=8)
    layers = 15 + 1 + (8 if name == "ssd300_voc" else 10) + len(config.priors)
    proved(tmp_path, config, layers + 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd300_voc", "ssd512_voc"])
def test_full_width(tmp_path: Path, name: str) -> None:
    config = chainer(name)
    proved(tmp_path, config, 15 + 1 + (8 if name == "ssd300_voc" else 10) + len(config.priors) + 3)


def test_a_wrong_tensor_is_found(tmp_path: Path) -> None:
    config = chainer("ssd300_voc", width=8)
    tensors = quiet(config, 2)
    write(config, tensors, tmp_path / "x.npz", Request())
    tensors["extras.conv7_2.conv.weight"] = tensors["extras.conv7_2.conv.weight"] * np.float32(1.001)
    save(tmp_path / "x.pth", config, tensors, {})
    report = verify(tmp_path / "x.pth", tmp_path / "x.npz")
    assert not report.passed and report.first_divergent == "/extractor/conv9_2"


def test_both_presets_and_labels(tmp_path: Path) -> None:
    config = chainer("ssd300_voc", 3, width=8)
    write(config, quiet(config, 2, bias=5.0), tmp_path / "x.npz", Request())
    pixels = np.random.default_rng(0).uniform(-120, 130, (1, 3, 300, 300)).astype(np.float32)
    counts = []
    for preset in ("evaluate", "visualize"):
        convert(tmp_path / "x.npz", tmp_path / "x.pth", options={"preset": preset})
        model = load(tmp_path / "x.pth")
        (theirs,) = ChainerOracle(tmp_path / "x.npz", model.config).run(pixels).detections or ()
        import torch

        with torch.inference_mode():
            (ours,) = model.postprocess(*model(torch.from_numpy(pixels)))
        assert len(ours) == len(theirs) > 0
        assert (
            np.bincount(ours.labels.numpy(), minlength=3).tolist() == np.bincount(theirs.labels, minlength=3).tolist()
        )
        counts.append(len(ours))
    assert counts[0] > 2 * counts[1]


def test_default_boxes(tmp_path: Path) -> None:
    for name in ("ssd300_voc", "ssd512_voc"):
        config = chainer(name, 2, width=8)
        write(config, quiet(config, 1), tmp_path / "x.npz", Request())
        job = ChainerOracle(tmp_path / "x.npz", config).job()
        size = config.pixels.size[0]
        answer = MAKER.ask([job], {"0/input": np.zeros((1, 3, size, size), np.float32)})
        mine = prior_boxes(config.priors, config.pixels.size).numpy()[:, [1, 0, 3, 2]] * size
        np.testing.assert_allclose(mine, answer.arrays["0/defaults"], rtol=3e-7, atol=5e-5)


@pytest.mark.shared
@pytest.mark.parametrize("size", [300, 512])
def test_pixels_equal_those_of_chainercv(shared: Path, size: int) -> None:
    paths = sorted((shared / "data/images").rglob("*.jpg"))
    images = [read_image(path) for path in paths]
    assert len(images) == 19
    arrays = {f"0/{i}": np.ascontiguousarray(image[..., ::-1]) for i, image in enumerate(images)}
    answer = MAKER.ask([{"do": "prepare", "size": size, "classes": 21}], arrays)
    mine = prepare_pixels(images, chainer(f"ssd{size}_voc").pixels).numpy()
    for index in range(len(images)):
        theirs = answer.arrays[f"0/{index}"]
        assert theirs.dtype == np.float32
        # Two builds of OpenCV: its float resize may differ in the last bits of a pixel value of up to 255.
        np.testing.assert_allclose(mine[index], theirs, rtol=0, atol=6e-5)


def test_files_that_chainer_itself_wrote(tmp_path: Path) -> None:
    config = chainer("ssd300_voc", 4, width=8)
    tensors = seeded_tensors(config, 9)
    write(config, tensors, tmp_path / "x.npz", Request())
    oracle = ChainerOracle(tmp_path / "x.npz", config)
    jobs = [
        {**oracle.job("save"), "out": str(tmp_path / f"{word}.npz"), "compression": word == "deflated"}
        for word in ("stored", "deflated")
    ]
    MAKER.ask(jobs)
    for word in ("stored", "deflated"):
        report = convert(tmp_path / f"{word}.npz", tmp_path / "y.pth")
        held = load(tmp_path / "y.pth").state_dict()
        assert len(report.rows) == len(held) == 71
        for name, array in tensors.items():
            np.testing.assert_array_equal(held[name].numpy(), array)


@pytest.mark.parametrize("name", ["ssd300_voc", "ssd512_voc"])
def test_caffe2npz_detects_the_same_as_caffe(tmp_path: Path, name: str) -> None:
    """One Caffe network in OpenCV and, through caffe2npz, in ChainerCV: heads, and the detections of Caffe's rule.

    ChainerCV keeps every box, Caffe the 200 best of at most 400 per class; so Caffe's rows must be among ChainerCV's. At 512
    Caffe cuts prior sizes to whole pixels, which moves boxes by up to 3 %, so only the heads are compared there.
    """
    size = int(name[3:6])
    config = vgg(name, 4, width=8)
    write_caffe(config, quiet(config, 4), tmp_path / "x.caffemodel", Request())
    done = caffe2npz(tmp_path / "x.caffemodel", tmp_path / "y.npz", tmp_path / "x.prototxt")
    assert bool(done.warnings) == (size == 512) or all("mean" in w for w in done.warnings)
    image = np.random.default_rng(1).integers(0, 256, (size, size, 3), np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 3)
    bgr = prepare_pixels([image], config.pixels).numpy()
    rgb = prepare_pixels([image], chainer(name).pixels).numpy()
    np.testing.assert_array_equal(bgr[:, ::-1], rgb)  # no resize, so no rounding
    caffe = OpenCVOracle(read_prototxt(tmp_path / "x.prototxt"), tmp_path / "x.caffemodel").run(bgr)
    theirs = ChainerOracle(tmp_path / "y.npz", chainer(name, 4, width=8)).run(rgb)
    loc, conf = caffe.outputs.take("mbox_loc"), caffe.outputs.take("mbox_conf")
    np.testing.assert_allclose(theirs.outputs.take("mb_locs").reshape(loc.shape), loc, atol=1e-5 * np.abs(loc).max())
    np.testing.assert_allclose(
        theirs.outputs.take("mb_confs").reshape(conf.shape), conf, atol=1e-5 * np.abs(conf).max()
    )
    if size == 300:
        assert caffe.detections and theirs.detections
        assert_among(caffe.detections[0], theirs.detections[0])


def assert_among(some: Rows, all_rows: Rows) -> None:
    """Every row of ``some`` is one of ``all_rows``, to 1e-5."""
    assert 20 < len(some) <= len(all_rows)
    for label, score, box in zip(some.labels, some.scores, some.boxes, strict=True):
        close = (all_rows.labels == label) & (np.abs(all_rows.scores - score) < 1e-5)
        assert (np.abs(all_rows.boxes[close] - box).max(axis=1, initial=0) < 1e-5).any(), (label, score, box)


@pytest.mark.shared
def test_a_photo_end_to_end(tmp_path: Path, shared: Path) -> None:
    """``SSD.predict`` of ChainerCV and ``detect`` of the reference on one photo: pixels, network, boxes in the photo."""
    config = chainer("ssd300_voc", width=8)
    write(config, quiet(config, 6), tmp_path / "x.npz", Request())
    convert(tmp_path / "x.npz", tmp_path / "x.pth")
    image = read_image(sorted((shared / "data/images").rglob("*.jpg"))[3])
    (ours,) = load(tmp_path / "x.pth").detect([image])
    job = ChainerOracle(tmp_path / "x.npz", config).job("predict")
    answer = MAKER.ask([job], {"0/image": np.ascontiguousarray(image[..., ::-1])})
    theirs = detection_rows(answer.arrays.under("0/"), config, image.shape[:2])
    height, width = image.shape[:2]
    scale = np.array([width, height, width, height], np.float32)
    rows = Rows(ours.labels.numpy(), ours.scores.numpy(), ours.boxes.numpy() / scale)
    assert len(rows) == len(theirs)
    assert_among(rows, theirs)


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    config = chainer("ssd300_voc", 4, width=8)
    write(config, seeded_tensors(config), tmp_path / "x.npz", Request())
    with pytest.raises(MissingError, match="failed"):  # ChainerCV refuses a file of another class count
        ChainerOracle(tmp_path / "x.npz", chainer("ssd300_voc", 5, width=8)).run(np.zeros((1, 3, 300, 300), np.float32))
    from ssdconv.converters.convert import open_source

    with (opened := open_source(tmp_path / "x.npz")).table, pytest.raises(UsageError, match="no oracle"):
        COLUMN.prepare(opened, oracle="mxnet")
