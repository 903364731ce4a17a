"""Projects' names and recognition against their manifests, class counts, wrappers, errors, and the way back."""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv import cli
from ssdconv.converters.backbone_weights import read_backbone
from ssdconv.converters.convert import convert, open_source, reverse
from ssdconv.converters.plan import Request
from ssdconv.converters.pytorch.source import entries, write
from ssdconv.errors import FormatError, MappingError, SsdconvError, UsageError
from ssdconv.ssd_ref.checkpoint import read
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.caffe import vgg
from ssdconv.ssd_ref.networks.chainer import chainer
from ssdconv.ssd_ref.networks.pytorch import KINDS, pytorch
from ssdconv.ssd_ref.networks.registry import network

Make = Callable[..., tuple[SSDConfig, "OrderedDict[str, torch.Tensor]"]]
Save = Callable[..., Path]

MANIFESTS = {
    "ssd_pytorch/ssd300_voc": ("ssd_pytorch_ssd300_voc", "ssd.pytorch"),
    "ssd_pytorch/ssd300_coco81": ("ssd_pytorch_ssd300_coco", "ssd.pytorch"),
    "ssd_pytorch/ssd300_coco201_as_configured": ("ssd_pytorch_ssd300_coco201", "ssd.pytorch"),
    "ssd_pytorch/vgg16_reducedfc": ("ssd_pytorch_ssd300_voc", "vgg16_reducedfc"),
    "simple_ssd/ssd300_voc": ("simple_ssd_ssd300_voc", "simple-ssd"),
    "torchvision/ssd300_vgg16": ("torchvision_ssd300_vgg16", "torchvision"),
}


@pytest.mark.shared
@pytest.mark.parametrize("manifest", MANIFESTS)
def test_names_and_shapes_in_the_order_of_the_manifests(manifest: str, shared: Path) -> None:
    name, style = MANIFESTS[manifest]
    text = (shared / "reference/manifests" / f"{manifest}.json").read_text()
    wanted = [(p["name"], tuple(p["shape"])) for p in json.loads(text)["params"]]
    assert [(e.source, e.source_shape) for e in entries(network(name), style)] == wanted


def saved(folder: Path, state: Any, **options: Any) -> Path:
    torch.save(state, folder / "x.pth", **options)
    return folder / "x.pth"


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("ssd_pytorch_ssd300_voc", 21),
        ("ssd_pytorch_ssd300_coco", 81),
        ("ssd_pytorch_ssd300_coco201", 201),
        ("simple_ssd_ssd300_voc", 21),
        ("torchvision_ssd300_vgg16", 91),
        ("torchvision_ssd300_vgg16", 4),
    ],
)
def test_recognised_and_back_bit_for_bit(tmp_path: Path, make: Make, name: str, classes: int) -> None:
    config, state = make(name, classes)
    order = None if name.startswith(("simple", "torchvision")) else "RGB"
    report = convert(saved(tmp_path, state), tmp_path / "o.pth", channel_order=order)
    assert replace(report.config, class_names=config.class_names) == config
    held = read(tmp_path / "o.pth").state_dict
    for row in entries(config, KINDS[name].style):
        assert torch.equal(held[row.target], state[row.source])
    reverse(tmp_path / "o.pth", tmp_path / "back.pth", "pytorch")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(back) == list(state) and all(torch.equal(back[k], state[k]) for k in state)


@pytest.mark.parametrize("form", ["zip", "legacy", "tar"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.model."])
def test_old_formats_and_data_parallel(tmp_path: Path, make: Make, tar: Any, form: str, prefix: str) -> None:
    config, state = make("simple_ssd_ssd300_voc", 3)
    named = OrderedDict((prefix + k, v) for k, v in state.items())
    if form == "tar":
        (tmp_path / "x.pth").write_bytes(tar(named))
    else:
        torch.save({"state_dict": named}, tmp_path / "x.pth", _use_new_zipfile_serialization=form == "zip")
    report = convert(tmp_path / "x.pth", tmp_path / "o.pth")
    assert (report.config, len(report.rows)) == (config, 71)
    held = read(tmp_path / "o.pth").state_dict
    assert torch.equal(held["heads.conf.2.weight"], state["conf.2.weight"])


def refused(path: Path, kind: type[SsdconvError] = SsdconvError, **wishes: Any) -> str:
    with pytest.raises(kind) as caught:
        open_source(path, "pytorch", Request(**{"channel_order": "RGB", **wishes}))
    return str(caught.value)


def test_a_missing_renamed_extra_or_other_tensor_is_named(pth: Save, narrow: Any) -> None:
    state = narrow[1]
    assert "no tensor 'vgg.24.weight'" in refused(pth(**{"vgg.24.weight": None}))
    text = refused(pth(**{"extras.3.bias": None, "extra.3.bias": state["extras.3.bias"]}))
    assert "'extras.3.bias'" in text and "nearest name: 'extra.3.bias'" in text
    assert "'extras.8.weight'" in refused(pth(**{"extras.8.weight": torch.ones(2, 2)}))
    text = refused(pth(**{"loc.1.weight": torch.ones(24, 64, 3, 3)}))
    assert "(24, 128, 3, 3)" in text and "(24, 64, 3, 3)" in text
    assert "not floating point" in refused(pth(**{"vgg.0.bias": torch.ones(8, dtype=torch.int64)}))


def test_stored_priors_are_left_out_by_rule(tmp_path: Path, pth: Save) -> None:
    report = convert(pth(priors=torch.zeros(8732, 4)), tmp_path / "o.pth", channel_order="RGB")
    assert [d.source for d in report.drops] == ["priors"]


def test_an_unusual_class_count_asks_for_the_network(tmp_path: Path, make: Make) -> None:
    path = saved(tmp_path, make("ssd_pytorch_ssd300_voc", 5)[1])
    assert "VOC's or COCO's prior sizes" in refused(path, UsageError)
    with (opened := open_source(path, None, Request("ssd_pytorch_ssd300_coco", channel_order="RGB"))).table:
        assert opened.plan.config.num_classes == 5
        assert opened.plan.config.priors[0].box_sizes[0] == (21.0, 21.0)


def test_names_of_another_project(tmp_path: Path, pth: Save) -> None:
    assert "torchvision" in refused(pth(), MappingError, network="torchvision_ssd300_vgg16")
    assert "no network" in refused(pth(), UsageError, network="ssd300")
    assert "of no known project" in refused(saved(tmp_path, {"features.0.weight": torch.ones(3)}), MappingError)


def test_a_backbone_alone(tmp_path: Path, make: Make) -> None:
    config, state = make("ssd_pytorch_ssd300_voc")
    vgg_only = OrderedDict((k.removeprefix("vgg."), v) for k, v in state.items() if k.startswith("vgg."))
    path = saved(tmp_path, vgg_only)
    assert "backbone alone" in refused(path, MappingError)
    held = read_backbone(path)
    assert len(held) == 30 and set(held) == {n for n in seeded_tensors(config) if n.startswith("backbone.")}
    np.testing.assert_array_equal(held["backbone.fc7.conv.weight"], state["vgg.33.weight"].numpy())
    del vgg_only["28.bias"]
    with pytest.raises(MappingError, match=r"28\.bias"):
        read_backbone(saved(tmp_path, vgg_only))


def test_our_own_checkpoint_is_no_source(tmp_path: Path, pth: Save, capsys: pytest.CaptureFixture[str]) -> None:
    convert(pth(), tmp_path / "o.pth", channel_order="RGB")
    assert "converted already" in refused(tmp_path / "o.pth", FormatError)
    assert cli.main(["convert", str(tmp_path / "o.pth"), str(tmp_path / "p.pth")]) == 3
    assert "pt2torch" in capsys.readouterr().err


@pytest.mark.parametrize("style", ["ssd.pytorch", "simple-ssd", "torchvision", "vgg16_reducedfc"])
def test_a_caffe_network_in_every_style_and_back(tmp_path: Path, style: str) -> None:
    config = vgg("ssd300_coco" if style == "torchvision" else "ssd300_voc", 21, width=8)
    tensors = seeded_tensors(config, 4)
    write(config, tensors, tmp_path / "x.pth", Request(options={"style": style}))
    state = torch.load(tmp_path / "x.pth", weights_only=True)
    first = next(v for k, v in state.items() if v.ndim == 4)
    turned = style in ("ssd.pytorch", "torchvision")  # their code feeds RGB; the Caffe network reads BGR
    wanted = tensors["backbone.conv1_1.conv.weight"]
    np.testing.assert_array_equal(first.numpy(), wanted[:, ::-1] if turned else wanted)
    for row in entries(config, style):
        if row.target != "backbone.conv1_1.conv.weight":
            np.testing.assert_array_equal(state[row.source].numpy(), tensors[row.target])
    assert len(state) == (30 if style == "vgg16_reducedfc" else 71)


def test_the_channel_order_of_a_written_file_can_be_told(tmp_path: Path) -> None:
    config = vgg("ssd300_voc", width=8)
    tensors = seeded_tensors(config, 4)
    write(config, tensors, tmp_path / "x.pth", Request(channel_order="BGR"))
    state = torch.load(tmp_path / "x.pth", weights_only=True)
    np.testing.assert_array_equal(state["vgg.0.weight"].numpy(), tensors["backbone.conv1_1.conv.weight"])


@pytest.mark.parametrize(
    ("config", "style", "message"),
    [
        (vgg("ssd512_voc"), "ssd.pytorch", "SSD300"),
        (network("mobilenet_ssd_voc"), "ssd.pytorch", "SSD300 on VGG16 only"),
        (vgg("ssd300_voc"), "torchvision", "other prior sizes"),
        (vgg("ssd300_coco"), "simple-ssd", "other prior sizes"),
        (
            dataclasses.replace(vgg("ssd300_voc"), pixels=network("mobilenet_ssd_voc").pixels),
            "ssd.pytorch",
            "other pixels",
        ),
    ],
)
def test_what_a_project_cannot_express_is_refused(tmp_path: Path, config: SSDConfig, style: str, message: str) -> None:
    with pytest.raises(MappingError, match=message):
        write(
            config,
            seeded_tensors(pytorch("ssd_pytorch_ssd300_voc", width=1)),
            tmp_path / "x.pth",
            Request(options={"style": style}),
        )
    assert list(tmp_path.iterdir()) == []


def test_unknown_style_and_ending(tmp_path: Path) -> None:
    config = chainer("ssd300_voc", width=8)
    with pytest.raises(UsageError, match="no style"):
        write(config, {}, tmp_path / "x.pth", Request(options={"style": "mmdet"}))
    with pytest.raises(UsageError, match=r"\.pth"):
        write(config, {}, tmp_path / "x.bin", Request())


def test_verbs(tmp_path: Path, pth: Save, capsys: pytest.CaptureFixture[str]) -> None:
    source, out, back = pth(), tmp_path / "o.pth", tmp_path / "b.pth"
    assert cli.main(["torch2pt", str(source), str(out)]) == 2
    assert "--channel-order RGB" in capsys.readouterr().err
    assert cli.main(["torch2pt", str(source), str(out), "--channel-order", "BGR", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["network"] == "ssd_pytorch_ssd300_voc"
    assert read(out).config.pixels.order == "BGR"
    assert cli.main(["pt2torch", str(out), str(back), "--style", "simple-ssd"]) == 0
    assert next(iter(torch.load(back, weights_only=True))) == "L2Norm.weight"
    assert cli.main(["pt2torch", str(out), str(back), "--style", "mmdet"]) == 2


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("name", ["ssd_pytorch_ssd300_voc", "simple_ssd_ssd300_voc"])
def test_a_network_goes_back_to_its_project_in_its_own_channel_order(
    name: str, order: str, make: Make, tmp_path: Path
) -> None:
    config, state = make(name, order=order)
    torch.save(state, tmp_path / "x.pth")
    convert(tmp_path / "x.pth", tmp_path / "out.pth", network=name, channel_order=order)
    reverse(tmp_path / "out.pth", tmp_path / "y.pth", "pytorch")
    back = torch.load(tmp_path / "y.pth", weights_only=True)
    assert config.pixels.order == order and list(back) == list(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("name", ["priors", "priorbox", "dbox_list", "default_boxes"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_stored_priors_are_left_out_under_any_prefix(name: str, prefix: str, make: Make, tmp_path: Path) -> None:
    _, state = make("simple_ssd_ssd300_voc")
    held = {prefix + key: tensor for key, tensor in state.items()} | {prefix + name: torch.zeros(8732, 4)}
    torch.save(OrderedDict(held), tmp_path / "x.pth")
    report = convert(tmp_path / "x.pth", tmp_path / "out.pth")
    assert [drop.source for drop in report.drops] == [prefix + name]
