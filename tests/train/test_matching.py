"""Batched matching against a literal loop over pairs, on random sets with ties, crowding, padding and empty images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssdconv.ssd_ref.boxes import iou_matrix
from ssdconv.ssd_ref.loss_rule import MatchRule
from ssdconv.train.matching import Anchors, Matches, Targets, match


def literal(priors: torch.Tensor, boxes: torch.Tensor, rule: MatchRule) -> list[int]:
    iou = iou_matrix(priors, boxes).numpy()
    count, objects = iou.shape
    matched = [-1] * count
    free = set(range(objects))
    while rule.forced == "greedy" and free:
        best, pair = 1e-6, None
        for i in range(count):
            if matched[i] < 0:
                for j in sorted(free):
                    if iou[i, j] > best:
                        best, pair = iou[i, j], (i, j)
        if pair is None:
            break
        matched[pair[0]] = pair[1]
        free.remove(pair[1])
    if rule.forced.startswith("per_object"):
        sign = {"per_object": 0, "per_object_best": 1, "per_object_least": -1}[rule.forced]
        order = sorted(range(objects), key=lambda j: sign * iou[:, j].max())
        if rule.forced == "per_object_best":  # the first of equal ones keeps the prior
            order = sorted(range(objects), key=lambda j: -iou[:, j].max())[::-1]
        for j in order:
            matched[int(iou[:, j].argmax())] = j
    for i in range(count):
        if rule.ties != "none" and matched[i] < 0 and objects:
            j = int(iou[i].argmax())
            if (iou[i, j] > 0 or rule.ties == "all") and iou[i, j] == iou[:, j].max():
                matched[i] = j
    for i in range(count):
        if matched[i] < 0 and objects:
            j = int(iou[i].argmax())
            if iou[i, j] >= rule.threshold:
                matched[i] = j
    return matched


def random_boxes(rng: np.random.Generator, count: int) -> torch.Tensor:
    grid = rng.integers(0, 6, (count, 2)) / 8  # a coarse grid: many equal overlaps
    size = rng.integers(1, 5, (count, 2)) / 8
    return torch.from_numpy(np.concatenate([grid, grid + size], 1).astype(np.float32))


@pytest.mark.parametrize("ties", ["none", "overlapping", "all"])
@pytest.mark.parametrize("forced", ["greedy", "per_object", "per_object_best", "per_object_least", "none"])
def test_equal_to_a_literal_loop(forced: str, ties: str) -> None:
    rng = np.random.default_rng(5)
    rule = MatchRule(0.5, forced, ties)  # type: ignore[arg-type]
    for _ in range(150):
        priors = random_boxes(rng, int(rng.integers(1, 25)))
        boxes = [random_boxes(rng, int(rng.integers(0, 9))) for _ in range(int(rng.integers(1, 5)))]
        targets = Targets.pad(boxes, [torch.ones(len(b), dtype=torch.int64) for b in boxes])
        found = match(Anchors.given(priors), targets, rule)
        for image, mine in enumerate(boxes):
            assert found.object[image].tolist() == literal(priors, mine, rule)


def test_left_out_objects_do_not_count() -> None:
    rng = np.random.default_rng(6)
    priors, boxes = random_boxes(rng, 20), random_boxes(rng, 6)
    keep = torch.tensor([True, False, True, True, False, True])
    whole = match(Anchors.given(priors), Targets.pad([boxes], [torch.ones(6, dtype=torch.int64)], [keep]), MatchRule())
    few = match(Anchors.given(priors), Targets.pad([boxes[keep]], [torch.ones(4, dtype=torch.int64)]), MatchRule())
    index = keep.nonzero().squeeze(1)
    assert [int(index[o]) if o >= 0 else -1 for o in few.object[0]] == whole.object[0].tolist()
    assert torch.equal(whole.overlap, few.overlap)


def test_no_objects_at_all() -> None:
    found = match(
        Anchors.given(torch.rand(7, 4)),
        Targets.pad([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2),
        MatchRule(),
    )
    assert isinstance(found, Matches)
    assert found.object.tolist() == [[-1] * 7] * 2
    assert not found.positive.any()


def test_more_objects_than_priors_uses_every_overlapping_prior() -> None:
    priors = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    boxes = torch.tensor([[0.0, 0.0, 0.4, 0.5], [0.0, 0.0, 0.5, 0.5], [0.4, 0.4, 0.9, 1.0], [0.6, 0.6, 1.0, 1.0]])
    found = match(Anchors.given(priors), Targets.pad([boxes], [torch.ones(4, dtype=torch.int64)]), MatchRule())
    assert found.object.tolist() == [[1, 3]] or found.object.tolist() == [literal(priors, boxes, MatchRule())]
