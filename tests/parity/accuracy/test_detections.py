"""Columns of detections: alignment with a data set and the checks of every row."""

from __future__ import annotations

import numpy as np
import pytest

from ssdconv.data.records import Problems
from ssdconv.errors import UsageError
from ssdconv.parity.accuracy.detections import (
    DetectionsError,
    DetectionSet,
    DuplicateDetectionError,
    IncompleteDetectionsError,
    InvertedBoxError,
    NonFiniteError,
    UnknownCategoryError,
    UnknownImageError,
    ZeroBoxError,
    check_detections,
    make_detections,
)

GOOD = (0, 1, 0.5, 1.0, 2.0, 3.0, 4.0)


def of(*rows: tuple[float, ...], covers: bool = False) -> DetectionSet:
    return make_detections(("a", "b"), ("x", "y"), np.asarray(rows, np.float64), covers=covers)


def checked(found: DetectionSet, problems: Problems | None = None, **options: bool) -> DetectionSet:
    return check_detections(found, lambda row: f"file: line {row + 1}", problems, **options)


def test_aligned_by_name() -> None:
    found = of(GOOD, (1, 0, 0.25, 0, 0, 1, 1)).aligned(("z", "y", "x"), ("b", "a"))
    assert found.image.tolist() == [2, 1] and found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == [0.5, 0.25] and found.image_ids == ("z", "y", "x")


def test_strangers() -> None:
    found = of(GOOD, (1, 0, 0.25, 0, 0, 1, 1))
    with pytest.raises(UnknownImageError, match="1 detections of image 'y'"):
        found.aligned(("x",), ("a", "b"))
    with pytest.raises(UnknownCategoryError, match="class 'b'"):
        found.aligned(("x", "y"), ("a",))
    problems = Problems()
    left = found.aligned(("x",), ("a",), problems)
    assert len(left) == 0 and problems.counts == {"UnknownImageError": 1, "UnknownCategoryError": 1}


def test_classes_without_detections_may_be_strangers() -> None:
    assert len(of((0, 0, 0.5, 0, 0, 1, 1)).aligned(("x",), ("a",))) == 1


def test_images_never_run() -> None:
    with pytest.raises(IncompleteDetectionsError, match=r"(?s)1 images.*first missing: z"):
        of(GOOD, covers=True).aligned(("x", "z", "y"), ("a", "b"))
    assert len(of(GOOD).aligned(("x", "z", "y"), ("a", "b"))) == 1, "files do not tell, so nothing is claimed"


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ((0, 0, float("nan"), 1, 2, 3, 4), NonFiniteError),
        ((0, 0, 0.5, 1, float("inf"), 3, 4), NonFiniteError),
        ((0, 0, 0.5, 3, 2, 1, 4), InvertedBoxError),
        ((0, 0, 0.5, 1, 4, 3, 2), InvertedBoxError),
        ((0, 0, 0.5, 1, 2, 1, 4), ZeroBoxError),
        (GOOD, DuplicateDetectionError),
    ],
)
def test_each_bad_row_has_its_error(row: tuple[float, ...], kind: type[DetectionsError]) -> None:
    found = of(GOOD, (1, 1, 0.5, 1.0, 2.0, 3.0, 4.0), row)
    with pytest.raises(kind, match="line 3"):
        checked(found)
    problems = Problems()
    assert checked(found, problems).image.tolist() == [0, 1]
    assert problems.counts == {kind.__name__: 1}


def test_tolerance_is_asked_for() -> None:
    thin = (0, 0, 0.5, 1, 2, 1, 4)
    assert len(checked(of(thin, thin), zero_boxes=True, repeats=True)) == 2
    with pytest.raises(DuplicateDetectionError):
        checked(of(thin, thin), zero_boxes=True)


def test_nearly_equal_rows_are_no_duplicates() -> None:
    rng = np.random.default_rng(0)
    rows = np.tile(np.asarray(GOOD), (500, 1))
    rows[:, 2] += rng.permutation(500) * 2.0**-40
    assert len(checked(of(*map(tuple, rows)))) == 500
    rows[17] = rows[400]
    problems = Problems()
    assert len(checked(of(*map(tuple, rows)), problems)) == 499 and "line 401" in str(problems.errors[0])


def test_zeros_of_both_signs_are_equal() -> None:
    with pytest.raises(DuplicateDetectionError):
        checked(of((0, 0, 0.5, 0.0, 0, 1, 1), (0, 0, 0.5, -0.0, 0, 1, 1)))


def test_indices_are_checked() -> None:
    with pytest.raises(UsageError, match=r"class index out of range.*0\.\.1"):
        of((0, 2, 0.5, 0, 0, 1, 1))
    with pytest.raises(UsageError, match="image index"):
        of((-1, 0, 0.5, 0, 0, 1, 1))
