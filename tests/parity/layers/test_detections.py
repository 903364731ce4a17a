"""Detections as sets: rounding at a decision is explained, everything else is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.parity.layers.detections import Candidates, Rows, match_detections
from ssdconv.parity.layers.results import DetectionResult
from ssdconv.ssd_ref.boxes import decode
from ssdconv.ssd_ref.config import Postprocess
from ssdconv.ssd_ref.postprocess import detect_with, scores_of
from ssdconv.ssd_ref.priors import Priors

RULE = Postprocess(score_threshold=0.2, top_k=60, keep_top_k=40)


class Scene:
    """Random heads over priors on a lattice, where equal scores and IoUs of exactly one half are common."""

    def __init__(self, seed: int, classes: int = 3, count: int = 400, *, lattice: bool = True) -> None:
        rng = np.random.default_rng(seed)
        conf = rng.normal(0, 1.5, (1, count, classes))
        loc = rng.normal(0, 1, (1, count, 4))
        low = rng.uniform(0, 0.8, (count, 2))
        if lattice:
            conf, loc = np.round(conf), loc * 0
            low = rng.integers(0, 24, (count, 2)) / 30
        corners = np.concatenate([low, low + 0.1], 1)
        self.loc, self.conf = torch.tensor(loc), torch.tensor(conf)
        self.priors = Priors.from_corners(torch.tensor(corners), torch.full((count, 4), 0.1, dtype=torch.float64))

    def heads(self, noise: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 heads, with errors of a few units in the last place when a noise seed is given."""
        loc, conf = self.loc.float(), self.conf.float()
        if noise is not None:
            rng = torch.Generator().manual_seed(noise)
            loc = loc + 2e-7 * torch.randn(loc.shape, generator=rng)
            conf = conf + 2e-7 * torch.randn(conf.shape, generator=rng)
        return loc, conf

    def rows(self, rule: Postprocess, noise: int | None = None) -> Rows:
        priors = Priors(*(t.float() for t in (self.priors.centers, self.priors.corners, self.priors.variances)))
        found = detect_with(*self.heads(noise), priors, rule)[0].numpy()
        return Rows(found["labels"], found["scores"], found["boxes"])

    def candidates(self, noise: int) -> Candidates:
        parts = []
        for loc, conf in ((self.loc, self.conf), self.heads(noise)):
            scores = scores_of(conf, "softmax")[0].double().numpy()
            form, variances = self.priors.centers.to(loc.dtype), self.priors.variances.to(loc.dtype)
            parts += [scores, decode(loc, form, variances, "center_size")[0].double().numpy()]
        return Candidates(*parts)


def check(scene: Scene, oracle_rule: Postprocess, rule: Postprocess = RULE, seed: int = 1) -> DetectionResult:
    return match_detections(scene.rows(oracle_rule, seed), scene.rows(rule, seed + 1), scene.candidates(seed + 1), rule)


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, {"keep-top-k cut", "NMS order of two tied scores", "suppressed by a row that is at a boundary itself"}),
        ({"nms_threshold": 0.5}, {"is at the NMS threshold", "keep-top-k cut, moved by other rows at a boundary"}),
        ({"nms_threshold": 0.5, "keep_top_k": -1}, {"top-k cut", "is at the NMS threshold"}),
        (
            {"score_threshold": 1 / (1 + np.e + 1 / np.e), "top_k": -1, "keep_top_k": -1, "nms_threshold": 1.0},
            {"score threshold"},
        ),
        (
            {"nms_scope": "image", "nms_threshold": 0.5},
            {"is at the NMS threshold"},
        ),
        (
            {"nms_scope": "best", "top_k_scope": "image", "keep_top_k": -1},
            {"top-k cut", "NMS order of two tied scores"},
        ),
    ],
)
def test_rounding_is_always_explained(change: dict[str, Any], reasons: set[str]) -> None:
    rule = replace(RULE, **change)
    seen = set()
    for seed in range(60):
        result = check(Scene(seed), rule, rule, seed)
        assert result, [b for b in result.one_sided if not b.explained]
        assert result.oracle == result.matched + sum(b.side == "oracle" for b in result.one_sided)
        seen |= {b.reason for b in result.one_sided}
    assert all(any(reason in text for text in seen) for reason in reasons), seen


def test_without_ties_the_sets_are_equal() -> None:
    for seed in range(20):
        result = check(Scene(seed, lattice=False), RULE, RULE, seed)
        assert result and result.matched == result.oracle == result.reference and not result.one_sided
        assert 0 < result.score_error <= result.score_tolerance and 0 < result.box_error <= result.box_tolerance


@pytest.mark.parametrize(
    "change",
    [
        {"nms_threshold": 0.3},
        {"nms_threshold": 0.6},
        {"score_threshold": 0.8},
        {"score_threshold": 0.15, "top_k": 100},
        {"top_k": 20},
        {"keep_top_k": 30},
        {"keep_top_k": 60},
        {"background": 1},
        {"max_per_class": 3},
        {"nms_scope": "image"},
    ],
)
def test_another_rule_is_not_rounding(change: dict[str, Any]) -> None:
    base = RULE if "keep_top_k" in change else replace(RULE, keep_top_k=-1)
    for seed in range(5):
        result = check(Scene(seed, lattice=False), replace(base, **change), base, seed)
        assert not result and result.unexplained > 0


def test_moved_boxes_and_changed_scores_are_not_rounding() -> None:
    scene = Scene(3, lattice=False)
    rows, candidates = scene.rows(RULE), scene.candidates(2)
    for wrong in (
        replace(rows, boxes=rows.boxes + np.float32(1e-4)),
        replace(rows, scores=rows.scores * np.float32(1.0002)),
        replace(rows, labels=rows.labels % 2 + 1),
    ):
        result = match_detections(wrong, rows, candidates, RULE)
        assert not result and any("no candidate" in b.reason for b in result.one_sided)


def test_a_missing_and_a_doubled_row_fail() -> None:
    scene = Scene(4, lattice=False)
    rows, candidates = scene.rows(RULE), scene.candidates(2)
    fewer = Rows(rows.labels[1:], rows.scores[1:], rows.boxes[1:])
    assert not match_detections(fewer, rows, candidates, RULE)
    twice = Rows(*(np.concatenate([a, a[:1]]) for a in (rows.labels, rows.scores, rows.boxes)))
    result = match_detections(twice, rows, candidates, RULE)
    assert result.matched == len(rows) and result.unexplained == 1


def test_pairing_finds_the_largest_one_to_one_set() -> None:
    tolerance = 8 * 2.0**-24
    score = 0.5 + np.array([0.0, 0.9, 1.8]) * tolerance
    boxes, labels = np.tile([0.1, 0.1, 0.4, 0.4], (3, 1)), np.ones(3, np.int64)
    shifted = Rows(labels, score + 0.9 * tolerance, boxes)
    exact = np.full((3, 2), 0.5)
    exact[:, 1] = score
    candidates = Candidates(exact, boxes, exact, boxes)
    result = match_detections(shifted, Rows(labels, score, boxes), candidates, replace(RULE, nms_threshold=1.0))
    assert result.matched == 3 and result.score_error <= tolerance


def test_nothing_on_either_side_passes_and_nothing_on_one_side_fails() -> None:
    scene = Scene(5, lattice=False)
    none = Rows(np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 4)))
    rows, candidates = scene.rows(RULE), scene.candidates(2)
    assert match_detections(none, none, candidates, RULE)
    assert not match_detections(none, rows, candidates, RULE) and not match_detections(rows, none, candidates, RULE)


def test_a_class_that_one_side_lacks_is_no_rounding() -> None:
    """Saturated scores all tie at the top-k cut, which must not excuse that a side took another class for background."""
    scores = np.zeros((50, 3))
    scores[:, 0], scores[:, 1], scores[:, 2] = 1 - 1e-9, 0.9, np.linspace(0.3, 0.6, 50)
    low = np.stack([np.arange(50) / 60, np.zeros(50)], 1)
    boxes = np.concatenate([low, low + np.array([1 / 70, 0.1])], 1)
    candidates = Candidates(scores, boxes, scores, boxes)
    rule = Postprocess(score_threshold=0.01, top_k=10, keep_top_k=10, background=0)

    def rows(label: int) -> Rows:
        return Rows(np.full(10, label), scores[:10, label], boxes[:10])

    for wrong, background in ((0, 1), (2, 1)):
        result = match_detections(rows(1), rows(wrong), candidates, replace(rule, background=background))
        assert not result
        assert any("nothing of this class" in b.reason for b in result.one_sided)


def scene_of(scores: list[float], boxes: list[tuple[float, float, float, float]]) -> Candidates:
    """Candidates of one class beside the background, all but exact."""
    both = np.stack([1 - np.array(scores), np.array(scores)], 1)
    exact = np.array(boxes)
    return Candidates(
        both, exact, both.astype(np.float32).astype(np.float64), exact.astype(np.float32).astype(np.float64)
    )


def rows_of(scene: Candidates, *places: int) -> Rows:
    index = list(places)
    return Rows(np.ones(len(index), np.int64), scene.scores32[index, 1], scene.boxes32[index])


APART = [(0.2 * i, 0.0, 0.2 * i + 0.1, 0.1) for i in range(4)]


@pytest.mark.parametrize(
    "shift, explained", [(0.3751, False), (0.375, True), (0.3749, False), (0.36, False), (0.39, False)]
)
def test_an_overlap_counts_as_a_tie_at_the_threshold_only(shift: float, explained: bool) -> None:
    """IoU (1 - s) / (1 + s) of two unit squares s apart: 5/11 at 0.375. Kept on one side, suppressed on the other."""
    scene = scene_of([0.9, 0.6], [(0.0, 0.0, 1.0, 1.0), (shift, 0.0, 1.0 + shift, 1.0)])
    rule = replace(RULE, nms_threshold=5 / 11, top_k=-1, keep_top_k=-1)
    found = match_detections(rows_of(scene, 0, 1), rows_of(scene, 0), scene, rule)
    assert bool(found) is explained and len(found.one_sided) == 1


@pytest.mark.parametrize("oracle, reference, lonely, explained", [
    ([0, 1], [0], 0.8, True), ([0, 1, 2], [0, 1], 0.7, True), ([0, 1, 3], [0, 1], 0.6, False), ([0, 1], [1], 0.9, False),
])  # fmt: skip
def test_only_the_last_kept_and_the_first_cut_are_at_the_edge_of_top_k(
    oracle: list[int], reference: list[int], lonely: float, explained: bool
) -> None:
    scene = scene_of([0.9, 0.8, 0.7, 0.6], APART)
    rule = replace(RULE, top_k=2, keep_top_k=-1)
    found = match_detections(rows_of(scene, *oracle), rows_of(scene, *reference), scene, rule)
    assert [round(b.score, 3) for b in found.one_sided] == [lonely] and bool(found) is explained


def test_coordinates_far_outside_round_in_proportion_to_themselves() -> None:
    scene = scene_of([0.9], [(3000.0001, 0.0, 3000.1001, 0.1)])
    moved = Rows(np.ones(1, np.int64), scene.scores32[:, 1], scene.boxes32 + np.float32(2.0**-12))
    assert match_detections(moved, rows_of(scene, 0), scene, RULE).matched == 1
