"""ChainerCV's names, layouts and recognition, against the manifests that ChainerCV itself printed, and the way back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdconv.converters.chainer.npz import read_npz
from ssdconv.converters.chainer.source import entries, plan, write
from ssdconv.converters.convert import convert, open_source, reverse
from ssdconv.converters.plan import Request
from ssdconv.errors import MappingError, SsdconvError, UsageError
from ssdconv.ssd_ref.checkpoint import read
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.caffe import vgg
from ssdconv.ssd_ref.networks.chainer import chainer
from ssdconv.ssd_ref.networks.gluon import gluon
from ssdconv.ssd_ref.networks.registry import network

Make = Callable[..., Path]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["ssd300_voc", "ssd512_voc"])
def test_names_and_shapes_of_chainercv(name: str, shared: Path) -> None:
    manifest = json.loads((shared / "reference/manifests/chainercv" / f"{name}.json").read_text())
    wanted = {p["name"]: tuple(p["shape"]) for p in manifest["params"]}
    assert {e.source: e.source_shape for e in entries(network(f"chainer/{name}"))} == wanted


def test_the_box_coordinates_change_places() -> None:
    # loc head 0 has 4 anchors; ChainerCV's (dy, dx, dh, dw) of anchor 1 are channels 4, 5, 6, 7
    (entry,) = [e for e in entries(chainer("ssd300_voc", width=8)) if e.source == "multibox/loc/0/b"]
    assert entry.ops[0].apply(np.arange(16)).tolist() == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14]


def test_extra_layers_count_two_higher() -> None:
    names = {e.target: e.source for e in entries(chainer("ssd512_voc"))}
    assert names["backbone.fc6.conv.weight"] == "extractor/conv6/W"
    assert names["extras.conv6_1.conv.bias"] == "extractor/conv8_1/b"
    assert names["extras.conv10_2.conv.weight"] == "extractor/conv12_2/W"
    assert names["heads.l2norm.0.weight"] == "extractor/norm4/scale"


@pytest.mark.parametrize(("name", "classes"), [("ssd300_voc", 21), ("ssd300_voc", 2), ("ssd512_voc", 81)])
def test_there_and_back_bit_for_bit(tmp_path: Path, name: str, classes: int) -> None:
    config = chainer(name, classes, width=8)
    tensors = seeded_tensors(config, 5)
    write(config, tensors, tmp_path / "a.npz", Request())
    report = convert(tmp_path / "a.npz", tmp_path / "b.pth")
    assert replace(report.config, class_names=config.class_names) == config
    (scales,) = (claim for claim in report.evidence if claim.key == "priors.scales")
    assert (scales.basis, scales.value, scales.others) == ("assumed", "voc", ("coco",))
    held = read(tmp_path / "b.pth").state_dict
    assert held.keys() == tensors.keys()
    for key, array in tensors.items():
        np.testing.assert_array_equal(held[key].numpy(), array, strict=True)
    reverse(tmp_path / "b.pth", tmp_path / "c.npz", "chainer")
    assert (tmp_path / "c.npz").read_bytes() == (tmp_path / "a.npz").read_bytes()


def test_the_order_of_the_keys_does_not_matter(tmp_path: Path, npz: Make, arrays: dict[str, Any]) -> None:
    names = sorted(arrays, key=lambda n: n[::-1])
    np.savez(tmp_path / "other.npz", **{n: arrays[n] for n in names})
    a, b = (convert(p, tmp_path / "o.pth").rows for p in (npz(), tmp_path / "other.npz"))
    assert [(r.target, r.sha256) for r in a] == [(r.target, r.sha256) for r in b]


def test_a_snapshot_converts_to_the_same(tmp_path: Path, npz: Make, arrays: dict[str, Any]) -> None:
    given = {f"updater/model:main/model/{name}": array for name, array in arrays.items()}
    np.savez(
        tmp_path / "snapshot.npz", **given, **{"updater/iteration": np.array(3), "trainer/x": np.array(None, object)}
    )
    report = convert(tmp_path / "snapshot.npz", tmp_path / "o.pth")
    assert [r.sha256 for r in report.rows] == [r.sha256 for r in convert(npz(), tmp_path / "p.pth").rows]
    assert {d.source for d in report.drops} == {"updater/iteration", "trainer/x"}


def test_the_preset_is_a_wish(tmp_path: Path, npz: Make) -> None:
    assert convert(npz(), tmp_path / "a.pth").config.detect.score_threshold == 0.01
    report = convert(npz(), tmp_path / "b.pth", options={"preset": "visualize"})
    assert report.config.detect.score_threshold == 0.6 and report.config.detect.score_inclusive
    with pytest.raises(UsageError, match="no preset"):
        convert(npz(), tmp_path / "c.pth", options={"preset": "publish"})


def refused(path: Path, **wishes: Any) -> str:
    with pytest.raises(SsdconvError) as caught:
        open_source(path, "chainer", Request(**wishes))
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["extractor/conv5_2/W", "multibox/conf/3/b", "extractor/norm4/scale", "multibox/loc/0/W"]
)
def test_a_missing_tensor_is_named(npz: Make, name: str) -> None:
    text = refused(npz(**{name: None}))
    assert f"no tensor {name!r}" in text


def test_a_renamed_tensor_is_named_with_the_nearest(npz: Make, arrays: dict[str, Any]) -> None:
    wrong = {"extractor/conv5_2/W": None, "extractor/conv5_2/w": arrays["extractor/conv5_2/W"]}
    text = refused(npz(**wrong))
    assert "'extractor/conv5_2/W'" in text and "nearest name: 'extractor/conv5_2/w'" in text


def test_a_tensor_too_many_is_named(npz: Make) -> None:
    assert "'extractor/conv9_3/W'" in refused(npz(**{"extractor/conv9_3/W": np.zeros((2, 2), "f4")}))


def test_another_shape_and_dtype_are_named(npz: Make) -> None:
    text = refused(npz(**{"extractor/conv6/W": np.zeros((128, 64, 1, 1), "f4")}))
    assert "(128, 64, 3, 3)" in text and "(128, 64, 1, 1)" in text
    assert "not floating point" in refused(npz(**{"extractor/conv6/b": np.zeros(128, "i4")}))


def test_a_head_of_another_class_count_is_named(npz: Make) -> None:
    assert "multibox/conf/2/b" in refused(npz(**{"multibox/conf/2/b": np.zeros(6 * 20, "f4")}))


def test_what_is_no_ssd(tmp_path: Path) -> None:
    np.savez(tmp_path / "vgg.npz", **{"conv1_1/W": np.zeros((64, 3, 3, 3), "f4")})
    assert "no SSD of ChainerCV" in refused(tmp_path / "vgg.npz")
    assert "no network 'ssd500'" in refused(tmp_path / "vgg.npz", network="ssd500")


@pytest.mark.parametrize(("name", "side"), [("extractor/conv1_1/b", 1 << 40), ("multibox/conf/0/b", 1 << 40)])
def test_absurd_sides_build_no_network(npz: Make, name: str, side: int) -> None:
    with read_npz(npz()) as table:
        table._tensors[name] = dataclasses.replace(table[name], shape=(side,))
        with pytest.raises(MappingError, match="no SSD has"):
            plan(table, Request())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (gluon("ssd_512_resnet50_v1_voc"), "VGG16 SSDs"),
        (gluon("ssd_300_vgg16_atrous_voc"), "input scale"),
        (network("mobilenet_ssd_voc"), "VGG16 SSDs"),
        (vgg("ssd300_coco"), "SSD300 has other prior sizes"),
        (dataclasses.replace(vgg("ssd300_voc"), pixels=gluon("ssd_300_vgg16_atrous_voc").pixels), "other pixels"),
    ],
    ids=["resnet", "input_scale", "mobilenet", "coco", "pixels"],
)
def test_what_chainercv_cannot_express_is_refused(tmp_path: Path, config: SSDConfig, message: str) -> None:
    with pytest.raises(MappingError, match=message):
        write(config, {}, tmp_path / "x.npz", Request())
    assert list(tmp_path.iterdir()) == []


def test_foreign_priors_on_request(tmp_path: Path) -> None:
    config = vgg("ssd300_coco", width=8)
    write(config, seeded_tensors(config), tmp_path / "x.npz", Request(options={"foreign_priors": True}))
    with read_npz(tmp_path / "x.npz") as table:
        assert len(table) == 71


def test_another_ending_is_refused(tmp_path: Path, narrow: tuple[SSDConfig, dict[str, Any]]) -> None:
    with pytest.raises(UsageError, match=r"\.npz"):
        write(*narrow, tmp_path / "x.h5", Request())
