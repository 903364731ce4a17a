"""MultiBoxLoss layers read as rules, and computed as the original Caffe computed them (63 recorded layers)."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssdconv.converters.caffe.prototxt import parse_prototxt
from ssdconv.converters.caffe.source import loss_of
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.loss_rule import LossRule, MatchRule, MiningRule
from ssdconv.ssd_ref.priors import Priors
from ssdconv.train.loss import hard_examples, multibox_loss
from ssdconv.train.matching import Targets

TIED = {"042", "045", "071", "133", "155", "164"}
"""Recorded layers where Caffe's unstable sort took another one of equally hard negatives."""


def rule_of(text: str, more: str = "") -> LossRule:
    net = parse_prototxt(
        f'layer {{ name: "l" type: "MultiBoxLoss" {more} multibox_loss_param {{ {text} }} }}'.encode(), "x"
    )
    found = loss_of(net)
    assert found is not None
    return found


class Case:
    """One recorded layer: our loss and gradients beside Caffe's."""

    def __init__(self, path: Path) -> None:
        told = json.loads(path.read_text())
        with np.load(path.with_suffix(".npz")) as file:
            held = {name: file[name] for name in file.files}
        self.rule = rule_of(told["proto"], f"loss_param {{ normalization: {told['norm']} }}")
        batch, classes = told["B"], told["C"]
        boxes, variances = torch.from_numpy(held["p"]).reshape(2, -1, 4)
        rows = torch.from_numpy(held["gt"]).reshape(-1, 8)
        objects = [rows[rows[:, 0] == image] for image in range(batch)]
        keep = [torch.ones(len(o), dtype=torch.bool) if self.rule.use_difficult else o[:, 7] == 0 for o in objects]
        targets = Targets.pad([o[:, 3:7] for o in objects], [o[:, 1].long() for o in objects], keep)
        loc = torch.from_numpy(held["loc"]).reshape(batch, -1, 4).requires_grad_()
        self.conf = torch.from_numpy(held["conf"]).reshape(batch, -1, classes).requires_grad_()
        out = multibox_loss(loc, self.conf, Priors.from_corners(boxes, variances), targets, self.rule)
        out.total.backward()
        assert loc.grad is not None and self.conf.grad is not None
        self.loss, self.wanted = out.total.item(), float(held["loss"])
        self.loc = loc.grad.numpy(), held["gl"].reshape(loc.shape)
        self.grad = self.conf.grad.numpy(), held["gc"].reshape(self.conf.shape)

    def rows(self) -> tuple[Any, Any]:
        """(N, P) bool: priors that only we, and that only Caffe gave a class gradient."""
        mine, theirs = ((g != 0).any(-1) for g in self.grad)
        return mine & ~theirs, theirs & ~mine


def error(pair: tuple[Any, Any]) -> float:
    return float(np.abs(pair[0] - pair[1]).max() / max(np.abs(pair[1]).max(), 1e-30))


@pytest.mark.shared
def test_all_recorded_layers(shared: Path) -> None:
    files = sorted((shared / "golden/multibox_random").glob("*.json"))
    assert len(files) == 63
    tied = set()
    for path in files:
        case = Case(path)
        assert case.loss == pytest.approx(case.wanted, rel=1e-6), path.stem
        assert error(case.loc) < 1e-5, path.stem
        more, less = case.rows()
        if not (more | less).any():
            assert error(case.grad) < 4e-6, path.stem
            continue
        tied.add(path.stem)
        assert case.rule.mining.kind == "negatives" and case.rule.conf == "softmax"
        background = torch.zeros(case.conf.shape[:2], dtype=torch.int64)
        hardness = F.cross_entropy(case.conf.detach().double().transpose(1, 2), background, reduction="none").numpy()
        for image in range(
            len(more)
        ):  # the swapped ones are as hard as each other, to float32's rounding of the logits
            mine, theirs = np.sort(hardness[image][more[image]]), np.sort(hardness[image][less[image]])
            np.testing.assert_allclose(mine, theirs, rtol=3e-7, atol=0)
            assert len(set(np.round(np.r_[mine, theirs], 5))) <= 1, "at one place of the order: the last one taken"
        same = ~(more | less)
        assert error((case.grad[0][same], case.grad[1][same])) < 4e-6
    assert tied == TIED


def test_defaults_are_caffes() -> None:
    rule = rule_of("num_classes: 21")
    assert rule == LossRule(largest=-log(2.0**-126), code="corner")
    assert rule_of("num_classes: 21 code_type: CENTER_SIZE") == LossRule(largest=-log(2.0**-126))


FIELDS: list[tuple[str, str, Any]] = [
    ("overlap_threshold: 0.35", "matching.threshold", 0.35),
    ("match_type: BIPARTITE overlap_threshold: 0.35", "matching.threshold", None),
    ("use_prior_for_matching: false", "matching.boxes", "predicted"),
    ("ignore_cross_boundary_bbox: true", "matching.inside_only", True),
    ("neg_pos_ratio: 2.5", "mining.ratio", 2.5),
    ("neg_overlap: 0.3", "mining.overlap", 0.3),
    ("mining_type: HARD_EXAMPLE sample_size: 32", "mining.samples", 32),
    ("mining_type: HARD_EXAMPLE", "mining.kind", "examples"),
    ("mining_type: NONE", "mining.kind", "none"),
    ("do_neg_mining: false", "mining.kind", "none"),
    ("do_neg_mining: true", "mining.kind", "negatives"),
    ("nms_param { nms_threshold: 0.7 top_k: 200 }", "mining.nms", 0.7),
    ("nms_param { nms_threshold: 0.7 top_k: 200 }", "mining.nms_top_k", 200),
    ("nms_param { }", "mining.nms", 0.3),
    ("use_prior_for_nms: true", "mining.nms_boxes", "priors"),
    ("loc_loss_type: L2", "loc", "l2"),
    ("conf_loss_type: LOGISTIC", "conf", "logistic"),
    ("loc_weight: 0.5", "loc_weight", 0.5),
    ("background_label_id: 2", "background", 2),
    ("map_object_to_agnostic: true", "agnostic", True),
    ("code_type: CORNER_SIZE", "code", "corner_size"),
    ("encode_variance_in_target: true", "variance_in_target", True),
    ("bp_inside: true", "inside_only", True),
    ("share_location: false mining_type: NONE", "share_location", False),
    ("use_difficult_gt: false", "use_difficult", False),
]


@pytest.mark.parametrize(("text", "where", "value"), FIELDS)
def test_every_field(text: str, where: str, value: Any) -> None:
    rule: Any = rule_of(f"num_classes: 21 {text}")
    for name in where.split("."):
        rule = getattr(rule, name)
    assert rule == value


@pytest.mark.parametrize(
    ("text", "normalizer"),
    [
        ("normalization: FULL", "priors"),
        ("normalization: BATCH_SIZE", "images"),
        ("normalization: NONE", "one"),
        ("normalize: false", "images"),
        ("normalize: true", "positives"),
        ("normalization: FULL normalize: false", "priors"),
    ],
)
def test_normalisation(text: str, normalizer: str) -> None:
    assert rule_of("num_classes: 2", f"loss_param {{ {text} }}").normalizer == normalizer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "num_classes is missing"),
        ("num_classes: 2 do_neg_mining: false mining_type: MAX_NEGATIVE", "contradict"),
        ("num_classes: 2 share_location: false", "mined only where boxes are shared"),
        ("num_classes: 2 mining_type: HARD_EXAMPLE sample_size: 0", "sample_size"),
        ("num_classes: 2 background_label_id: 2", "no class"),
    ],
)
def test_what_caffe_refuses(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        rule_of(text)


def test_the_layer_of_the_train_phase_counts() -> None:
    text = "".join(
        f'layer {{ name: "{phase}" type: "MultiBoxLoss" include {{ phase: {phase} }} '
        f"multibox_loss_param {{ num_classes: 2 neg_pos_ratio: {ratio} }} }}"
        for phase, ratio in (("TRAIN", 5), ("TEST", 7))
    )
    found = loss_of(parse_prototxt(text.encode(), "x"))
    assert found is not None and found.mining.ratio == 5
    assert loss_of(parse_prototxt(b'layer { name: "r" type: "ReLU" }', "x")) is None
    with pytest.raises(FormatError, match="several MultiBoxLoss layers"):
        loss_of(parse_prototxt(text.replace("TEST", "TRAIN").encode(), "x"))


# Rules that no recorded layer has, against a literal reading of src/caffe/layers/multibox_loss_layer.cpp.


def small(seed: int = 0, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor, Priors, Targets]:
    draw = torch.Generator().manual_seed(seed)
    low = torch.rand(30, 2, generator=draw) * 0.6
    boxes = torch.cat([low, low + 0.1 + torch.rand(30, 2, generator=draw) * 0.3], 1)
    priors = Priors.from_corners(boxes, torch.tensor([0.1, 0.1, 0.2, 0.2]).expand(30, 4))
    objects = [boxes[[3, 8]] + 0.01, boxes[[20]] - 0.01, torch.zeros(0, 4)]
    labels = [torch.tensor([1, 3]), torch.tensor([2]), torch.zeros(0, dtype=torch.int64)]
    loc = torch.randn(3, 30, 4, generator=draw)
    return loc, torch.randn(3, 30, classes, generator=draw) * 3, priors, Targets.pad(objects, labels)


def test_without_mining_all_priors_count() -> None:
    loc, conf, priors, targets = small()
    rule = LossRule(mining=MiningRule(kind="none"))
    out = multibox_loss(loc, conf, priors, targets, rule)
    labels = torch.zeros(3, 30, dtype=torch.int64)
    plain = multibox_loss(loc, conf, priors, targets)
    assert out.loc == plain.loc and out.positives + out.negatives == 90
    from ssdconv.train.matching import Anchors, match

    found = match(Anchors.given(priors.corners), targets, MatchRule())
    labels[found.positive] = targets.labels.gather(1, found.object.clamp_min(0))[found.positive]
    wanted = F.cross_entropy(conf.flatten(0, 1), labels.flatten(), reduction="sum") / found.positive.sum()
    assert out.conf.item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize("ratio", [0.5, 1.7, 2.5, 3.0])
def test_negatives_are_whole_numbers_cut_off(ratio: float) -> None:
    loc, conf, priors, targets = small()
    one = replace(targets, valid=targets.valid & torch.tensor([[True], [False], [False]]))
    out = multibox_loss(loc, conf, priors, one, LossRule(mining=MiningRule(ratio=ratio)))
    assert out.positives > 1 and out.negatives == int(int(out.positives) * ratio)
    odd = [r for r in (0.5, 1.7, 2.5) if (int(out.positives) * r) % 1]
    assert odd, "a ratio that leaves a rest"


@pytest.mark.parametrize(("name", "count"), [("priors", 90), ("images", 3), ("one", 1)])
def test_normalizers(name: Any, count: int) -> None:
    loc, conf, priors, targets = small()
    plain = multibox_loss(loc, conf, priors, targets)
    out = multibox_loss(loc, conf, priors, targets, LossRule(normalizer=name))
    assert out.total.item() == pytest.approx((plain.total * plain.positives / count).item(), rel=1e-6)


def test_boxes_of_every_class_get_only_their_objects() -> None:
    loc, conf, priors, targets = small()
    spread = torch.randn(3, 30, 4, 4)
    labels = {0: (1, 3), 1: (2,)}
    own = LossRule(mining=MiningRule(kind="none"))
    for image, found in labels.items():
        for label in found:
            spread[image, :, label] = loc[image]
    plain = multibox_loss(loc, conf, priors, targets, own)
    spread.requires_grad_()
    out = multibox_loss(spread, conf, priors, targets, replace(own, share_location=False))
    assert out.loc.item() == pytest.approx(plain.loc.item(), rel=1e-6) and out.conf == plain.conf
    out.total.backward()
    assert spread.grad is not None
    used = spread.grad.abs().sum((1, 3)) > 0
    assert [torch.nonzero(row)[:, 0].tolist() for row in used] == [[1, 3], [2], []]


def test_variances_in_the_target_are_not_in_the_gradient() -> None:
    loc, conf, priors, targets = small()
    one, two = loc.clone().requires_grad_(), (loc * priors.variances).requires_grad_()
    plain = multibox_loss(one, conf, priors, targets)
    out = multibox_loss(two, conf, priors, targets, LossRule(variance_in_target=True))
    assert out.loc.item() == pytest.approx(plain.loc.item(), rel=1e-5)
    plain.total.backward()
    out.total.backward()
    assert one.grad is not None and two.grad is not None
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-5, atol=1e-7)


def test_coordinates_outside_of_the_image_do_not_learn() -> None:
    loc, conf, priors, targets = small()
    loc.requires_grad_()
    moved = Priors.from_corners(priors.corners - torch.tensor([0.15, 0.0, 0.0, 0.0]), priors.variances)
    multibox_loss(loc, conf, moved, targets, LossRule(inside_only=True)).loc.backward()
    assert loc.grad is not None
    outside = (moved.corners[:, 0] < 0).expand(3, 30)
    assert (loc.grad[..., 0][outside] == 0).all() and (loc.grad[..., 1] != 0).any()


def test_a_class_loss_has_a_ceiling() -> None:
    _, _, priors, targets = small()
    conf = torch.zeros(3, 30, 4)
    conf[..., 0] = 200.0
    free = multibox_loss(torch.zeros(3, 30, 4), conf, priors, targets)
    caffe = multibox_loss(torch.zeros(3, 30, 4), conf, priors, targets, LossRule(largest=-log(2.0**-126)))
    assert free.conf.item() == pytest.approx(200.0) and caffe.conf.item() == pytest.approx(87.33654, rel=1e-6)


def test_an_agnostic_net_has_one_class_of_objects() -> None:
    loc, conf, priors, targets = small()
    named = replace(targets, labels=torch.ones_like(targets.labels))
    out = multibox_loss(loc, conf, priors, targets, LossRule(agnostic=True))
    assert out.total == multibox_loss(loc, conf, priors, named).total
    assert out.total != multibox_loss(loc, conf, priors, targets).total


@pytest.mark.parametrize("saturated", [False, True])
def test_a_loss_at_its_ceiling_learns_in_caffe_and_not_in_ssd_keras(saturated: bool) -> None:
    _, _, priors, targets = small()
    conf = torch.zeros(3, 30, 4)
    conf[..., 0] = 200.0
    conf.requires_grad_()
    rule = LossRule(largest=50.0, saturated=saturated)
    multibox_loss(torch.zeros(3, 30, 4), conf, priors, targets, rule).conf.backward()
    assert conf.grad is not None
    assert bool((conf.grad[..., 0] > 0.01).any()) is not saturated


def test_suppression_looks_at_its_first_candidates_only() -> None:
    low = torch.linspace(0, 0.5, 8)[:, None].expand(8, 2)
    boxes = torch.cat([low, low + 0.05], 1)
    boxes[:3] = torch.tensor([0.1, 0.1, 0.6, 0.6])  # the three hardest lie on each other
    losses = torch.arange(8, 0, -1).float()[None]
    rule = MiningRule("examples", nms=0.5, nms_top_k=4, samples=8)
    one = torch.tensor([True])
    assert hard_examples(losses, boxes, one, rule)[0].nonzero()[:, 0].tolist() == [0, 3]
    assert hard_examples(losses, boxes, one, replace(rule, nms_top_k=-1))[0].sum() == 6
    assert hard_examples(losses, boxes, one, replace(rule, nms=0.0, samples=3))[0].nonzero()[:, 0].tolist() == [0, 1, 2]
    assert not hard_examples(losses, boxes, torch.tensor([False]), rule).any()
