"""Each convention does to boxes and scores what its field says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ssdconv.errors import UsageError
from ssdconv.parity.accuracy.detections import DetectionSet, Truth, make_detections
from ssdconv.parity.accuracy.voc import PRESETS, Convention, convention, frames, written


def truth(origin: int = 1) -> Truth:
    one = np.zeros(1, np.int64)
    return Truth(
        ("a",), ("i",), origin, np.asarray([[100.0, 50.0]]), one, one, np.asarray([[1.0, 1.0, 100.0, 50.0]]),
        np.zeros(1, np.bool_), np.zeros(1, np.bool_), np.ones(1),
    )  # fmt: skip


def raw() -> DetectionSet:
    return make_detections(("a",), ("i",), [(0, 0, 0.12345, -3.04, 7.25, 104.96, 49.949)])


def boxes(rule: Convention, origin: int = 1) -> list[float]:
    return list(written(raw(), rule, np.asarray([[100.0, 50.0]]), origin).boxes[0])


def test_writing() -> None:
    assert boxes(Convention()) == [-3.04, 7.25, 104.96, 49.949]
    assert boxes(Convention(clip=True)) == [0.0, 7.25, 100.0, 49.949]
    assert boxes(Convention(det_shift=1.0)) == [-3.04 + 1, 8.25, 105.96, 50.949]
    assert boxes(Convention(truncate=True)) == [-3.0, 7.0, 104.0, 49.0]
    assert boxes(Convention(box_decimals=1)) == [-3.0, 7.2, 105.0, 49.9], "as printf rounds 7.25"
    assert boxes(Convention(det_shift=1.0), origin=0) == boxes(Convention())
    assert written(raw(), Convention(score_decimals=3), np.ones((1, 2))).scores.tolist() == [0.123]


def test_what_is_written_is_left_alone() -> None:
    files = dataclasses.replace(raw(), written=True)
    rule = Convention(clip=True, det_shift=1.0, box_decimals=0, score_decimals=0)
    assert written(files, rule, np.ones((1, 2))) is files
    once = written(raw(), rule, np.ones((1, 2)))
    assert once.written and written(once, rule, np.ones((1, 2))) is once


def test_objects_are_shifted_only_where_counting_starts_at_one() -> None:
    assert frames(Convention(gt_shift=-1.0), truth(), raw(), None)[0].tolist() == [[0.0, 0.0, 99.0, 49.0]]
    assert frames(Convention(gt_shift=-1.0), truth(0), raw(), None)[0].tolist() == [[1.0, 1.0, 100.0, 50.0]]


def test_resized_coordinates() -> None:
    rule = Convention(coordinates="resized", gt_shift=-1.0, clip=True)
    objects, found = frames(rule, truth(), raw(), (300, 200))  # height 300, width 200: x doubles, y times 6
    assert objects.tolist() == [[0.0, 0.0, 198.0, 294.0]]
    assert found.boxes.tolist() == [[0.0, 43.5, 200.0, 49.949 * 6]]
    with pytest.raises(UsageError, match="input size"):
        frames(rule, truth(), raw(), None)


def test_presets_state_the_published_conventions() -> None:
    assert set(PRESETS) == {"devkit", "chainercv", "gluoncv", "ssd.pytorch", "caffe"}
    table = {
        name: (c.strict, c.plus_one, c.gt_shift, c.det_shift, c.clip, c.coordinates) for name, c in PRESETS.items()
    }
    assert table == {
        "devkit": (False, True, 0.0, 0.0, False, "original"),
        "chainercv": (False, True, -1.0, 0.0, False, "original"),
        "gluoncv": (False, True, -1.0, 0.0, True, "resized"),
        "ssd.pytorch": (True, False, -1.0, 1.0, False, "original"),
        "caffe": (False, True, 0.0, 0.0, True, "original"),
    }
    assert all(c.ap == "11point" and c.difficult == "ignore" for c in PRESETS.values())


def test_every_field_is_documented() -> None:
    assert Convention.__doc__
    for field in dataclasses.fields(Convention):
        assert f"        {field.name}: " in Convention.__doc__, field.name


def test_names() -> None:
    assert convention("devkit").changed(strict=True).name == "devkit[strict=True]"
    with pytest.raises(UsageError, match="did you mean chainercv"):
        convention("chainer")
    with pytest.raises(UsageError, match="IoU"):
        Convention(iou_threshold=0.0)
