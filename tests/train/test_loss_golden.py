"""Matching and loss against what the original Caffe's MultiBoxLoss layer computed (loss and both gradients)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ssdconv.ssd_ref.loss_rule import LossRule
from ssdconv.ssd_ref.priors import Priors
from ssdconv.train.loss import multibox_loss
from ssdconv.train.matching import Targets

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
