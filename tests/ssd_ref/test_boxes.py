"""Codes of loc: inverse pairs and values worked out by hand; overlaps against pycocotools and a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from ssdconv.ssd_ref.boxes import Code, area, decode, encode, iou_matrix, to_centers, to_corners

CODES: tuple[Code, ...] = ("center_size", "corner", "corner_size")


def some_boxes(count: int, seed: int) -> torch.Tensor:
    """Corner boxes in float64 with sides between 0.05 and 0.6."""
    make = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=make, dtype=torch.float64)
    return torch.cat([low, low + 0.05 + 0.55 * torch.rand(count, 2, generator=make, dtype=torch.float64)], 1)


@given(st.integers(0, 2**31), st.sampled_from(CODES), st.booleans(), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_decode_undoes_encode(seed: int, code: Code, encoded: bool, images: int) -> None:
    priors, boxes = some_boxes(7, seed), some_boxes(7 * images, seed + 1).view(images, 7, 4)
    form = to_centers(priors) if code == "center_size" else priors
    variances = torch.tensor([[0.1, 0.15, 0.2, 0.3]], dtype=torch.float64).expand(7, 4)
    loc = encode(boxes, form, variances, code, encoded)
    torch.testing.assert_close(decode(loc, form, variances, code, encoded), boxes, rtol=0, atol=1e-12)
    torch.testing.assert_close(encode(decode(loc, form, variances, code, encoded), form, variances, code, encoded), loc)


@pytest.mark.parametrize(
    ("code", "encoded", "expected"),
    [
        # Prior: centre (0.5, 0.4), size (0.2, 0.4), corners (0.4, 0.2, 0.6, 0.6); loc (1, 2, 3, 4).
        # centre 0.5 + 0.1 * 1 * 0.2 = 0.52; 0.4 + 0.2 * 2 * 0.4 = 0.56; size 0.2 e^(0.3 * 3), 0.4 e^(0.4 * 4)
        ("center_size", False, (0.52 - 0.24596031 / 2, 0.56 - 1.98121297 / 2, 0.52 + 0.24596031, 0.56)),
        ("corner", False, (0.5, 0.6, 1.5, 2.2)),  # p + v d
        ("corner", True, (1.4, 2.2, 3.6, 4.6)),  # p + d
        ("corner_size", False, (0.42, 0.36, 0.78, 1.24)),  # p + v d (0.2, 0.4, 0.2, 0.4)
        ("corner_size", True, (0.6, 1.0, 1.2, 2.2)),
    ],
)
def test_decode_by_hand(code: Code, encoded: bool, expected: tuple[float, ...]) -> None:
    corners = torch.tensor([[0.4, 0.2, 0.6, 0.6]], dtype=torch.float64)
    prior = to_centers(corners) if code == "center_size" else corners
    variances = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    loc = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    got = decode(loc, prior, variances, code, encoded)[0].tolist()
    if code == "center_size":
        width, height = 0.2 * np.exp(0.9), 0.4 * np.exp(1.6)
        expected = (0.52 - width / 2, 0.56 - height / 2, 0.52 + width / 2, 0.56 + height / 2)
    assert got == pytest.approx(expected, abs=1e-12)


def test_growth_can_be_capped() -> None:
    """torchvision limits variance * dw to log(1000 / 16): a box grows at most 62.5-fold."""
    prior, variances = torch.tensor([[0.5, 0.5, 0.25, 0.5]]), torch.tensor([[0.1, 0.1, 0.2, 0.2]])
    loc = torch.tensor([[0.0, 0.0, 5 * np.log(62.5) + 9, 5 * np.log(62.5) - 5]], dtype=torch.float32)
    box = decode(loc, prior, variances, "center_size", False, float(np.log(62.5)))[0]
    torch.testing.assert_close(box[2:] - box[:2], torch.tensor([0.25 * 62.5, 0.5 * 62.5 / np.e]), rtol=1e-5, atol=0)
    free = decode(loc, prior, variances, "center_size")[0]
    assert free[2] - free[0] > 90


def test_variances_do_not_count_twice() -> None:
    prior, loc = torch.tensor([[0.5, 0.5, 0.2, 0.2]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    variances = torch.tensor([[0.1, 0.1, 0.2, 0.2]])
    assert decode(loc, prior, variances, "center_size", True)[0, 0] == pytest.approx(0.6)
    assert decode(loc, prior, variances, "center_size", False)[0, 0] == pytest.approx(0.42)


def test_forms_are_inverse() -> None:
    boxes = some_boxes(50, 3)
    torch.testing.assert_close(to_corners(to_centers(boxes)), boxes)
    assert to_centers(torch.tensor([0.0, 2.0, 4.0, 3.0])).tolist() == [2.0, 2.5, 4.0, 1.0]


def test_overlaps_equal_pycocotools() -> None:
    a, b = some_boxes(40, 5), some_boxes(30, 6)
    sized = [torch.cat([x[:, :2], x[:, 2:] - x[:, :2]], 1).numpy() for x in (a, b)]
    theirs = coco_mask.iou(sized[0], sized[1], [0] * 30)
    assert (theirs > 0.2).sum() > 50
    np.testing.assert_allclose(iou_matrix(a, b).numpy(), theirs, rtol=0, atol=1e-12)


def test_overlaps_batched_and_broadcast() -> None:
    a, b = some_boxes(12, 8).view(3, 4, 4), some_boxes(5, 9)
    together = iou_matrix(a, b)
    assert together.shape == (3, 4, 5)
    for image in range(3):
        assert torch.equal(together[image], iou_matrix(a[image], b))


def test_boxes_without_area() -> None:
    point, line, inverted = [0.5, 0.5, 0.5, 0.5], [0.2, 0.2, 0.2, 0.9], [0.9, 0.9, 0.1, 0.1]
    boxes = torch.tensor([point, line, inverted, [0.0, 0.0, 1.0, 1.0]])
    assert area(boxes).tolist() == [0.0, 0.0, 0.0, 1.0]
    assert torch.equal(iou_matrix(boxes, boxes), torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0])))
    touching = torch.tensor([[1.0, 0.0, 2.0, 1.0]])
    assert iou_matrix(boxes[3:], touching).item() == 0
    assert iou_matrix(boxes[3:], torch.tensor([[0.5, 0.0, 1.5, 1.0]])).item() == pytest.approx(1 / 3)  # no +1
