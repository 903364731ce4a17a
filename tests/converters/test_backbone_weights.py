"""A backbone to start from, out of the files that people have."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import ssdconv
from ssdconv.converters.backbone_weights import backbone_tensors
from ssdconv.errors import MappingError, UsageError
from ssdconv.ssd_ref.checkpoint import load, save, save_backbone
from ssdconv.ssd_ref.config import Staged
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.pytorch import pytorch
from ssdconv.ssd_ref.networks.small import small_ssd

CONFIG = pytorch("ssd_pytorch_ssd300_voc", width=8)


@pytest.fixture
def narrow(shared: Path, tmp_path: Path) -> tuple[Path, SSD]:
    """SSD300-VGG16 with an eighth of the channels as a .caffemodel, and our network with its backbone (by way of the layer graph)."""
    source = shared / "golden/vgg_ssd300_narrow.caffemodel"
    ssdconv.convert(source, tmp_path / "narrow.pth", prototxt=source.with_suffix(".prototxt"))
    model = SSD(CONFIG)
    graph = load(tmp_path / "narrow.pth").state_dict()
    for name, parameter in model.backbone.named_parameters():
        layer, _, own = name.split(".")
        parameter.data.copy_(graph[f"layers.{layer}.{own}"])
    return source, model


@pytest.mark.shared
def test_every_form_gives_the_same_backbone(narrow: tuple[Path, SSD], tmp_path: Path) -> None:
    source, converted = narrow
    assert isinstance(CONFIG.layers, Staged)
    expected = {f"backbone.{n}": t for n, t in converted.backbone.state_dict().items()}
    own = save_backbone(tmp_path / "own.pth", CONFIG.layers.backbone, converted.backbone.state_dict())
    detector = save(tmp_path / "detector.pth", CONFIG, converted.state_dict())
    plain = tmp_path / "vgg16_reducedfc.pth"  # ssd.pytorch counts the layers of its list
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 31, 33)
    names = sorted({n.split(".")[1] for n in expected}, key=lambda n: (n.startswith("fc"), n))
    pairs = [(f"{p}.{k}", expected[f"backbone.{n}.conv.{k}"]) for p, n in zip(places, names, strict=True) for k in ("weight", "bias")]  # fmt: skip
    torch.save(dict(pairs), plain)
    for path in (source, detector, own, plain):
        found = backbone_tensors(path, SSD(CONFIG))
        assert found.keys() == expected.keys(), path
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), path


@pytest.mark.shared
def test_another_backbone_is_refused_by_name(narrow: tuple[Path, SSD], tmp_path: Path) -> None:
    source, _ = narrow
    with pytest.raises(MappingError, match=r"conv1_1\.conv\.weight"):
        backbone_tensors(source, SSD(pytorch("ssd_pytorch_ssd300_voc", width=4)))
    with pytest.raises(MappingError, match=r"backbone\.conv1\."):
        backbone_tensors(source, SSD(small_ssd(("a",), 64, 4)))
    shutil.copy(source, tmp_path / "x.params")
    with pytest.raises(UsageError, match="converted first"):
        backbone_tensors(tmp_path / "x.params", SSD(small_ssd(("a",), 64, 4)))
