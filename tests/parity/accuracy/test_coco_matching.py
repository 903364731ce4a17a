"""Our COCO matching gives pycocotools' AP at every threshold and category."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ssdconv.data.coco import open_coco
from ssdconv.parity.accuracy.bootstrap import resampled
from ssdconv.parity.accuracy.coco import evaluate_coco, match_coco
from ssdconv.parity.accuracy.detections import DetectionSet, Truth, gather, make_detections
from ssdconv.parity.accuracy.matching import FALSE, IGNORED, TRUE


def reference(form: dict[str, Any], found: DetectionSet) -> np.ndarray:
    """(10 thresholds, categories) AP, NaN without objects."""
    precision = evaluate_coco(form, found, evaluator="pycocotools").precision[:, :, :, 0, -1]
    return np.where((precision > -1).any(axis=1), precision.mean(axis=1), np.nan)


def test_equal_to_pycocotools(bench: Callable[[str], ModuleType], tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    crowds = 0
    for index in range(200):
        form, results = bench("coco_fuzz").random_set(rng)
        for annotation in form["annotations"]:
            annotation.pop("ignore", None)
        (tmp_path / "a.json").write_text(json.dumps(form))
        dataset = open_coco(annotations=tmp_path / "a.json")
        xywh = np.asarray([r["bbox"] for r in results], np.float64)
        images = {int(name): i for i, name in enumerate(dataset.image_ids)}
        found = DetectionSet(
            dataset.classes, dataset.image_ids, np.asarray([images[r["image_id"]] for r in results]),
            np.asarray([dataset.category_ids.index(r["category_id"]) for r in results]),
            np.asarray([r["score"] for r in results]), np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]),
            xywh=xywh, written=True,
        )  # fmt: skip
        tables, order = match_coco(gather(dataset), found)
        once = np.ones((1, len(dataset)), np.int32)
        mine = np.stack([resampled(level, "coco", once)[0] for level in tables])
        assert np.allclose(mine, reference(dataset.coco_form(), found), atol=1e-12, equal_nan=True), index
        scores = np.concatenate([t.scores for t in tables[0]])
        assert np.array_equal(found.scores[order], scores)
        crowds += sum(int((t.status == IGNORED).sum()) for t in tables[0])
    assert crowds > 100


@pytest.fixture
def scene() -> Truth:
    """A crowd 0..40 and two objects at 0..10 and 50..60, one image."""
    boxes = np.asarray([[0.0, 0, 40, 40], [0, 0, 10, 10], [50, 50, 60, 60]])
    zero = np.zeros(3, np.int64)
    return Truth(
        ("a",), ("1",), 0, np.full((1, 2), 100.0), zero, zero, boxes, np.zeros(3, np.bool_),
        np.asarray([True, False, False]), np.asarray([1600.0, 100, 100]),
    )  # fmt: skip


def test_crowds_come_second_and_are_never_used_up(scene: Truth) -> None:
    rows = [
        (0, 0, s, *box)
        for s, box in ((0.9, (0, 0, 10, 10)), (0.8, (0, 0, 10, 10)), (0.7, (20, 20, 30, 30)), (0.6, (80, 80, 90, 90)))
    ]
    tables, _ = match_coco(scene, make_detections(("a",), ("1",), rows))
    assert tables[0][0].status.tolist() == [TRUE, IGNORED, IGNORED, FALSE] and tables[0][0].npos == 2


def test_only_a_hundred_of_an_image_and_class_count(scene: Truth) -> None:
    rows = [(0, 0, 1 - i / 1000, 80, 80, 90, 90) for i in range(100)] + [(0, 0, 0.1, 50, 50, 60, 60)]
    tables, _ = match_coco(scene, make_detections(("a",), ("1",), rows))
    assert len(tables[0][0].status) == 100 and tables[0][0].true_positives == 0


def test_nothing_found(scene: Truth) -> None:
    tables, order = match_coco(scene, make_detections(("a",), ("1",), []))
    assert len(tables) == 10 and tables[0][0].npos == 2 and not len(order)
