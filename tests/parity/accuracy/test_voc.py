"""The VOC evaluator against stored evaluations of real detectors, a literal loop, and cases worked out by hand. Each
convention does to boxes and scores what its field says.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ssdconv.data.voc import VOC_CLASSES, open_voc
from ssdconv.errors import UsageError
from ssdconv.parity.accuracy.detections import DetectionSet, Truth, gather, make_detections
from ssdconv.parity.accuracy.files import read_voc_detections
from ssdconv.parity.accuracy.voc import PRESETS, Convention, VocScores, convention, evaluate_voc, frames, written

PLAIN = Convention("plain", plus_one=False)


def truth_of(boxes: list[list[float]], images: list[int], difficult: list[bool] | None = None, count: int = 2) -> Truth:
    n = len(boxes)
    return Truth(
        ("a", "b"), tuple(f"i{k}" for k in range(count)), 1, np.full((count, 2), 100.0), np.asarray(images, np.int64),
        np.zeros(n, np.int64), np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(difficult or [False] * n, np.bool_),
        np.zeros(n, np.bool_), np.ones(n),
    )  # fmt: skip


def found(rows: list[tuple[int, float, list[float]]], count: int = 2, label: int = 0) -> DetectionSet:
    return DetectionSet(
        ("a", "b"), tuple(f"i{k}" for k in range(count)), np.asarray([r[0] for r in rows], np.int64),
        np.full(len(rows), label, np.int64), np.asarray([r[1] for r in rows], np.float64),
        np.asarray([r[2] for r in rows], np.float64).reshape(-1, 4), written=True,
    )  # fmt: skip


def statuses(truth: Truth, rows: list[tuple[int, float, list[float]]], rule: Convention = PLAIN) -> list[int]:
    return evaluate_voc(truth, found(rows), rule).tables[0].status.tolist()


BOX = [10.0, 10.0, 20.0, 20.0]
HALF = [10.0, 10.0, 20.0, 30.0]  # IoU with BOX exactly 0.5 without +1; 231 / (11 * 21) with: 121/231


@pytest.mark.shared
def test_real_detections_give_the_stored_numbers_to_the_last_bit(
    voc07_root: Path, yolov2_files: Path, shared: Path
) -> None:
    expected = json.loads((shared / "data/detections/yolov2_voc07test_expected.json").read_text())
    scores = _evaluated(voc07_root, yolov2_files, PRESETS["devkit"])
    assert scores.mean == expected["mAP"] == 0.7213806028350517
    for name, ap, table in zip(scores.classes, scores.ap, scores.tables, strict=True):
        stored = expected["classes"][name]
        assert (ap, table.true_positives, table.npos, len(table.scores)) == tuple(
            stored[k] for k in ("ap", "tp", "npos", "n_det")
        )
    strict = _evaluated(voc07_root, yolov2_files, PRESETS["devkit"].changed(strict=True))
    assert strict.mean == expected["mAP"], "no overlap of this set is exactly one half"


@pytest.mark.shared
def test_rounded_scores_tie_but_true_positives_agree(voc07_root: Path, ssd300_files: Path, shared: Path) -> None:
    expected = json.loads((shared / "data/detections/ssd300_voc07test_expected.json").read_text())
    scores = _evaluated(voc07_root, ssd300_files, PRESETS["ssd.pytorch"])
    for name, ap, table in zip(scores.classes, scores.ap, scores.tables, strict=True):
        stored = expected["classes"][name]
        assert (table.true_positives, table.npos) == (stored["tp"], stored["npos"]), name
        assert abs(ap - stored["ap"]) < 0.004, name
    wrong = _evaluated(voc07_root, ssd300_files, PRESETS["devkit"])
    assert [t.true_positives for t in wrong.tables] != [t.true_positives for t in scores.tables]


def _evaluated(root: Path, files: Path, rule: Convention) -> VocScores:
    truth = gather(open_voc(root))
    return evaluate_voc(truth, read_voc_detections(files, VOC_CLASSES).aligned(truth.image_ids, VOC_CLASSES), rule)


def random_case(rng: np.random.Generator) -> tuple[Truth, DetectionSet, Convention]:
    images, classes = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    grid = float(rng.choice([1.0, 5.0]))

    def boxes(n: int) -> np.ndarray:
        corner = rng.integers(0, 8, (n, 2)) * grid
        return np.hstack([corner, corner + rng.integers(0, 8, (n, 2)) * grid]).astype(np.float64)

    n, m = int(rng.integers(0, 12)), int(rng.integers(0, 30))
    names, kinds = tuple(f"i{k}" for k in range(images)), tuple(f"c{k}" for k in range(classes))
    truth = Truth(
        kinds, names, int(rng.integers(0, 2)), np.full((images, 2), 50.0), np.sort(rng.integers(0, images, n)),
        rng.integers(0, classes, n), boxes(n), rng.random(n) < 0.3, np.zeros(n, np.bool_), np.ones(n),
    )  # fmt: skip
    if n > 1:  # equal boxes: which of them is taken shows when one is difficult
        again = rng.random(n) < 0.3
        truth.boxes[again] = truth.boxes[rng.integers(0, n, n)][again]
    near = boxes(m)
    label = rng.integers(0, classes, m)
    if n:
        pick = rng.integers(0, n, m)
        copy = rng.random(m) < 0.6
        near[copy] = truth.boxes[pick][copy] + rng.integers(-1, 2, (m, 4))[copy] * rng.choice([0.0, 1.0])
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2])
        label = np.where(copy, truth.labels[pick], label)
    levels = int(rng.choice([2, 10, 10**6]))
    detections = DetectionSet(
        kinds, names, rng.integers(0, images, m), label, rng.integers(1, levels + 1, m) / levels, near, written=True
    )
    rule = Convention(
        iou_threshold=float(rng.choice([0.5, 0.3, 1.0])), strict=bool(rng.integers(2)), plus_one=bool(rng.integers(2)),
        gt_shift=float(rng.choice([0.0, -1.0])), difficult=str(rng.choice(["ignore", "count", "drop"])),  # type: ignore[arg-type]
        ties=str(rng.choice(["given", "reversed"])), ap=str(rng.choice(["11point", "area"])),  # type: ignore[arg-type]
    )  # fmt: skip
    return truth, detections, rule


def compare_with_loop(loop: ModuleType, sets: int, seed: int) -> int:
    """Number of classes with a true detection, so that a test can tell that it tested something."""
    rng = np.random.default_rng(seed)
    told = 0
    for index in range(sets):
        truth, detections, rule = random_case(rng)
        scores = evaluate_voc(truth, detections, rule)
        ap, true = loop.evaluate_loop(truth, detections, rule)
        assert [t.true_positives for t in scores.tables] == true, (index, rule)
        for mine, theirs in zip(scores.ap, ap, strict=True):
            if rule.ap == "11point":
                assert mine == theirs or (math.isnan(mine) and math.isnan(theirs)), (index, rule)
            else:  # numpy adds in another order than the loop
                assert mine == pytest.approx(theirs, abs=1e-12, nan_ok=True), (index, rule)
        told += sum(count > 0 for count in true)
    return told


def test_equal_to_a_literal_loop(bench: Callable[[str], ModuleType]) -> None:
    assert compare_with_loop(bench("_voc_loop"), 1000, 1) > 500


@pytest.mark.slow
def test_equal_to_a_literal_loop_on_many_sets(bench: Callable[[str], ModuleType]) -> None:
    assert compare_with_loop(bench("_voc_loop"), 10_000, 2) > 5000


def test_strict_and_plus_one() -> None:
    truth = truth_of([BOX], [0])
    assert statuses(truth, [(0, 0.9, HALF)]) == [1]
    assert statuses(truth, [(0, 0.9, HALF)], PLAIN.changed(strict=True)) == [0]
    assert statuses(truth, [(0, 0.9, HALF)], Convention(strict=True)) == [1], "with +1 it is 121/231 > 0.5"


def test_only_the_first_claim_is_true_and_the_second_best_object_is_not_tried() -> None:
    near = [10.0, 10.0, 20.0, 21.0]
    truth = truth_of([BOX, near], [0, 0])
    assert statuses(truth, [(0, 0.9, BOX), (0, 0.8, BOX), (0, 0.7, near)]) == [1, 0, 1]


def test_difficult_objects() -> None:
    truth = truth_of([BOX], [0], [True])
    rows = [(0, 0.9, BOX), (0, 0.8, BOX)]
    assert statuses(truth, rows) == [-1, -1], "as often as it likes"
    assert statuses(truth, rows, PLAIN.changed(difficult="count")) == [1, 0]
    assert statuses(truth, rows, PLAIN.changed(difficult="drop")) == [0, 0]
    assert math.isnan(evaluate_voc(truth, found(rows), PLAIN).ap[0]), "nothing is to be found"


def test_of_equal_overlaps_the_first_object_counts() -> None:
    rows = [(0, 0.9, BOX)]
    assert statuses(truth_of([BOX, BOX], [0, 0], [True, False]), rows) == [-1]
    assert statuses(truth_of([BOX, BOX], [0, 0], [False, True]), rows) == [1]


def test_recall_levels_are_those_of_arange() -> None:
    """Three of ten objects found: 0.3 does not reach the fourth level, which is 0.30000000000000004."""
    boxes = [[20.0 * i, 0.0, 20.0 * i + 10, 10.0] for i in range(10)]
    rows = [(0, 0.9 - i / 10, boxes[i]) for i in range(3)]
    assert evaluate_voc(truth_of(boxes, [0] * 10), found(rows), PLAIN).ap[0] == pytest.approx(3 / 11, abs=1e-15)


def test_another_image_or_class_does_not_match() -> None:
    truth = truth_of([BOX], [0])
    assert statuses(truth, [(1, 0.9, BOX)]) == [0]
    assert evaluate_voc(truth, found([(0, 0.9, BOX)], label=1), PLAIN).tables[1].status.tolist() == [0]


def test_ties() -> None:
    truth = truth_of([BOX], [0])
    rows = [(0, 0.5, [50.0, 50.0, 60.0, 60.0]), (0, 0.5, BOX)]
    assert statuses(truth, rows) == [0, 1]
    assert statuses(truth, rows, PLAIN.changed(ties="reversed")) == [1, 0]


def test_eleven_points_and_area_by_hand() -> None:
    truth = truth_of([BOX, [50.0, 50.0, 60.0, 60.0]], [0, 0])
    rows = [(0, 0.9, BOX), (0, 0.8, [0.0, 0.0, 5.0, 5.0]), (0, 0.7, [50.0, 50.0, 60.0, 60.0])]
    # recall .5 at precision 1, recall 1 at precision 2/3: six levels up to .5, five beyond
    assert evaluate_voc(truth, found(rows), PLAIN).ap[0] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11, abs=1e-15)
    assert evaluate_voc(truth, found(rows), PLAIN.changed(ap="area")).ap[0] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_no_detection_and_no_object() -> None:
    empty = evaluate_voc(truth_of([BOX], [0]), found([]), PLAIN)
    assert empty.ap[0] == 0.0 and empty.mean == 0.0 and math.isnan(empty.ap[1])
    assert math.isnan(evaluate_voc(truth_of([], []), found([(0, 0.5, BOX)]), PLAIN).mean)


def test_order_leads_back_to_the_rows() -> None:
    rows = [(0, 0.1, BOX), (1, 0.9, HALF), (0, 0.5, BOX)]
    scores = evaluate_voc(truth_of([BOX], [0]), found(rows), PLAIN)
    assert scores.order.tolist() == [1, 2, 0]
    assert scores.tables[0].scores.tolist() == [0.9, 0.5, 0.1] and scores.tables[0].image.tolist() == [1, 0, 0]


def test_speed(bench: Callable[[str], Any]) -> None:
    import time

    truth, detections = bench("_detection_sets").synthetic(4952, 20, 14976, 100_000, difficult=0.2)
    start = time.process_time()
    evaluate_voc(truth, detections, PRESETS["devkit"])
    assert time.process_time() - start < 0.5


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
