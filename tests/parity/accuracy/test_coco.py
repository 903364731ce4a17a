"""COCO's twelve numbers: hotcoco against pycocotools bit for bit, and against numbers that COCO's authors published.; our
matching gives pycocotools' AP at every threshold and category.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ssdconv.data.coco import open_coco
from ssdconv.errors import MissingError, UsageError
from ssdconv.parity.accuracy import coco
from ssdconv.parity.accuracy.bootstrap import resampled
from ssdconv.parity.accuracy.coco import COCO_RULES, EVALUATORS, NUMBERS, CocoRule, evaluate_coco, match_coco, prepared
from ssdconv.parity.accuracy.detections import DetectionSet, Truth, gather, make_detections
from ssdconv.parity.accuracy.files import read_coco_results
from ssdconv.parity.accuracy.matching import FALSE, IGNORED, TRUE

FAKE = (0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564)
"""From cocoapi's own results/val2014_fake_eval_res.txt."""


@pytest.mark.shared
@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_known_twelve_numbers(shared: Path, evaluator: str) -> None:
    folder = shared / "data" / "coco_fakebbox100"
    dataset = open_coco(annotations=folder / "instances_val2014_100.json")
    found = read_coco_results(
        folder / "instances_val2014_fakebbox100_results.json", dataset.classes, dataset.category_ids
    )
    scores = evaluate_coco(dataset.coco_form(), found.aligned(dataset.image_ids, dataset.classes), evaluator=evaluator)
    assert tuple(scores.numbers) == NUMBERS
    assert tuple(round(v, 3) for v in scores.numbers.values()) == FAKE
    assert scores.evaluator.startswith(evaluator)


def columns(truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[dict[str, Any], DetectionSet]:
    """A random set of the benchmark as ours: the form without ``ignore`` (we do not read it), and columns."""
    form = {**truth, "annotations": [{k: v for k, v in a.items() if k != "ignore"} for a in truth["annotations"]]}
    images = {i["id"]: n for n, i in enumerate(form["images"])}
    labels = {c["id"]: n for n, c in enumerate(form["categories"])}
    xywh = np.asarray([r["bbox"] for r in results], np.float64).reshape(-1, 4)
    return form, DetectionSet(
        tuple(c["name"] for c in form["categories"]), tuple(map(str, images)),
        np.asarray([images[r["image_id"]] for r in results], np.int64),
        np.asarray([labels[r["category_id"]] for r in results], np.int64),
        np.asarray([r["score"] for r in results], np.float64), np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]),
        xywh=xywh, written=True,
    )  # fmt: skip


def compare(fuzz: ModuleType, sets: int, seed: int) -> float:
    """Share of sets in which something was found and something missed."""
    rng = np.random.default_rng(seed)
    told = 0
    for index in range(sets):
        form, found = columns(*fuzz.random_set(rng))
        fast = evaluate_coco(form, found, evaluator="hotcoco")
        slow = evaluate_coco(form, found, evaluator="pycocotools")
        assert np.array_equal(fast.precision, slow.precision), index
        assert np.array_equal(fast.recall, slow.recall), index
        for mine, theirs in ((fast.numbers, slow.numbers), (fast.ap, slow.ap)):
            assert str(mine) == str(theirs), index
        told += 0.0 < slow.numbers["AP"] < 1.0
    return told / sets


def test_hotcoco_equals_pycocotools(bench: Callable[[str], ModuleType]) -> None:
    assert compare(bench("coco_fuzz"), 300, 11) > 0.3


@pytest.mark.slow
def test_hotcoco_equals_pycocotools_on_many_sets(bench: Callable[[str], ModuleType]) -> None:
    assert compare(bench("coco_fuzz"), 10_000, 12) > 0.3


def test_the_fuzz_notices_a_difference(bench: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = coco.results_array

    def disturbed(*arguments: Any) -> np.ndarray:
        result = rows(*arguments)
        result[:, 5] = np.round(result[:, 5], 1)
        return result

    library = coco._library

    def per_library(evaluator: str) -> Any:
        monkeypatch.setattr(coco, "results_array", disturbed if evaluator == "hotcoco" else rows)
        return library(evaluator)

    monkeypatch.setattr(coco, "_library", per_library)
    with pytest.raises(AssertionError):
        compare(bench("coco_fuzz"), 50, 11)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_nothing_found_and_nothing_to_find(evaluator: str) -> None:
    box = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0.0, 0.0, 9.0, 9.0], "area": 81.0, "iscrowd": 0}
    form = {
        "images": [{"id": 1, "width": 9, "height": 9}],
        "annotations": [box],
        "categories": [{"id": 3, "name": "a"}, {"id": 5, "name": "b"}],
    }
    none = make_detections(("a", "b"), ("1",), [])
    scores = evaluate_coco(form, none, evaluator=evaluator)
    assert scores.numbers["AP"] == 0.0 and scores.ap[0] == 0.0
    assert np.isnan(scores.numbers["AP_large"]) and np.isnan(scores.ap[1])
    exact = make_detections(("a", "b"), ("1",), [(0, 0, 0.5, 0, 0, 9, 9)])
    assert evaluate_coco(form, exact, evaluator=evaluator).numbers["AP"] == pytest.approx(1.0)
    assert np.isnan(evaluate_coco({**form, "annotations": []}, exact, evaluator=evaluator).numbers["AP"])


def test_rule_of_gluoncv() -> None:
    rows = [(0, 0, s, 1.0, 2.0, 11.0, 22.0) for s in (0.04, 0.05, 0.9)] + [(1, 0, 0.5, 0.0, 0.0, 1.0, 1.0)]
    found = prepared(make_detections(("a",), ("1", "2"), rows), COCO_RULES["gluoncv"])
    assert found.scores.tolist() == [0.05, 0.9, 0.5]
    assert found.xywh is not None and found.xywh[0].tolist() == [1.0, 2.0, 11.0, 21.0]
    again = prepared(found, COCO_RULES["gluoncv"])
    assert again.xywh is not None and np.array_equal(again.xywh, found.xywh)


def test_best_of_an_image_over_all_classes() -> None:
    rows = [
        (i, k, s, 0.0, 0.0, 1.0, 1.0) for i, k, s in ((0, 0, 0.1), (0, 1, 0.3), (1, 0, 0.2), (0, 0, 0.3), (0, 1, 0.2))
    ]
    found = prepared(make_detections(("a", "b"), ("1", "2"), rows), CocoRule(per_image=2))
    assert list(zip(found.image.tolist(), found.scores.tolist(), strict=True)) == [(0, 0.3), (1, 0.2), (0, 0.3)]


def test_unknown_and_absent_evaluators(monkeypatch: pytest.MonkeyPatch) -> None:
    none = make_detections(("a",), ("1",), [])
    form = {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    with pytest.raises(UsageError, match="hotcoco, pycocotools"):
        evaluate_coco(form, none, evaluator="fastcoco")
    monkeypatch.setitem(__import__("sys").modules, "hotcoco", None)
    with pytest.raises(MissingError, match=r"ssdconv\[coco\]"):
        evaluate_coco(form, none)


def test_the_pin_is_what_was_proven() -> None:
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert '"hotcoco==1.3.0"' in text and "hotcoco 1.3.0" in (coco.__doc__ or "")


@pytest.mark.shared
def test_a_results_file_reaches_the_evaluator_as_it_is(shared: Path) -> None:
    folder = shared / "data" / "coco_fakebbox100"
    source = folder / "instances_val2014_fakebbox100_results.json"
    dataset = open_coco(annotations=folder / "instances_val2014_100.json")
    found = read_coco_results(source, dataset.classes, dataset.category_ids)
    rows = coco.results_array(found, list(map(int, found.image_ids)), dataset.category_ids)
    assert coco._dictionaries(rows) == json.loads(source.read_text())


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
