"""Pictures with detections: what is drawn where, at any size, and that the picture given stays as it was."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from ssdconv.ssd_ref.draw import colour, draw
from ssdconv.ssd_ref.postprocess import Detections


def found(
    *boxes: tuple[float, float, float, float], labels: tuple[int, ...] = (1, 2), score: float = 0.9
) -> Detections:
    count = len(boxes)
    scores = torch.tensor([score - 0.3 * index for index in range(count)])
    return Detections(torch.tensor(boxes), torch.tensor(labels[:count]), scores, torch.zeros(count, dtype=torch.int64))


def grey(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), 90, np.uint8)


def changed(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    return np.asarray((image != 90).any(-1))


def test_a_box_and_its_label() -> None:
    before = grey(400, 600)
    after = draw(before, found((100, 150, 300, 350)), ("background", "cat", "dog"))
    assert (before == 90).all()
    assert after.shape == before.shape and after.dtype == np.uint8
    for y, x in ((250, 100), (250, 300), (350, 200)):  # left, right and lower side
        assert tuple(after[y, x].tolist()) == colour(1)
    where = changed(after)
    assert not where[165:335, 115:285].any() and not where[:120].any() and not where[:, :90].any()
    tag = after[130:149, 100:220]  # the label stands above the box, filled with the class colour
    assert ((tag == np.array(colour(1))).all(-1)).mean() > 0.2
    assert not where[355:].any()


def test_names_are_written() -> None:
    pictures = [draw(grey(400, 600), found((100, 150, 300, 350)), names) for names in ((), ("", "cat"), ("", "doc"))]
    for index, other in ((0, 1), (1, 2)):
        different = (pictures[index] != pictures[other]).any(-1)
        assert different.any() and not different[150:].any()  # only the label differs


def test_threshold_and_nothing() -> None:
    two = found((100, 150, 200, 250), (300, 150, 400, 250))  # scores 0.9 and 0.6
    one = draw(grey(400, 600), two, threshold=0.6)
    assert not changed(one)[:, 290:].any() and changed(one)[:, :250].any()
    assert changed(draw(grey(400, 600), two, threshold=0.59))[:, 290:].any()
    none = found(score=0.5)
    none = Detections(torch.empty(0, 4), none.labels[:0], none.scores, none.priors)
    assert not changed(draw(grey(50, 60), none)).any()


def test_the_best_lies_on_top() -> None:
    same = found((100, 150, 200, 250), (100, 150, 200, 250))
    assert tuple(draw(grey(400, 600), same)[200, 100].tolist()) == colour(1)


@pytest.mark.parametrize(("height", "width"), [(30, 40), (12, 200), (200, 12), (3000, 4000), (1, 1)])
def test_any_size_of_picture(height: int, width: int) -> None:
    wild = found((-50.0, -80.0, width * 2.0, height * 0.5), (width * 0.5, height * 0.9, width * 0.6, height * 5.0))
    after = draw(grey(height, width), wild, ("background", "a rather long name of a class", "dog"))
    assert after.shape == (height, width, 3) and changed(after).any()


def test_letters_grow_with_the_picture() -> None:
    heights = []
    for scale in (1, 4):
        after = draw(grey(400 * scale, 600 * scale), found((100, 150, 300, 350)).scaled(scale, scale))
        rows = changed(after)[: 149 * scale].any(1)
        heights.append(int(rows.sum()))
    assert 3 < heights[1] / heights[0] < 5


def test_colours_differ() -> None:
    colours = np.array([colour(label) for label in range(21)], np.uint8)
    hues = cv2.cvtColor(colours[None], cv2.COLOR_BGR2HSV)[0, :, 0].astype(int)
    assert len({colour(label) for label in range(91)}) == 91
    gaps = np.abs(np.diff(hues))
    assert np.minimum(gaps, 180 - gaps).min() > 40  # neighbouring labels look nothing alike
