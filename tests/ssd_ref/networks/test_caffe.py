"""Named Caffe networks against the manifests (read off the released prototxts) and against typed-out published sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ssdconv.converters.caffe.writer import emit
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.registry import network

MANIFESTS = {
    "ssd300_voc": "caffe_ssd/ssd300_voc",
    "ssd300_coco": "caffe_ssd/ssd300_coco",
    "ssd512_voc": "caffe_ssd/ssd512_voc",
    "ssd512_coco": "caffe_ssd/ssd512_coco",
    "mobilenet_ssd_voc": "caffe_mobilenet_ssd/mobilenet_ssd_voc_merged",
    "mobilenet_ssd_voc_bn": "caffe_mobilenet_ssd/mobilenet_ssd_voc_bn",
}


@pytest.mark.shared
@pytest.mark.parametrize("name", MANIFESTS)
def test_blobs_match_the_manifest_name_for_name_and_shape_for_shape(name: str, shared: Path) -> None:
    manifest = json.loads((shared / "reference/manifests" / f"{MANIFESTS[name]}.json").read_text())
    wanted = [(p["name"], tuple(p["shape"])) for p in manifest["params"]]
    config = network(name)
    mine = [(f"{e.layer.name}/{i}", shape) for e in emit(config) for i, shape in enumerate(e.shapes)]
    assert mine == wanted
    assert config.num_priors == manifest["priors"]["total"]
    for mapped, priors in zip(manifest["priors"]["maps"], config.priors, strict=True):
        assert priors.grid == (mapped["grid"], mapped["grid"])
        assert priors.step[0] == pytest.approx(mapped["step"])
        assert priors.box_sizes[0] == (mapped["effective_min"], mapped["effective_min"])
        if mapped["effective_second"] is not None:
            assert priors.box_sizes[1][0] == pytest.approx(mapped["effective_second"], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "priors"),
    [
        ("ssd300_voc", 8732),
        ("ssd300_coco", 8732),
        ("ssd512_voc", 24564),
        ("ssd512_coco", 24564),
        ("mobilenet_ssd_voc", 1917),
    ],
)
def test_prior_counts_of_the_papers(name: str, priors: int) -> None:
    assert network(name).num_priors == priors


def test_sizes_at_512_are_cut_to_whole_pixels() -> None:
    # Caffe's PriorBoxLayer holds min_size 35.84 as the integer 35 (golden/priors.npz: first box 35.0 px wide)
    assert network("ssd512_voc").priors[0].box_sizes[0] == (35.0, 35.0)


@pytest.mark.parametrize("classes", [2, 21, 81, 201])
def test_any_class_count(classes: int) -> None:
    config = network("ssd300_voc", num_classes=classes)
    with torch.device("meta"):
        model = SSD(config)
        loc, conf = model(torch.zeros(2, 3, 300, 300))
    assert loc.shape == (2, 8732, 4)
    assert conf.shape == (2, 8732, classes)


@pytest.mark.parametrize("name", MANIFESTS)
def test_emitted_tensors_are_exactly_the_models(name: str) -> None:
    config = network(name)
    with torch.device("meta"):
        state = {k: tuple(v.shape) for k, v in SSD(config).state_dict().items()}
    assert {t: s for e in emit(config) for t, s in zip(e.tensors, e.shapes, strict=True)} == state


@pytest.mark.parametrize("name", MANIFESTS)
def test_grids_are_those_of_the_feature_maps(name: str) -> None:
    config = network(name)
    height, width = config.pixels.size
    with torch.device("meta"):
        features = SSD(config).eval().features(torch.zeros(1, 3, height, width))
    assert [tuple(f.shape[-2:]) for f in features] == [p.grid for p in config.priors]
