"""One-channel networks: converted, verified by OpenCV, detecting, exported, trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import ssdconv
from ssdconv import cli
from ssdconv.converters.caffe.graph import graph_config
from ssdconv.converters.caffe.prototxt import parse_prototxt
from ssdconv.converters.convert import convert, reverse
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.checkpoint import read
from ssdconv.ssd_ref.config import Preprocess

pytestmark = pytest.mark.usefixtures("one_thread")

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 40 dim: 48 } } }'
TOLD = """layer { name: "data" type: "ImageData" top: "data" transform_param { mean_value: 100 scale: 0.01
  resize_param { height: 40 width: 48 } } image_data_param { is_color: false } }"""
BODY = """
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 4 } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "loc" type: "Convolution" bottom: "c1" top: "loc" convolution_param { num_output: 12 kernel_size: 3 pad: 1 } }
layer { name: "conf" type: "Convolution" bottom: "c1" top: "conf" convolution_param { num_output: 9 kernel_size: 3 pad: 1 } }
layer { name: "lp" type: "Permute" bottom: "loc" top: "lp" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "lf" type: "Flatten" bottom: "lp" top: "lf" flatten_param { axis: 1 } }
layer { name: "cp" type: "Permute" bottom: "conf" top: "cp" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "cf" type: "Flatten" bottom: "cp" top: "cf" flatten_param { axis: 1 } }
layer { name: "pri" type: "PriorBox" bottom: "c1" bottom: "data" top: "pri" prior_box_param {
  min_size: 12 aspect_ratio: 2 flip: true clip: false variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 offset: 0.5 } }
layer { name: "cr" type: "Reshape" bottom: "cf" top: "cr" reshape_param { shape { dim: 0 dim: -1 dim: 3 } } }
layer { name: "cs" type: "Softmax" bottom: "cr" top: "cs" softmax_param { axis: 2 } }
layer { name: "cq" type: "Flatten" bottom: "cs" top: "cq" flatten_param { axis: 1 } }
layer { name: "out" type: "DetectionOutput" bottom: "lf" bottom: "cq" bottom: "pri" top: "out" detection_output_param {
  num_classes: 3 share_location: true background_label_id: 0 code_type: CENTER_SIZE keep_top_k: 50 confidence_threshold: 0.1
  nms_param { nms_threshold: 0.45 top_k: 100 } } }
"""


@dataclass
class Grey:
    """A grey net's files."""

    weights: Path
    prototxt: Path
    checkpoint: Path
    picture: Path


@pytest.fixture(scope="module")
def grey(caffe_file: Callable[..., tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory) -> Grey:
    folder = tmp_path_factory.mktemp("grey")
    weights, prototxt = caffe_file(INPUT + BODY, folder)
    convert(weights, folder / "x.pth", prototxt=prototxt)
    image = cv2.resize(np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8), (160, 120))
    cv2.imwrite(str(folder / "a.png"), image)
    return Grey(weights, prototxt, folder / "x.pth", folder / "a.png")


def test_it_is_the_same_network(grey: Grey) -> None:
    config = read(grey.checkpoint).config
    assert config.pixels == Preprocess((40, 48), "GRAY") and config.pixels.mean == (0.0,) and config.num_priors == 360
    report = verify(grey.checkpoint, grey.weights, prototxt=grey.prototxt, images=[grey.picture])
    assert report.passed
    assert all(i.detections is not None and i.detections.matched > 3 for i in report.inputs)


def test_grey_is_opencv_s_and_made_before_the_resize(grey: Grey) -> None:
    model = ssdconv.load(grey.checkpoint)
    colour = cv2.imread(str(grey.picture))
    x = cv2.resize(cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY), (48, 40)).astype(np.float32)
    wanted = model.postprocess(*model(torch.from_numpy(x)[None, None]))[0].scaled(160, 120)
    found = model.detect([str(grey.picture)])[0]
    assert len(found) and torch.equal(found.boxes, wanted.boxes) and torch.equal(found.scores, wanted.scores)
    assert torch.equal(model.detect([colour])[0].boxes, wanted.boxes)


@pytest.mark.parametrize("rule", ["opencv_linear_float", "mxnet_9", "tf1_bilinear", "pil_bilinear", "torch_bilinear"])
def test_every_resize_rule_keeps_the_one_channel(grey: Grey, rule: str) -> None:
    from ssdconv.ssd_ref.preprocess import prepare

    if rule == "pil_bilinear":
        pytest.importorskip("PIL")
    pixels = replace(Preprocess((40, 48), "GRAY", (100.0,), (2.0,)), resize=rule)  # type: ignore[arg-type]
    image = cv2.cvtColor(cv2.imread(str(grey.picture)), cv2.COLOR_BGR2GRAY)
    same_in_colour = prepare([cv2.merge([image] * 3)], replace(Preprocess((40, 48)), resize=rule))  # type: ignore[arg-type]
    assert torch.allclose(prepare([image], pixels)[:, 0], (same_in_colour[:, 0] - 100) / 2, atol=1e-5)


def test_back_to_caffe_and_to_onnx_and_to_a_hub_folder(grey: Grey, tmp_path: Path) -> None:
    reverse(grey.checkpoint, tmp_path / "y.caffemodel", "caffe")
    assert " ".join((tmp_path / "y.prototxt").read_text().split()).count("dim: 1 dim: 1 dim: 40 dim: 48") == 1
    convert(tmp_path / "y.caffemodel", tmp_path / "y.pth")
    assert read(tmp_path / "y.pth").config.pixels == read(grey.checkpoint).config.pixels
    assert cli.main(["export", str(grey.checkpoint), "--hub", str(tmp_path / "hub")]) == 0
    assert ssdconv.load(tmp_path / "hub").config.pixels.channels == 1


def test_onnx(grey: Grey, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    target = tmp_path / "y.onnx"
    assert cli.main(["export", str(grey.checkpoint), "--onnx", str(target), "--with-nms", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["onnx"]["check"]["passed"]
    dims = onnx.load(target).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims[1:]] == [1, 40, 48]


def test_what_a_data_layer_tells() -> None:
    config = graph_config(parse_prototxt((TOLD + BODY).encode(), "x"), name="x")
    assert config.pixels == Preprocess((40, 48), "GRAY", (100.0,), (1.0,), scale=0.01)
    forced = TOLD.replace("scale: 0.01", "scale: 0.01 force_gray: true").replace("is_color: false", "is_color: true")
    assert graph_config(parse_prototxt((forced + BODY).encode(), "x"), name="x").pixels.order == "GRAY"


def test_the_kernel_tells_where_nothing_else_does(grey: Grey, tmp_path: Path) -> None:
    silent = TOLD.replace("image_data_param { is_color: false }", "")
    (tmp_path / "train.prototxt").write_text(silent + BODY)
    convert(grey.weights, tmp_path / "x.pth", prototxt=tmp_path / "train.prototxt")
    assert read(tmp_path / "x.pth").config.pixels.order == "GRAY"


def test_two_channels_are_refused() -> None:
    with pytest.raises(ssdconv.errors.FormatError, match=r"no image.*grey"):
        graph_config(parse_prototxt((INPUT.replace("dim: 1 dim: 1", "dim: 1 dim: 2") + BODY).encode(), "x"), name="x")
