"""Batched NMS against the plain greedy loop, on random sets full of ties and boxes without area.

NMS over all classes with a margin in the union, against a plain loop; best classes and ties by hand.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref import nms
from ssdconv.ssd_ref.config import Postprocess, PriorMap
from ssdconv.ssd_ref.nms import adaptive_nms_mask, margin_nms_mask, nms_mask
from ssdconv.ssd_ref.postprocess import detect

Box = list[float]


def overlap(a: Box, b: Box) -> float:
    """Jaccard index of two boxes in plain arithmetic, as Caffe's JaccardOverlap."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if not (width > 0 and height > 0):
        return 0.0
    areas = [0.0 if x[2] < x[0] or x[3] < x[1] else (x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    with np.errstate(all="ignore"):
        return float(np.float64(width * height) / np.float64(areas[0] + areas[1] - width * height))


def greedy(boxes: list[Box], threshold: float, inclusive: bool = False, eta: float = 1.0) -> list[int]:
    kept: list[int] = []
    for index, box in enumerate(boxes):
        overlaps = [overlap(box, boxes[other]) for other in kept]
        if all(value < threshold if inclusive else value <= threshold for value in overlaps):
            kept.append(index)
            if eta < 1 and threshold > 0.5:
                threshold *= eta
    return kept


def random_sets(count: int, largest: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (count, largest, 4) in float64 and which are there; a third each on a coarse grid (ties, boxes without
    area, inverted ones), free, and in clusters of near copies."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, 7, (count, largest, 4)).astype(np.float64)
    grid[:, ::2, 2:] = grid[:, ::2, :2] + rng.integers(0, 5, (count, (largest + 1) // 2, 2))
    low = rng.random((count, largest, 2))
    free = np.concatenate([low, low + rng.random((count, largest, 2))], 2)
    centres = rng.integers(0, 3, (count, largest, 1)).repeat(2, 2) + rng.normal(0, 0.08, (count, largest, 2))
    near = np.concatenate([centres, centres + 0.5 + rng.normal(0, 0.05, (count, largest, 2))], 2)
    kind = np.arange(count) % 3
    boxes = np.where((kind == 0)[:, None, None], grid, np.where((kind == 1)[:, None, None], free, near))
    valid = np.arange(largest) < rng.integers(0, largest + 1, count)[:, None]
    return torch.from_numpy(boxes), torch.from_numpy(valid)


def expected(boxes: torch.Tensor, valid: torch.Tensor, threshold: float, **rule: float) -> torch.Tensor:
    mask = torch.zeros_like(valid)
    for index, (some, there) in enumerate(zip(boxes.tolist(), valid, strict=True)):
        places = there.nonzero().view(-1)
        kept = greedy([some[place] for place in places.tolist()], threshold, **rule)  # type: ignore[arg-type]
        mask[index, places[kept]] = True
    return mask


@pytest.mark.parametrize(
    ("threshold", "inclusive", "seed"),
    [(0.45, False, 0), (0.5, True, 1), (0.0, False, 2), (1.0, True, 3), (1 / 3, True, 4), (0.0, True, 5)],
)
def test_ten_thousand_random_sets(threshold: float, inclusive: bool, seed: int) -> None:
    boxes, valid = random_sets(4000, 14, seed)
    want = expected(boxes, valid, threshold, inclusive=inclusive)
    assert torch.equal(nms_mask(boxes, valid, threshold, inclusive), want)
    assert 0 < want.sum() < valid.sum()  # something stays and something goes
    # Small whole numbers: float32 rounds every quotient, and the threshold, as float64 does relative to each other.
    grid = torch.arange(len(boxes)) % 3 == 0
    assert torch.equal(nms_mask(boxes[grid].float(), valid[grid], threshold, inclusive), want[grid])


@pytest.mark.parametrize("largest", [64, 65, 128, 129, 300])
def test_sets_longer_than_a_block(largest: int) -> None:
    boxes, _ = random_sets(6, largest, largest)
    valid = torch.arange(largest) < torch.tensor([[largest], [largest], [largest - 1], [64], [63], [0]])
    assert torch.equal(nms_mask(boxes, valid, 0.45), expected(boxes, valid, 0.45))


def test_many_long_sets() -> None:
    """More sets than FEW_SETS, so blocks of the other width."""
    boxes, valid = random_sets(40, 150, 11)
    assert torch.equal(nms_mask(boxes, valid, 0.45), expected(boxes, valid, 0.45))


def test_better_boxes_in_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nms, "PAIRS", 1)
    boxes, valid = random_sets(6, 300, 12)
    assert torch.equal(nms_mask(boxes, valid, 0.45), expected(boxes, valid, 0.45))


def test_holes_in_the_mask() -> None:
    boxes, _ = random_sets(300, 12, 5)
    valid = torch.rand(300, 12, generator=torch.Generator().manual_seed(5)) < 0.5
    assert torch.equal(nms_mask(boxes, valid, 0.3), expected(boxes, valid, 0.3))


def test_a_chain_in_which_every_second_box_stays() -> None:
    """Each box overlaps only its neighbours: the worst case for the number of rounds."""
    low = torch.arange(200.0)
    boxes = torch.stack([low, low * 0, low + 2, low * 0 + 1], 1)[None]  # IoU with the next: 1/3
    keep = nms_mask(boxes, torch.ones(1, 200, dtype=torch.bool), 0.3)
    assert torch.equal(keep[0], torch.arange(200) % 2 == 0)


def test_threshold_met_exactly() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0]]])  # IoU 1/2
    both = torch.ones(1, 2, dtype=torch.bool)
    assert nms_mask(boxes, both, 0.5).tolist() == [[True, True]]
    assert nms_mask(boxes, both, 0.5, inclusive=True).tolist() == [[True, False]]


def test_boxes_so_large_that_areas_overflow() -> None:
    huge = 3e38
    sets = [
        [[-huge, -huge, huge, huge], [-huge, -huge, huge, huge], [0.0, 0.0, 1.0, 1.0]],
        [[float("-inf"), 0.0, float("inf"), 1.0], [0.0, 0.0, 1.0, 1.0], [float("inf"), 0.0, float("inf"), 1.0]],
    ]
    boxes, valid = torch.tensor(sets, dtype=torch.float32), torch.ones(2, 3, dtype=torch.bool)
    # Set 0: inf / inf is not a number, so the copy goes. Set 1: finite areas over infinite ones are 0, nothing goes.
    assert nms_mask(boxes[:1], valid[:1], 0.45).tolist() == [[True, False, True]]
    assert nms_mask(boxes[1:], valid[1:], 0.45).tolist() == [[True, True, True]]
    wide = torch.tensor([[[-1e200, -1e200, 1e200, 1e200], [0.0, 0.0, 1.0, 1.0]]], dtype=torch.float64)
    assert torch.equal(nms_mask(wide, valid[:1, :2], 0.45), expected(wide, valid[:1, :2], 0.45))


@pytest.mark.parametrize("eta", [0.5, 0.9, 1.0])
def test_adaptive(eta: float) -> None:
    boxes, valid = random_sets(600, 12, 21)
    assert torch.equal(adaptive_nms_mask(boxes, valid, 0.8, eta), expected(boxes, valid, 0.8, eta=eta))
    if eta < 1:
        assert not torch.equal(adaptive_nms_mask(boxes, valid, 0.8, eta), nms_mask(boxes, valid, 0.8))


def test_nothing_to_do() -> None:
    assert nms_mask(torch.zeros(0, 5, 4), torch.zeros(0, 5, dtype=torch.bool), 0.5).shape == (0, 5)
    assert nms_mask(torch.zeros(3, 0, 4), torch.zeros(3, 0, dtype=torch.bool), 0.5).shape == (3, 0)
    assert not nms_mask(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool), 0.5).any()


def test_refused() -> None:
    boxes, valid = torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool)
    boxes[0, 1, 2] = float("nan")
    for refuse in (lambda: nms_mask(boxes, valid, 0.5), lambda: adaptive_nms_mask(boxes, valid, 0.5, 0.9)):
        with pytest.raises(FormatError, match="not a number"):
            refuse()
    padding = torch.tensor([[True, False]])
    assert nms_mask(boxes, padding, 0.5).tolist() == [[True, False]]  # what stands in padding does not matter
    with pytest.raises(UsageError, match="must not be negative"):
        nms_mask(boxes[:, :1], valid[:, :1], -0.1)
    with pytest.raises(UsageError, match=r"\(B, K, 4\)"):
        nms_mask(boxes, valid[:, :1], 0.5)
    with pytest.raises(UsageError, match="factor"):
        adaptive_nms_mask(boxes[:, :1], valid[:, :1], 0.5, 0.0)


RULE = Postprocess("sigmoid", None, 0.5, top_k=-1, nms_threshold=0.4, keep_top_k=-1, nms_scope="image", nms_margin=1e-3)
ONE = PriorMap((1, 4), (100.0, 25.0), ((20.0, 20.0),), variances=(0.1, 0.1, 0.2, 0.2))


def loop(boxes: np.ndarray, threshold: float, margin: float, epsilon: float = 0.0) -> list[bool]:
    kept: list[int] = []
    for i, a in enumerate(boxes):
        for j in kept:
            b = boxes[j]
            wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
            high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            areas = [(c[2] - c[0] + margin) * (c[3] - c[1] + margin) for c in (a, b)]
            if wide * high / (sum(areas) - wide * high + epsilon) > threshold:
                break
        else:
            kept.append(i)
    return [i in kept for i in range(len(boxes))]


@pytest.mark.parametrize(("margin", "epsilon"), [(1e-3, 0.0), (0.05, 0.0), (0.0, 1e-5), (0.0, 0.01)])
def test_equals_a_plain_loop(margin: float, epsilon: float) -> None:
    rng = np.random.default_rng(0)
    kept = 0
    for count in (0, 1, 2, 7, 40):
        corner = rng.uniform(0, 0.8, (30, count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(0.01, 0.4, (30, count, 2))], 2)
        valid = torch.ones(30, count, dtype=torch.bool)
        valid[:, -1:] = False
        mask = margin_nms_mask(torch.from_numpy(boxes), valid, 0.4, margin, epsilon).numpy()
        for one, row in zip(boxes, mask, strict=True):
            assert row.tolist() == [*loop(one[:-1], 0.4, margin, epsilon), *[False] * min(count, 1)]
        kept += int(mask.sum())
    assert 100 < kept < 1410


def test_the_margin_keeps_small_boxes_apart() -> None:
    pair = torch.tensor([[[0.0, 0.0, 0.01, 0.01], [0.0, 0.0, 0.0041, 0.01]]])
    valid = torch.ones(1, 2, dtype=torch.bool)
    assert margin_nms_mask(pair, valid, 0.4, 0.0).tolist() == [[True, False]]
    assert margin_nms_mask(pair, valid, 0.4, 1e-3).tolist() == [[True, True]]


def test_no_number_is_refused() -> None:
    with pytest.raises(FormatError):
        margin_nms_mask(torch.full((1, 2, 4), torch.nan), torch.ones(1, 2, dtype=torch.bool), 0.4, 1e-3)


def found(conf: list[list[float]], shift: float = 0.0, **change: object) -> list[tuple[int, int]]:
    """(prior, class) of what is detected from raw conf; ``shift`` moves the second prior's box onto the first's."""
    from dataclasses import replace

    loc = torch.zeros(1, 4, 4)
    loc[0, 1, 0] = shift
    (rows,) = detect(loc, torch.tensor([conf]), [ONE], (100, 100), replace(RULE, **change))  # type: ignore[arg-type]
    return [(round(float(b[0] + b[2]) * 2 - 0.5), int(n)) for b, n in zip(rows.boxes, rows.labels, strict=True)]


def test_a_prior_counts_with_its_best_class() -> None:
    conf = [[2.0, 1.0], [1.5, 3.0], [-1.0, -1.0], [0.7, 0.7]]
    assert found(conf) == [(1, 1), (0, 0), (3, 0)]  # the lower of equal classes
    assert len(found(conf, nms_scope="class", nms_margin=0.0)) == 6
    # Where the margin keeps a prior's two classes from dropping each other, it still counts once.
    assert found(conf, nms_margin=9.0) == [(1, 1), (0, 0), (3, 0)]


def test_classes_drop_each_other() -> None:
    conf = [[2.0, -9.0], [-9.0, 3.0], [-9.0, -9.0], [-9.0, -9.0]]
    near = -0.2 * 25 / 20 / 0.1 * 4  # 20 of 25 pixels to the left: IoU 0.6
    assert found(conf, near) == [(0, 1)]
    assert len(found(conf, near, nms_scope="class", nms_margin=0.0)) == 2


def test_a_rule_with_an_epsilon_keeps_small_boxes_apart() -> None:
    """IoU 0.41 of boxes of 1e-4 of the image: with 1e-5 added to the union it is 0.37."""
    pair = torch.tensor([[[0.0, 0.0, 0.01, 0.01], [0.0, 0.0, 0.0041, 0.01]]])
    valid = torch.ones(1, 2, dtype=torch.bool)
    assert margin_nms_mask(pair, valid, 0.4, 0.0).tolist() == [[True, False]]
    assert margin_nms_mask(pair, valid, 0.4, 0.0, 1e-5).tolist() == [[True, True]]
    half = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0]]])
    assert margin_nms_mask(half, valid, 0.5, 0.0).tolist() == [[True, True]]
    assert margin_nms_mask(half, valid, 0.5, 0.0, inclusive=True).tolist() == [[True, False]]
