"""NMS over all classes with a margin in the union, against a plain loop; best classes and ties by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.config import DetectRule, PriorMap
from ssdconv.ssd_ref.detect import detect
from ssdconv.ssd_ref.nms_margin import margin_nms_mask

RULE = DetectRule("sigmoid", None, 0.5, top_k=-1, nms_threshold=0.4, keep_top_k=-1, nms_scope="image", nms_margin=1e-3)
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
