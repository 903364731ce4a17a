"""GluonCV's networks as configs: sizes typed from its presets, grids from the layers themselves, JSON round trip."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ssdconv.ssd_ref.config import NormSpec, SSDConfig, Staged
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.gluon import DESIGNS, cells, gluon
from ssdconv.ssd_ref.networks.registry import network

PRIORS = {
    "ssd_300_vgg16_atrous_voc": 8732,
    "ssd_512_vgg16_atrous_coco": 24564,
    "ssd_512_resnet50_v1_voc": 6132,
    "ssd_300_mobilenet0.25_voc": 2268,
    "ssd_300_mobilenet1.0_lite_coco": 1917,
    "ssd_512_resnet152_v2_voc": 24564,
}


@pytest.mark.parametrize("name", sorted(DESIGNS))
def test_config(name: str) -> None:
    config = network(name, "gluon")
    assert SSDConfig.from_json(config.to_json()) == config
    assert config.num_classes == (81 if name.endswith("coco") else 21) == len(config.class_names)
    assert config.num_priors == PRIORS.get(name, config.num_priors)
    with torch.device("meta"):
        model = SSD(config).eval()
        features = model.features(torch.zeros(2, 3, *config.pixels.size))
    assert [tuple(f.shape[2:]) for f in features] == [m.grid for m in config.priors]
    rule = config.detect
    assert (rule.top_k, rule.top_k_scope, rule.keep_top_k, rule.nms_threshold) == (400, "image", 100, 0.45)
    assert (config.pixels.order, config.pixels.unit, config.pixels.resize) == ("RGB", 255.0, "mxnet_9")


def test_class_count() -> None:
    config = gluon("ssd_512_resnet18_v1_voc", 4)
    assert (config.num_classes, config.class_names) == (4, ())


def test_sizes_of_vgg() -> None:
    """30 and sqrt(30 * 60) on the first VOC map at 300, 51.2 and sqrt(51.2 * 76.8) at 512; ratios 2, 1/2 (and 3, 1/3)."""
    voc, coco, large = (
        gluon(f"ssd_{n}").priors for n in ("300_vgg16_atrous_voc", "300_vgg16_atrous_coco", "512_vgg16_atrous_voc")
    )
    assert voc[0].box_sizes[0] == (30, 30) and voc[0].box_sizes[1] == pytest.approx((42.42640687119285,) * 2, abs=0)
    assert voc[0].box_sizes[2] == pytest.approx((42.42640687119285, 21.213203435596427), abs=1e-14)
    assert len(voc[0].box_sizes) == 4 and len(voc[1].box_sizes) == 6
    assert coco[0].box_sizes[0] == (21, 21)
    assert large[0].box_sizes[0] == (51.2, 51.2)
    assert [len(m.box_sizes) for m in large] == [4, 6, 6, 6, 6, 4, 4]


def test_sizes_of_resnet50_differ_between_voc_and_coco() -> None:
    voc, coco = gluon("ssd_512_resnet50_v1_voc"), gluon("ssd_512_resnet50_v1_coco")
    assert [m.box_sizes[0][0] for m in voc.priors] == [51.2, 102.4, 189.4, 276.4, 363.52, 450.6]
    assert [m.box_sizes[0][0] for m in coco.priors] == [51.2, 133.12, 215.04, 296.96, 378.88, 460.8]


def test_lite_cells() -> None:
    """Half the size first, the mean size last, and not on the first map."""
    first, second = (gluon("ssd_300_mobilenet1.0_lite_coco").priors[i].box_sizes for i in (0, 1))
    assert first[0] == (30, 30) and len(first) == 3
    assert second[0] == (52.5, 52.5) and second[-1] == ((105 * 150) ** 0.5,) * 2 and len(second) == 6
    assert cells(60, 105, (2, 0.5), lite=True, first=True) == first


def test_extra_layers() -> None:
    """eps 1e-3 and gamma fixed in the expander; biases in ResNet34's extra layers, the last without padding."""
    for name, design in DESIGNS.items():
        staged = gluon(name).layers
        assert isinstance(staged, Staged)
        for stage in staged.extras.stages:
            for spec in stage:
                fixed = design.filters and design.batch_norm
                assert spec.norm == (NormSpec(1e-3, fix_gamma=True) if fixed else None), name
                assert spec.bias == (not fixed)
    stages = gluon("ssd_300_resnet34_v1b_voc").layers.extras.stages  # type: ignore[union-attr]
    assert [s[1].padding for s in stages] == [1, 1, 1, 0]
    lite = gluon("ssd_300_mobilenet1.0_lite_coco").layers
    assert lite is not None and [s[0].out_channels for s in lite.extras.stages] == [256, 128, 128, 64]
    assert lite.heads.kernel == 1


def test_l2norm_only_in_vgg() -> None:
    for name in DESIGNS:
        staged = gluon(name).layers
        assert isinstance(staged, Staged)
        assert [dataclasses.astuple(s) for s in staged.heads.l2norm.values()] == (
            [(1e-5, "inside")] if "vgg" in name else []
        )
