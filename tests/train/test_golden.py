"""Every recipe's targets, losses and gradients against what the original projects computed; nothing is left out.

``tools/train_golden.py`` does the measuring. Matching and loss against what the original Caffe's MultiBoxLoss layer
computed (loss and both gradients).
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.ssd_ref.loss_rule import LossRule
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.priors import Priors
from ssdconv.tools import train_golden as golden
from ssdconv.train.loss import multibox_loss
from ssdconv.train.matching import Anchors, Targets, match
from ssdconv.train.recipes import RECIPES, recipe_of

pytestmark = pytest.mark.shared


@pytest.mark.parametrize("key", golden.MATCHED)
def test_priors_to_the_last_bit(key: str, shared: Path) -> None:
    held = golden.opened(shared / f"golden/train/match_{key}.npz")
    ours, turn, _ = golden.anchors_of(key, held, "own")
    np.testing.assert_array_equal(ours.corners.numpy()[:, turn], held["corners"])
    assert ours.corners.numpy().dtype == held["corners"].dtype


def test_priors_of_keras_and_tensorflow_to_the_last_bit(shared: Path) -> None:
    names = {"jedol": "priors_xyxy_f64", "ssd_keras": "priors_cxcywh", "hikapok": "priors_cycxhw"}
    for key, (recipe, name) in golden.KERAS_TF.items():
        theirs = golden.opened(shared / f"golden/keras_tf/targets/{key}_targets.npz")[names[key]]
        ours = Anchors.of(network(name).priors, (300, 300), recipe_of(recipe).loss.matching.numerics)
        assert ours.centers is not None
        mine = ours.corners.numpy() if key == "jedol" else ours.centers.numpy()
        order = np.arange(len(mine)) if ours.order is None else ours.order.numpy()
        turn = [1, 0, 3, 2] if key == "hikapok" else [0, 1, 2, 3]
        np.testing.assert_array_equal(mine[order][:, turn].astype(theirs.dtype), theirs)


@pytest.mark.parametrize("whose", ["own", "file"])
@pytest.mark.parametrize("key", golden.MATCHED)
def test_matches_of_synthetic_ties(key: str, whose: Any, shared: Path) -> None:
    found = golden.matching(shared / "golden", key, "syn", whose)
    assert (found.images, found.priors, found.compared) == (0, 0, 200)
    assert found.offsets < 2e-4  # boxes of 0.05 pixels in float32 there


@pytest.mark.parametrize("key", golden.MATCHED)
def test_matches_of_voc(key: str, shared: Path) -> None:
    found = golden.matching(shared / "golden", key, "voc", "own", 250)
    assert (found.images, found.priors) == (0, 0)
    assert found.offsets < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["own", "file"])
@pytest.mark.parametrize("key", golden.MATCHED)
def test_matches_of_all_voc_images(key: str, whose: Any, shared: Path) -> None:
    found = golden.matching(shared / "golden", key, "voc", whose)
    assert (found.images, found.priors, found.compared) == (0, 0, 1000)


@pytest.mark.parametrize("key", golden.KERAS_TF)
def test_keras_and_tensorflow_targets_fragile_pairs_too(key: str, shared: Path) -> None:
    found = golden.keras_targets(shared / "golden", key)
    assert (found.images, found.priors, found.neutral) == (0, 0, 0)
    assert found.offsets < 1e-5


@pytest.mark.parametrize("key", golden.LOSSES)
def test_losses_and_gradients(key: str, shared: Path) -> None:
    found = list(golden.losses(shared / "golden", key))
    assert len(found) == 12
    for batch, one in enumerate(found):
        assert one.terms < 1e-6 and one.grad_loc < 1e-5 and one.labels == 0 and one.counts
        if batch < 11:  # in the last one all losses are equal: which are mined is the sort's affair
            assert one.negatives == 0 and one.grad_conf < 1e-5


@pytest.mark.parametrize("key", golden.KERAS_TF)
def test_keras_and_tensorflow_losses_and_gradients(key: str, shared: Path) -> None:
    found = list(golden.keras_losses(shared / "golden", key))
    assert len(found) == 8
    for one in found:
        assert one.terms < 1e-5 and one.labels == 0 and one.negatives == 0 and one.counts
        assert one.grad_loc < 1e-5 and one.grad_conf < 1e-5


def test_numpys_tie_order_does_not_depend_on_the_processor(shared: Path) -> None:
    """ChainerCV's batch of equal losses, by numpy 1's sort."""
    assert list(golden.losses(shared / "golden", "chainercv"))[11].negatives == 0


FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "units": ("gluoncv_ssd_300_vgg16_atrous_voc", {"units": "fractions", "priors": "caffe"}),
    "dtype": ("chainercv_300", {"dtype": "float32", "object_areas": None}),
    "areas": ("chainercv_300", {"object_areas": None}),
    "priors": ("ssd_pytorch_300", {"priors": "caffe"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_another_arithmetic_matches_other_priors(fault: str, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each choice costs is seen on the data: the tests above can fail."""
    key, change = FAULTS[fault]
    recipe = recipe_of(golden.MATCHED[key][0])
    rule = recipe.loss.matching
    wrong = replace(recipe.loss, matching=replace(rule, numerics=replace(rule.numerics, **change)))
    monkeypatch.setitem(RECIPES, recipe.name, replace(recipe, loss=wrong))  # type: ignore[arg-type]
    found = golden.matching(shared / "golden", key, "syn", "own")
    assert found.priors > 0


def test_matches_of_an_image_do_not_depend_on_the_batch(shared: Path) -> None:
    held, starts = golden.keras_objects(shared / "golden")
    for recipe, name in golden.KERAS_TF.values():
        rule = recipe_of(recipe).loss.matching
        anchors = Anchors.of(network(name).priors, (300, 300), rule.numerics)
        together = match(anchors, golden.keras_batch(held, starts, range(6)), rule)
        for image in range(6):
            alone = match(anchors, golden.keras_batch(held, starts, range(image, image + 1)), rule)
            assert torch.equal(alone.object[0], together.object[image])


CASES = ("voc", "difficult_used", "difficult_skipped", "image_without_gt", "coco_classes", "few_priors")


@pytest.mark.shared
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_and_gradients_of_the_original(case: str, dtype: torch.dtype, shared: Path) -> None:
    told = json.loads((shared / "golden/multibox_loss.json").read_text())[case]
    with np.load(shared / "golden/multibox_loss.npz") as file:
        held = {name: torch.from_numpy(file[f"{case}/{name}"]) for name in ("loc", "conf", "priors", "gt")}
        loss, grad_loc, grad_conf = (file[f"{case}/{name}"] for name in ("loss", "grad_loc", "grad_conf"))
    batch, classes = held["loc"].shape[0], told["classes"]
    skip_difficult = re.search(r"use_difficult_gt: false", told["param"]) is not None
    rows = held["gt"].reshape(-1, 8)
    objects = [rows[rows[:, 0] == item] for item in range(batch)]
    keep = [~(o[:, 7] > 0) if skip_difficult else torch.ones(len(o), dtype=torch.bool) for o in objects]
    targets = Targets.pad([o[:, 3:7] for o in objects], [o[:, 1].long() for o in objects], keep)
    boxes, variances = held["priors"].to(dtype).reshape(2, -1, 4)
    loc = held["loc"].to(dtype).reshape(batch, -1, 4).requires_grad_()
    conf = held["conf"].to(dtype).reshape(batch, -1, classes).requires_grad_()
    mine = multibox_loss(loc, conf, Priors.from_corners(boxes, variances), targets, LossRule())
    mine.total.backward()
    assert mine.total.item() == pytest.approx(float(loss), rel=1e-6)
    for grad, wanted in ((loc.grad, grad_loc), (conf.grad, grad_conf)):
        assert grad is not None
        theirs = wanted.reshape(grad.shape)
        np.testing.assert_array_equal(grad.numpy() != 0, theirs != 0)
        np.testing.assert_allclose(grad.numpy(), theirs, rtol=0, atol=4e-6 * np.abs(theirs).max())
