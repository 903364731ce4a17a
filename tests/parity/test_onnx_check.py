"""ONNX Runtime against the reference: passes for what was exported, fails for anything else."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ssdconv
from ssdconv.errors import FormatError, MissingError, UsageError
from ssdconv.export.onnx_file import onnx_model
from ssdconv.parity import onnx_check
from ssdconv.parity.onnx_check import check_onnx
from ssdconv.parity.sweep import calibrated_tensors
from ssdconv.ssd_ref.checkpoint import Checkpoint, build
from ssdconv.ssd_ref.model import SSD, seeded_tensors
from ssdconv.ssd_ref.networks.registry import network, networks

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

GRAPHS = {
    "res10": ("weights/res10_face_ssd/res10_300x300_ssd_iter_140000.caffemodel", "deploy.prototxt"),
    "libfacedetection": (
        "weights/libfacedetection_v1/yufacedetectnet-open-v1.caffemodel",
        "yufacedetectnet-open-v1.prototxt",
    ),
    "narrow VGG16": ("golden/vgg_ssd300_narrow.caffemodel", "vgg_ssd300_narrow.prototxt"),
}


def seeded(name: str) -> SSD:
    config = network(name)
    return build(Checkpoint(config, {k: torch.from_numpy(v) for k, v in seeded_tensors(config).items()}))


@pytest.fixture(scope="module")
def seven() -> SSD:
    return seeded("keras/ssd7")


@pytest.fixture(scope="module")
def exported(seven: SSD) -> Any:
    return onnx_model(seven)


def changed(proto: Any, name: str, factor: float) -> Any:
    """A copy with one tensor scaled."""
    twin = copy.deepcopy(proto)
    tensor = next(i for i in twin.graph.initializer if i.name == name)
    values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    return twin


def test_the_exported_network_passes(exported: Any, seven: SSD) -> None:
    report = check_onnx(exported, seven)
    assert report, report.reason
    assert len(report.inputs) == 2 and all(len(i.probes) == 2 for i in report.inputs)
    assert report.worst.ratio < 4 and report.to_json()["detections"] is None and "onnxruntime" in report.runtime


@pytest.mark.parametrize("name", ["backbone.conv3.conv.weight", "heads.conf.2.weight", "heads.loc.0.bias"])
def test_a_tensor_off_by_little_fails(name: str, exported: Any, seven: SSD) -> None:
    report = check_onnx(changed(exported, name, 1.001), seven)
    assert not report and "rounding floor" in report.reason
    assert report.to_json()["passed"] is False


@pytest.mark.shared
@pytest.mark.slow
def test_another_rule_in_the_model_fails(shared: Path, tmp_path: Path) -> None:
    model = graph_network(shared, "res10", tmp_path)
    other = copy.copy(model)
    other.config = replace(model.config, detect=replace(model.config.detect, nms_threshold=0.6))
    assert check_onnx(onnx_model(model, nms=True), model)
    report = check_onnx(onnx_model(other, nms=True), model)
    assert not report and "detections" in report.reason and report.counts()["unexplained"] > 0


def test_what_the_runtime_refuses_is_told(exported: Any, seven: SSD) -> None:
    broken = copy.deepcopy(exported)
    broken.graph.node[0].op_type = "Nonsense"
    with pytest.raises(FormatError, match="ONNX Runtime refuses"):
        check_onnx(broken, seven)


def test_without_the_runtime_nothing_passes(monkeypatch: pytest.MonkeyPatch, exported: Any, seven: SSD) -> None:
    monkeypatch.setattr(onnx_check, "find_spec", lambda _: None)
    with pytest.raises(MissingError, match="not checked"):
        check_onnx(exported, seven)


def graph_network(shared: Path, name: str, folder: Path) -> SSD:
    weights, prototxt = GRAPHS[name]
    source = shared / weights
    ssdconv.convert(source, folder / "x.pth", prototxt=source.with_name(prototxt))
    return ssdconv.load(folder / "x.pth")


@pytest.mark.shared
@pytest.mark.parametrize("name", GRAPHS)
def test_trained_graphs_detect_the_same_on_photos(name: str, shared: Path, tmp_path: Path) -> None:
    model = graph_network(shared, name, tmp_path)
    images = sorted((shared / "data/images").glob("*.jpg"))[:4]
    report = check_onnx(onnx_model(model, nms=True), model, images)
    assert report, report.reason
    counts = report.counts()
    assert counts["runtime"] > 50 and counts["matched"] >= counts["reference"] - counts["boundary"]
    assert counts["boundary"] <= counts["matched"] // 100


@pytest.mark.shared
@pytest.mark.parametrize("batch", [None, 2])
def test_heads_of_a_trained_network_in_any_batch(batch: int | None, shared: Path, tmp_path: Path) -> None:
    source = shared / "weights/aizoo_facemask/face_mask_detection.caffemodel"
    ssdconv.convert(source, tmp_path / "x.pth", prototxt=source.with_suffix(".prototxt"))
    model = ssdconv.load(tmp_path / "x.pth")
    report = check_onnx(onnx_model(model, batch=batch), model)
    assert report, report.reason


def test_a_rule_that_onnx_cannot_say_is_refused() -> None:
    with pytest.raises(UsageError, match="no operator in ONNX"):
        onnx_model(seeded("caffe/aizoo_facemask"), nms=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{row.source}/{row.name}" for row in networks()])
def test_every_network(name: str) -> None:
    config = network(name)
    tensors = calibrated_tensors(config, 0)
    model = build(Checkpoint(config, {k: torch.from_numpy(v) for k, v in tensors.items()}))
    ruled = config.detect.nms_scope == "class"
    report = check_onnx(onnx_model(model, nms=ruled), model)
    assert report, report.reason
    assert not ruled or report.counts()["matched"] > 50
