"""One Caffe SSD300 through other systems' files and back: every tensor bit for bit, and the same detections.

What may differ is each system's own rule: ChainerCV keeps all boxes, ssd.pytorch and simple-ssd clamp priors. So detections are
compared twice: by Caffe's rule on the heads of each hop, and where a system's own rule cannot differ (ChainerCV's boxes
above the 200 that Caffe keeps contain Caffe's; unclamped priors) by its own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.converters.caffe.source import write as write_caffe
from ssdconv.converters.convert import convert
from ssdconv.converters.plan import Request
from ssdconv.converters.registry import source
from ssdconv.converters.same_network import first_layer_as
from ssdconv.ssd_ref.checkpoint import load, read, save
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import SSD, seeded_tensors
from ssdconv.ssd_ref.networks.caffe import vgg
from ssdconv.ssd_ref.postprocess import Detections, detect
from ssdconv.ssd_ref.preprocess import prepare

HOPS: dict[str, tuple[str, str, dict[str, Any], str | None]] = {
    "chainer": ("chainer", "x.npz", {}, None),
    "ssd.pytorch": ("pytorch", "x.pth", {"style": "ssd.pytorch"}, "RGB"),
    "ssd.pytorch, BGR": ("pytorch", "x.pth", {"style": "ssd.pytorch"}, "BGR"),
    "simple-ssd": ("pytorch", "x.pth", {"style": "simple-ssd"}, "BGR"),
}
"""Hop -> source, file, options, channel order."""


@pytest.fixture(scope="module")
def origin() -> tuple[SSDConfig, dict[str, Any]]:
    """A narrow Caffe SSD300, background favoured."""
    config = vgg("ssd300_voc", width=8)
    tensors = seeded_tensors(config, 11)
    for name, array in tensors.items():
        if name.startswith("heads.conf.") and name.endswith("bias"):
            array.reshape(-1, 21)[:, 0] += 8
    return config, tensors


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """300 x 300 already, so that no resize rule plays a part."""
    y, x = np.mgrid[0:300, 0:300]
    picture = np.stack([127 + 120 * np.sin(x / (9 + k) + y / (13 - k)) for k in range(3)], -1)
    return picture.astype(np.uint8)


def hop(name: str, config: SSDConfig, tensors: dict[str, Any], folder: Path) -> SSD:
    """Write for the other system, convert that file, load it."""
    system, file, options, order = HOPS[name]
    source(system).module.write(config, tensors, folder / file, Request(channel_order=order, options=options))
    convert(folder / file, folder / "hop.pth", channel_order=order)
    return load(folder / "hop.pth")


def heads(model: SSD, image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        loc, conf = model(prepare([image], model.config.pixels))
    return loc, conf


def same(a: Detections, b: Detections) -> None:
    assert len(a) == len(b) > 20
    assert torch.equal(a.labels, b.labels) and torch.equal(a.priors, b.priors)
    torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(a.boxes, b.boxes, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", HOPS)
def test_tensors_come_back_and_detections_stay(
    name: str, tmp_path: Path, origin: tuple[SSDConfig, dict[str, Any]], image: np.ndarray
) -> None:
    config, tensors = origin
    there = hop(name, config, tensors, tmp_path)
    back = {key: value.numpy() for key, value in there.state_dict().items()}
    back = first_layer_as("BGR", there.config, back)
    assert back.keys() == tensors.keys()
    write_caffe(config, tensors, tmp_path / "a.caffemodel", Request())
    write_caffe(config, back, tmp_path / "b.caffemodel", Request())
    assert (tmp_path / "a.caffemodel").read_bytes() == (tmp_path / "b.caffemodel").read_bytes()

    save(tmp_path / "caffe.pth", config, tensors, {})
    ours, theirs = heads(load(tmp_path / "caffe.pth"), image), heads(there, image)
    rule = (config.priors, (300, 300), config.detect)
    (mine,), (yours,) = detect(*ours, *rule), detect(*theirs, *rule)
    same(mine, yours)
    if name == "chainer":  # its own rule keeps more, and all of Caffe's among them
        (found,) = there.postprocess(*theirs)
        held = {(int(p), int(c)) for p, c in zip(found.priors, found.labels, strict=True)}
        assert {(int(p), int(c)) for p, c in zip(mine.priors, mine.labels, strict=True)} <= held
    else:  # its own priors but for the clamp
        free = tuple(replace(entry, clip="none") for entry in there.config.priors)
        (found,) = detect(*theirs, free, (300, 300), config.detect)
        same(mine, found)


def test_the_clamp_is_the_difference(tmp_path: Path, origin: tuple[SSDConfig, dict[str, Any]]) -> None:
    there = hop("ssd.pytorch", *origin, tmp_path)
    assert read(tmp_path / "hop.pth").config.priors[5].clip == "centers"
    loc = torch.zeros(1, 8732, 4)
    conf = torch.zeros(1, 8732, 21)
    conf[0, -2, 5] = 9.0  # conv9_2, ratio 2: 373 pixels wide where nothing clamps it
    (caffe,) = detect(loc, conf, origin[0].priors, (300, 300), origin[0].detect)
    (clamped,) = there.postprocess(loc, conf)
    assert float(caffe.boxes[0, 2] - caffe.boxes[0, 0]) == pytest.approx(373.35 / 300, abs=1e-4)
    assert float(clamped.boxes[0, 2] - clamped.boxes[0, 0]) == pytest.approx(1.0)
