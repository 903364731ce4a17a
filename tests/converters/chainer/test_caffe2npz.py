"""caffe2npz: every number of a Caffe file arrives in the .npz, and comes back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ssdconv import cli
from ssdconv.converters.caffe.source import write as write_caffe
from ssdconv.converters.chainer.caffe2npz import caffe2npz
from ssdconv.converters.convert import open_source
from ssdconv.converters.plan import Request
from ssdconv.converters.same_network import first_layer_as
from ssdconv.errors import MappingError
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.caffe import vgg
from ssdconv.ssd_ref.networks.registry import network


@pytest.mark.parametrize(("name", "classes"), [("ssd300_voc", 21), ("ssd512_voc", 21), ("ssd300_coco", 7)])
def test_caffe_to_npz_and_back_bit_for_bit(tmp_path: Path, name: str, classes: int) -> None:
    config = vgg(name, classes, width=8)
    tensors = seeded_tensors(config, 1)
    write_caffe(config, tensors, tmp_path / "x.caffemodel", Request())
    done = caffe2npz(tmp_path / "x.caffemodel", tmp_path / "y.npz", tmp_path / "x.prototxt")
    assert done.tensors == len(tensors)
    with (opened := open_source(tmp_path / "y.npz")).table as table:
        back = {e.target: np.array(a) for e, a in opened.plan.mapping.forward(table)}
    back = first_layer_as("BGR", opened.plan.config, back)
    for key, array in tensors.items():
        np.testing.assert_array_equal(back[key], array, strict=True)


def test_the_layouts_written_out(tmp_path: Path) -> None:
    config = vgg("ssd300_voc", width=8)
    tensors = seeded_tensors(config, 1)
    write_caffe(config, tensors, tmp_path / "x.caffemodel", Request())
    caffe2npz(tmp_path / "x.caffemodel", tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz", allow_pickle=False) as npz:
        first = tensors["backbone.conv1_1.conv.weight"]
        np.testing.assert_array_equal(npz["extractor/conv1_1/W"], first[:, [2, 1, 0]])  # BGR -> RGB
        loc = tensors["heads.loc.1.weight"].reshape(6, 4, 128, 3, 3)
        np.testing.assert_array_equal(npz["multibox/loc/1/W"].reshape(6, 4, 128, 3, 3), loc[:, [1, 0, 3, 2]])
        np.testing.assert_array_equal(npz["extractor/conv11_2/b"], tensors["extras.conv9_2.conv.bias"])
        np.testing.assert_array_equal(npz["multibox/conf/5/W"], tensors["heads.conf.5.weight"])


@pytest.mark.parametrize(
    ("name", "told"), [("ssd300_voc", ""), ("ssd512_voc", "whole pixels"), ("ssd300_coco", "VOC's prior")]
)
def test_what_chainercv_will_do_otherwise_is_told(tmp_path: Path, name: str, told: str) -> None:
    config = vgg(name, width=8)
    write_caffe(config, seeded_tensors(config, 1), tmp_path / "x.caffemodel", Request())
    warnings = caffe2npz(tmp_path / "x.caffemodel", tmp_path / "y.npz", tmp_path / "x.prototxt").warnings
    assert any(told in w for w in warnings) if told else not any("prior" in w or "boxes" in w for w in warnings)


def test_a_network_that_chainercv_has_not(tmp_path: Path) -> None:
    config = network("mobilenet_ssd_voc")
    write_caffe(config, seeded_tensors(config), tmp_path / "m.caffemodel", Request())
    with pytest.raises(MappingError, match="ChainerCV"):
        caffe2npz(tmp_path / "m.caffemodel", tmp_path / "m.npz")
    assert not (tmp_path / "m.npz").exists()


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = vgg("ssd300_voc", width=8)
    write_caffe(config, seeded_tensors(config, 1), tmp_path / "x.caffemodel", Request())
    assert cli.main(["caffe2npz", str(tmp_path / "x.caffemodel"), str(tmp_path / "y.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tensors"] == 71
    assert cli.main(["caffe2npz", str(tmp_path / "none"), str(tmp_path / "y.npz")]) == 4
