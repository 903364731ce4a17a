"""Deploy nets written back from graph configs: OpenCV loads them and gives what it gives for the original files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ssdconv.converters.caffe.graph import graph_config, graph_net
from ssdconv.converters.caffe.net import CaffeNet
from ssdconv.converters.caffe.prototxt import read_prototxt, write_prototxt
from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.converters.caffe.writer import write_caffemodel

FILES = {
    "res10": ("res10_face_ssd/res10_300x300_ssd_iter_140000.caffemodel", "res10_face_ssd/deploy.prototxt"),
    "libfacedetection": (
        "libfacedetection_v1/yufacedetectnet-open-v1.caffemodel",
        "libfacedetection_v1/yufacedetectnet-open-v1.prototxt",
    ),
    "face_mask": ("aizoo_facemask/face_mask_detection.caffemodel", "aizoo_facemask/face_mask_detection.prototxt"),
}


def rewritten(model: Path, prototxt: Path | None, folder: Path, size: tuple[int, int] | None = None) -> CaffeNet:
    with read_caffemodel(model) as table:
        own = table.meta["net"]
        net = own if prototxt is None else read_prototxt(prototxt)
        written = graph_net(graph_config(net, name="back", weights=own, input_size=size))
        learned = {f"{la.name}/{i}" for la in written.layers for i in range(len(la.blobs))}
        write_caffemodel(
            written, {n: np.array(table[n].load()) for n in table if n in learned}, folder / "b.caffemodel"
        )
    write_prototxt(written, folder / "b.prototxt")
    return written


def outputs(prototxt: Path, model: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(model))
    net.enableFusion(False)
    net.enableWinograd(False)
    net.setInput(x)
    names = net.getUnconnectedOutLayersNames()
    return dict(zip(names, (np.array(y) for y in net.forward(names)), strict=True))


@pytest.mark.shared
@pytest.mark.parametrize("name", FILES)
def test_opencv_gives_the_same_for_the_net_written_back(name: str, shared: Path, tmp_path: Path) -> None:
    model, prototxt = (shared / "weights" / part for part in FILES[name])
    net = rewritten(model, prototxt, tmp_path)
    (shape,) = net.inputs.values()
    x = (np.random.default_rng(0).random(shape) * 200 - 100).astype(np.float32)
    before, after = outputs(prototxt, model, x), outputs(tmp_path / "b.prototxt", tmp_path / "b.caffemodel", x)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert np.array_equal(value, after[key]), key
    again = graph_config(read_prototxt(tmp_path / "b.prototxt"), name="back")
    assert graph_net(again).layers == net.layers


@pytest.mark.shared
def test_a_weight_file_alone_becomes_a_whole_deploy_net(shared: Path, tmp_path: Path) -> None:
    model, _ = (shared / "weights" / part for part in FILES["res10"])
    rewritten(model, None, tmp_path)
    x = (np.random.default_rng(0).random((1, 3, 300, 300)) * 200 - 100).astype(np.float32)
    (found,) = outputs(tmp_path / "b.prototxt", tmp_path / "b.caffemodel", x).values()
    assert found.shape[3] == 7
    assert found.shape[2] >= 1
