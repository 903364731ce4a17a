"""Weight files without a graph: what is settled about them, against what the original code computed from the same weights."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch

from ssdconv.converters.convert import convert
from ssdconv.errors import UsageError
from ssdconv.ssd_ref.checkpoint import build, read
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.evidence import Claim, from_plain
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.keras import ssd_keras
from ssdconv.ssd_ref.preprocess import prepare
from ssdconv.ssd_ref.priors import prior_boxes

Array = npt.NDArray[Any]
CASES: dict[str, tuple[str, str, dict[str, str]]] = {
    "real": ("real/ssd7_weights.h5.gz", "real/toshihiroryuu_ssd7.npz", {"heads.padding": "valid"}),
    "o09": (
        "ssd7/o09_dfb8655_valid_lambda.weights_only.h5.gz",
        "ssd7/o09_dfb8655_valid_lambda.npz",
        {"heads.padding": "valid", "input.size": "256x200", "pixels.order": "BGR"},
    ),
    "h03": (
        "ssd7/h03_128x96_fast_swap.weights_only.h5.gz",
        "ssd7/h03_128x96_fast_swap.npz",
        {
            "input.size": "96x128", "pixels.order": "BGR", "pixels.mean": "104,117,123", "pixels.std": "none",
            "priors.scales": "0.1,0.25,0.45,0.7,0.95", "priors.variances": "0.1,0.1,0.2,0.2",
        },
    ),
}  # fmt: skip
"""Golden case -> weight file, what the original computed, and what the file does not say."""


def converted(shared: Path, folder: Path, case: str, settings: dict[str, str]) -> tuple[SSD, tuple[Claim, ...]]:
    path = folder / f"{case}.h5"
    path.write_bytes(gzip.decompress((shared / "golden" / "keras_tf" / CASES[case][0]).read_bytes()))
    convert(path, folder / "out.pth", settings=settings)
    checkpoint = read(folder / "out.pth")
    return build(checkpoint).eval(), from_plain(checkpoint.provenance["evidence"])


def in_our_order(rows: Array) -> Array:
    """SSD7's boxes of a cell come as 1/2, 1, mean, 2."""
    return rows.reshape(-1, 4, rows.shape[-1])[:, (1, 2, 3, 0)].reshape(rows.shape)


def outputs(model: SSD, images: Array) -> tuple[Array, Array]:
    """(loc, softmax of conf) of RGB images (N, H, W, 3)."""
    pixels = prepare([image[..., ::-1] for image in images], model.config.pixels)
    with torch.inference_mode():
        loc, conf = model(pixels)
    return loc.numpy(), torch.softmax(conf, -1).numpy()


def close(ours: Array, theirs: Array, limit: float = 2e-5) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= limit * np.abs(theirs).max()


@pytest.mark.shared
@pytest.mark.parametrize("case", CASES)
def test_with_the_right_settings_it_is_the_original(shared: Path, tmp_path: Path, case: str) -> None:
    _, golden, settings = CASES[case]
    model, claims = converted(shared, tmp_path, case, settings)
    with np.load(shared / "golden" / "keras_tf" / golden, allow_pickle=False) as file:
        truth = {name: file[name] for name in file.files}
    real = case == "real"
    images = truth["input_000001"][None] if real else truth["inputs"]
    conf = truth["conf_softmax_000001"][None] if real else truth["conf_softmax"]
    loc = truth["loc_000001"][None] if real else truth["loc"]
    found_loc, found_conf = outputs(model, images)
    for index in range(len(images)):
        close(found_loc[index], in_our_order(loc[index]))
        close(found_conf[index], in_our_order(conf[index]))
    height, width = model.config.pixels.size
    extent = np.float32([width, height] * 2) if truth["anchors"].max() > 4 else np.float32(1)
    anchors = prior_boxes(model.config.priors, (height, width)).numpy()
    assert np.abs(anchors - in_our_order(truth["anchors"]) / extent).max() < 2e-6
    assert np.allclose(model.config.priors[0].variances, truth["variances"])
    said = {claim.key: claim for claim in claims}
    assert {key for key, claim in said.items() if claim.basis == "user"} == set(settings)
    assert all(
        claim.basis == "assumed"
        for claim in claims
        if claim.key.startswith(("pixels", "priors")) and claim.key not in settings
    )


@pytest.mark.shared
def test_without_them_it_is_not_and_says_what_it_took(shared: Path, tmp_path: Path) -> None:
    model, claims = converted(shared, tmp_path, "real", {})
    assert model.config.num_priors == 11_692
    (padding,) = (claim for claim in claims if claim.key == "heads.padding")
    assert (padding.basis, padding.value, padding.others) == ("assumed", "same", ("valid",))
    assert "2018-01-30" in padding.text and "10316 priors, not 11692" in padding.effect
    assert {"input.size", "pixels.mean", "pixels.order", "priors.scales", "priors.steps"} <= {c.key for c in claims}


def written(folder: Path, packing: Any, config: SSDConfig) -> Path:
    layers, _ = packing.layers(config)
    with h5py.File(folder / "x.h5", "w") as file:
        packing.save_weights(file, layers)
    return folder / "x.h5"


SMALL = ssd_keras("ssd_keras_ssd300_voc", 21, width=2)


def settled(tmp_path: Path, packing: Any, **settings: str) -> tuple[SSDConfig, dict[str, Claim]]:
    path = tmp_path / "x.h5"
    if not path.exists():
        path = written(tmp_path, packing, SMALL)
    convert(path, tmp_path / "out.pth", settings={k.replace("_", ".", 1): v for k, v in settings.items()})
    checkpoint = read(tmp_path / "out.pth")
    return checkpoint.config, {claim.key: claim for claim in from_plain(checkpoint.provenance["evidence"])}


def test_settings_of_ssd300(tmp_path: Path, packing: Any) -> None:
    plain, claims = settled(tmp_path, packing)
    assert replace(plain, class_names=SMALL.class_names) == SMALL and claims["priors.scales"].value == "voc"
    assert "up to 13 pixels" in claims["priors.scales"].effect  # a side grows by 26
    coco, claims = settled(tmp_path, packing, priors_scales="coco", extras_padding="same", detect_top_k="50")
    assert claims["priors.scales"].basis == "user" and coco.detect.top_k == 50
    expected = ssd_keras("ssd_keras_ssd300_coco", 21, width=2)
    for mine, theirs in zip(coco.priors, expected.priors, strict=True):
        assert mine.grid == theirs.grid and np.allclose(mine.box_sizes, theirs.box_sizes, rtol=1e-6)
    assert [c.padding for stage in coco.staged.extras.stages[:2] for c in stage] == [0, "same", 0, "same"]
    large, _ = settled(tmp_path, packing, input_size="400x320", priors_steps="even")
    assert [m.grid for m in large.priors][:2] == [(40, 50), (20, 25)] and large.priors[1].step == (16.0, 16.0)
    assert large.priors[0].box_sizes[0] == pytest.approx((32.0, 32.0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"heads.padding": "valid"}, "no such setting"),
        ({"extras.padding": "valid"}, "caffe or same"),
        ({"input.size": "300"}, "WIDTHxHEIGHT"),
        ({"input.size": "40x40"}, "too small"),
        ({"priors.scales": "0.1,0.2"}, "7 numbers"),
        ({"priors.scales": "pascal"}, "voc or coco or"),
        ({"pixels.mean": "1,2"}, "not understood"),
        ({"priors.steps": "8,x"}, "even or 6 numbers"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, packing: Any, settings: dict[str, str], words: str) -> None:
    path = written(tmp_path, packing, SMALL)
    with pytest.raises(UsageError) as error:
        convert(path, tmp_path / "out.pth", settings=settings)
    assert words in str(error.value) and not (tmp_path / "out.pth").exists()
