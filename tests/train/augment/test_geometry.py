"""Overlaps, centres and mirroring of boxes against counting pixels and literal loops."""

from __future__ import annotations

import numpy as np
import pytest

from ssdconv.train.augment.draw import centre_inside, cut, iou, mirror


def boxes(rng: np.random.Generator, count: int, side: int = 40) -> np.ndarray:
    corners = np.sort(rng.integers(0, side, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4).astype(np.float64)


@pytest.mark.parametrize("extra", [0, 1])
def test_iou_is_what_counting_pixels_gives(extra: int) -> None:
    rng = np.random.default_rng(0)
    windows, objects = boxes(rng, 40), boxes(rng, 30)
    got = iou(windows, objects, float(extra))
    for i, w in enumerate(windows.astype(int)):
        for j, o in enumerate(objects.astype(int)):
            first, second = np.zeros((41, 41), bool), np.zeros((41, 41), bool)
            first[w[1] : w[3] + extra, w[0] : w[2] + extra] = True
            second[o[1] : o[3] + extra, o[0] : o[2] + extra] = True
            union = (first | second).sum()
            assert got[i, j] == pytest.approx((first & second).sum() / union if union else 0.0, abs=1e-15)


def test_iou_of_nothing() -> None:
    point = np.array([[3.0, 3.0, 3.0, 3.0]])
    assert iou(point, point).tolist() == [[0.0]]
    assert iou(point, np.zeros((0, 4))).shape == (1, 0)


def test_centres_on_the_edge() -> None:
    window = np.array([[10.0, 10.0, 20.0, 20.0]])
    places = {"low": (10, 15), "inside": (15, 15), "high": (15, 20), "right": (20, 15), "out": (21, 15)}
    objects = np.array([[x - 2, y - 2, x + 2, y + 2] for x, y in places.values()], np.float64)
    inside = {edge: centre_inside(window, objects, edge)[0].tolist() for edge in ("closed", "half_open", "open")}
    assert inside == {
        "closed": [True, True, True, True, False],
        "half_open": [True, True, False, False, False],
        "open": [False, True, False, False, False],
    }


def test_cut_and_mirror() -> None:
    box = np.array([[5.0, 6.0, 30.0, 18.0]])
    frame = np.array([10.0, 10.0, 25.0, 30.0])
    assert cut(box, frame).tolist() == [[0.0, 0.0, 15.0, 8.0]]
    assert cut(box, frame, clip=False).tolist() == [[-5.0, -4.0, 20.0, 8.0]]
    assert mirror(box, 40.0).tolist() == [[10.0, 6.0, 35.0, 18.0]]
    assert mirror(mirror(box, 40.0), 40.0).tolist() == box.tolist()
