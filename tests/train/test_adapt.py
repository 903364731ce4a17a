"""Networks for other classes, and what they keep of a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ssdconv
from ssdconv.errors import MappingError, UsageError
from ssdconv.ssd_ref.checkpoint import load
from ssdconv.ssd_ref.config import Graph, LayerSpec, SSDConfig
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.networks.small import small_ssd
from ssdconv.train.recipes import recipe_of
from ssdconv.train.start import begin, check_trainable, with_classes

SMALL = small_ssd(("a", "b", "c"), 64, 4)


def test_the_same_classes_in_another_order_change_nothing() -> None:
    assert with_classes(SMALL, ("c", "a", "b")) == (SMALL, ())


def test_other_classes_renew_the_class_outputs_only() -> None:
    config, renew = with_classes(SMALL, ("c", "d"))
    assert config.class_names == ("background", "c", "d")
    assert replace(config, num_classes=4, class_names=SMALL.class_names) == SMALL
    torch.manual_seed(0)
    before = {name: torch.randn_like(t) for name, t in SSD(SMALL).state_dict().items()}
    model = SSD(config)
    start = begin(model, recipe_of("gluon"), 0, before, renew, "old.pth")
    state = model.state_dict()
    for name, tensor in state.items():
        new = name.startswith("heads.conf.")
        assert (name in start.renewed) == (name in start.drawn) == new, name
        if not new:
            assert torch.equal(tensor, before[name]), name
    assert "old.pth: " in start.text
    assert f"{len(state) - 8} tensors kept, 8 renewed" in start.text


def test_equal_counts_of_other_classes_are_renewed_too() -> None:
    config, renew = with_classes(SMALL, ("x", "y", "z"))
    assert config.num_classes == SMALL.num_classes
    assert renew == ("heads.conf.",)


def test_a_tensor_that_does_not_fit_is_named() -> None:
    with pytest.raises(MappingError, match=r"backbone\.conv1\.conv\.weight"):
        begin(SSD(SMALL), recipe_of("gluon"), 0, {"backbone.conv1.conv.weight": torch.zeros(3)})


@pytest.mark.shared
def test_a_converted_layer_graph_gets_other_classes(shared: Path, tmp_path: Path) -> None:
    """OpenCV's face detector: its own graph with Permute, Flatten and Concat behind its class outputs."""
    folder = shared / "weights/res10_face_ssd"
    model_file = folder / "res10_300x300_ssd_iter_140000.caffemodel"
    ssdconv.convert(model_file, tmp_path / "faces.pth", prototxt=folder / "deploy.prototxt")
    faces = load(tmp_path / "faces.pth")
    config, renew = with_classes(faces.config, ("cat", "dog", "hat"))
    model = SSD(config)
    start = begin(model, recipe_of("caffe"), 0, faces.state_dict(), renew, "faces.pth")
    assert 0 < len(start.renewed) <= 12
    assert all("conf" in name for name in start.renewed)
    with torch.no_grad():
        loc, conf = model(torch.zeros(1, 3, 300, 300))
        old_loc, old_conf = faces(torch.zeros(1, 3, 300, 300))
    assert conf.shape == (1, old_conf.shape[1], 4)
    assert torch.equal(loc, old_loc)
    same, nothing = with_classes(config, ("hat", "dog", "cat"))
    assert same == config
    assert nothing == ()


def test_a_graph_whose_class_outputs_cannot_be_found() -> None:
    layers = (LayerSpec("act", "Sigmoid", ("data",), ("conf",)),)
    config = replace(SMALL, staged=None, graph=Graph("data", layers, "loc", "conf"))
    with pytest.raises(UsageError, match="Sigmoid"):
        with_classes(config, ("x",))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation": "sigmoid"}, "activation 'sigmoid'"),
        ({"background": None}, "background None"),
        ({"share_location": False}, "share_location False"),
        ({"code": "corner"}, "code 'corner'"),
    ],
)
def test_networks_with_another_loss_are_refused(change: dict[str, object], said: str) -> None:
    config = replace(SMALL, detect=replace(SMALL.detect, **change))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="loss of SSD") as caught:
        check_trainable(config)
    assert said in str(caught.value)
    with pytest.raises(UsageError, match="priors"):
        check_trainable(replace(SMALL, priors=()))


@pytest.mark.parametrize("classes", [(), ("a", "a")])
def test_classes_need_names(classes: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="classes"):
        with_classes(SMALL, classes)


def test_a_named_network_of_another_class_count() -> None:
    config: SSDConfig = network("ssd300_voc")
    changed, renew = with_classes(config, ("x", "y"))
    check_trainable(changed)
    assert renew
    assert changed.num_classes == 3
    assert changed.num_priors == 8732
