"""PyTorch files against plain modules of the projects and against torchvision itself: layers, heads, detections, pixels."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.converters.convert import convert, open_source
from ssdconv.converters.plan import Request
from ssdconv.converters.pytorch.source import write
from ssdconv.errors import MissingError, UsageError
from ssdconv.parity.oracles.pytorch import (
    COLUMN,
    SIZES,
    WORKER,
    PlainOracle,
    TorchvisionOracle,
    Weights,
    priors,
)
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.checkpoint import save
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.image_file import read_image
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.pytorch import pytorch
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.postprocess import detect
from ssdconv.ssd_ref.preprocess import prepare as prepare_pixels
from ssdconv.ssd_ref.priors import prior_boxes, prior_corners

LAYERS = 15 + 1 + 8 + 12
"""Convolutions of the backbone, the L2 normalisation, extra layers, heads."""


def quiet(config: SSDConfig, seed: int, bias: float = 8.0) -> dict[str, Any]:
    """Seeded tensors with the background favoured in every conf head."""
    tensors = seeded_tensors(config, seed)
    for name, array in tensors.items():
        if name.startswith("heads.conf.") and name.endswith("bias"):
            array.reshape(-1, config.num_classes)[:, 0] += bias
    return tensors


def proved(folder: Path, config: SSDConfig, probes: int) -> None:
    """Write, convert and verify a network on a picture and on noise."""
    write(config, quiet(config, 2), folder / "x.pth", Request())
    convert(folder / "x.pth", folder / "o.pth", network=config.name, channel_order=config.pixels.order)
    report = verify(folder / "o.pth", folder / "x.pth")
    assert report.passed, report.first_divergent
    assert len(report.inputs[0].probes) == probes and not report.not_compared
    for result in report.inputs:
        assert result.detections is not None and result.detections.oracle > 20
        assert result.detections.matched == result.detections.oracle == result.detections.reference


@pytest.mark.parametrize(
    ("name", "classes", "order"),
    [
        ("ssd_pytorch_ssd300_voc", 21, "RGB"),
        ("ssd_pytorch_ssd300_voc", 21, "BGR"),
        ("ssd_pytorch_ssd300_coco", 6, "RGB"),
        ("simple_ssd_ssd300_voc", 21, "BGR"),
    ],
)
def test_every_layer_and_detection(tmp_path: Path, name: str, classes: int, order: str) -> None:
    proved(tmp_path, pytorch(name, classes, width=8, order=order), LAYERS + 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd_pytorch_ssd300_voc", "ssd_pytorch_ssd300_coco201", "simple_ssd_ssd300_voc"])
def test_full_width(tmp_path: Path, name: str) -> None:
    proved(tmp_path, pytorch(name), LAYERS + 3)


def test_an_oracle_without_an_ear_for_settings_is_not_run(tmp_path: Path) -> None:
    config = pytorch("ssd_pytorch_ssd300_voc", 4, width=8)
    write(config, quiet(config, 2), tmp_path / "x.pth", Request())
    wish = {"priors.scales": "coco", "pixels.order": "RGB"}
    report = convert(tmp_path / "x.pth", tmp_path / "o.pth", settings=wish)
    assert report.config.name == "ssd_pytorch_ssd300_coco" and report.config.priors[0].box_sizes[0] == (21.0, 21.0)
    with pytest.raises(MissingError, match=r"was not told priors\.scales=coco"):
        verify(tmp_path / "o.pth", tmp_path / "x.pth")


@pytest.mark.parametrize("form", ["zip", "legacy", "wrapped"])
def test_files_as_training_scripts_left_them(tmp_path: Path, form: str) -> None:
    config = pytorch("ssd_pytorch_ssd300_voc", 3, width=8)
    write(config, quiet(config, 2), tmp_path / "x.pth", Request())
    state = torch.load(tmp_path / "x.pth", weights_only=True)
    if form == "wrapped":
        state = {"state_dict": OrderedDict((f"module.{k}", v) for k, v in state.items()), "epoch": 1}
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=form != "legacy")
    wish = Request("ssd_pytorch_ssd300_voc", channel_order="RGB")
    with (opened := open_source(tmp_path / "x.pth", None, wish)).table:
        prepared = COLUMN.prepare(opened)
        run = prepared.oracle.run(np.zeros((1, 3, 300, 300), np.float32))
        assert {p.source for p in prepared.probes} - {prepared.input} == set(run.outputs.left)


def test_a_wrong_tensor_is_found(tmp_path: Path) -> None:
    config = pytorch("ssd_pytorch_ssd300_voc", width=8)
    tensors = quiet(config, 2)
    write(config, tensors, tmp_path / "x.pth", Request())
    tensors["heads.l2norm.0.weight"] = tensors["heads.l2norm.0.weight"] * np.float32(1.001)
    save(tmp_path / "o.pth", config, tensors, {})
    report = verify(tmp_path / "o.pth", tmp_path / "x.pth")
    assert not report.passed and report.first_divergent == "L2Norm"


@pytest.mark.parametrize(("name", "sizes"), [("ssd_pytorch_ssd300_voc", "voc"), ("ssd_pytorch_ssd300_coco", "coco")])
def test_priors_are_clamped_to_the_image(name: str, sizes: str) -> None:
    config = network(name)
    mine = prior_boxes(config.priors, (300, 300)).numpy()
    np.testing.assert_allclose(mine, priors(SIZES[sizes]), rtol=2e-7, atol=1e-7)
    assert mine.max() == 1.0, "the ratio-2 box of conv9_2 is wider than the image"


def test_the_plain_oracle_loads_strictly_and_safely(tmp_path: Path) -> None:
    config = pytorch("ssd_pytorch_ssd300_voc", width=8)
    write(config, quiet(config, 2), tmp_path / "x.pth", Request())
    with pytest.raises(MissingError, match="not run"):
        PlainOracle(Weights(tmp_path / "x.pth"), pytorch("ssd_pytorch_ssd300_voc", 5, width=8)).model()
    torch.save(torch.nn.ReLU(), tmp_path / "y.pth")
    with pytest.raises(MissingError, match="not run"):
        PlainOracle(Weights(tmp_path / "y.pth"), config).model()
    with (
        (opened := open_source(tmp_path / "x.pth", None, Request(channel_order="RGB"))).table,
        pytest.raises(UsageError, match="no oracle"),
    ):
        COLUMN.prepare(opened, oracle="chainer")


@pytest.mark.shared
@pytest.mark.parametrize("name", ["ssd_pytorch_ssd300_voc", "simple_ssd_ssd300_voc"])
def test_pixels_written_out(shared: Path, name: str) -> None:
    # ssd.pytorch's data/__init__.py base_transform: resize on bytes, float, minus (104, 117, 123) in BGR; then its callers
    # flip to RGB. simple-ssd does not flip.
    import cv2

    images = [read_image(path) for path in sorted((shared / "data/images").rglob("*.jpg"))]
    config = network(name)
    for image, mine in zip(images, prepare_pixels(images, config.pixels).numpy(), strict=True):
        x = cv2.resize(image, (300, 300)).astype(np.float32) - np.array((104, 117, 123), np.float32)
        x = x[:, :, (2, 1, 0)] if config.pixels.order == "RGB" else x
        np.testing.assert_array_equal(mine, x.transpose(2, 0, 1))


@pytest.mark.oracle
@pytest.mark.shared
@pytest.mark.usefixtures("torchvision_env")
def test_pixels_equal_those_of_torchvision(shared: Path) -> None:
    images = [read_image(path) for path in sorted((shared / "data/images").rglob("*.jpg"))]
    arrays = {f"0/{i}": np.ascontiguousarray(image[..., ::-1]) for i, image in enumerate(images)}
    answer = WORKER.ask([{"do": "prepare"}], arrays)
    mine = prepare_pixels(images, network("torchvision_ssd300_vgg16").pixels).numpy()
    for index in range(len(images)):
        # torchvision normalises before it resizes, the reference after: rounding of values up to 255
        np.testing.assert_allclose(mine[index], answer.arrays[f"0/{index}"], rtol=0, atol=1e-4)


@pytest.mark.oracle
@pytest.mark.usefixtures("torchvision_env")
def test_torchvision_names_priors_and_detections(tmp_path: Path) -> None:
    """torchvision loads a written file strictly; from its own raw heads the reference finds its very detections."""
    config = pytorch("torchvision_ssd300_vgg16", 5)
    write(config, quiet(config, 2), tmp_path / "x.pth", Request())
    oracle = TorchvisionOracle(Weights(tmp_path / "x.pth"), config)
    pixels = np.random.default_rng(0).uniform(-120, 130, (1, 3, 300, 300)).astype(np.float32)
    answer = WORKER.ask([oracle.job()], {"0/input": pixels})
    assert sorted(answer.jobs[0]["names"]) == sorted(torch.load(tmp_path / "x.pth", weights_only=True))
    corners = prior_corners(config.priors, (300, 300)).numpy() * 300
    np.testing.assert_allclose(corners, answer.arrays["0/anchors"], atol=1e-4)
    loc, conf = (torch.from_numpy(answer.arrays[f"0/{key}"]) for key in ("loc", "conf"))
    loc[0, :50, 2:] = 40.0  # its decoder caps dw and dh: without the cap these are infinite
    (found,) = detect(loc, conf, config.priors, (300, 300), config.detect)
    assert bool(found.boxes.isfinite().all())
    loc = torch.from_numpy(answer.arrays["0/loc"])
    (found,) = detect(loc, conf, config.priors, (300, 300), config.detect)
    assert len(found) == len(answer.arrays["0/0/scores"]) > 20
    np.testing.assert_array_equal(found.labels.numpy(), answer.arrays["0/0/labels"])
    np.testing.assert_allclose(found.scores.numpy(), answer.arrays["0/0/scores"], atol=1e-6)
    np.testing.assert_allclose(found.boxes.numpy() * 300, answer.arrays["0/0/boxes"], atol=1e-3)


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.usefixtures("torchvision_env")
def test_torchvision_every_layer(tmp_path: Path) -> None:
    # its L2 normalisation is no module of its own, so it shows in the heads
    proved(tmp_path, network("torchvision_ssd300_vgg16"), LAYERS - 1 + 3)
