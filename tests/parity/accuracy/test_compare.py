"""Two sides on the same images: equal to separate evaluations, symmetric, and sure only where there is reason to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssdconv.data.coco import open_coco
from ssdconv.data.records import Dataset
from ssdconv.data.voc import open_voc
from ssdconv.errors import UsageError
from ssdconv.parity.accuracy.bootstrap import draw, interval, means, resampled
from ssdconv.parity.accuracy.compare import Side, compare, is_checkpoint
from ssdconv.parity.accuracy.detections import DetectionSet, gather
from ssdconv.parity.accuracy.evaluate import evaluate
from ssdconv.parity.accuracy.files import read_detections
from ssdconv.parity.accuracy.voc import convention, evaluate_voc
from ssdconv.parity.report.accuracy import comparison_headline, comparison_markdown, comparison_rows

Real = tuple[Dataset, DetectionSet, DetectionSet]


@pytest.fixture(scope="module")
def real(voc07_root: Path, yolov2_files: Path, ssd300_files: Path) -> Real:
    """A tenth of VOC2007 test with the detections of two real networks."""
    whole = open_voc(voc07_root)
    part = whole.take(whole.image_ids[::10])
    sides = []
    for path in (yolov2_files, ssd300_files):
        found = read_detections(path, whole)
        keep = np.isin(np.asarray(found.image_ids), part.image_ids)
        sides.append(found.select(keep[found.image]))
    return part, sides[0], sides[1]


@pytest.mark.shared
def test_both_numbers_are_those_of_separate_evaluations(real: Real) -> None:
    data, yolo, ssd = real
    result = compare(data, Side("yolo", yolo), Side("ssd", ssd), resamples=200)
    for found, values in ((yolo, [c.a for c in result.classes]), (ssd, [c.b for c in result.classes])):
        alone = evaluate(data, found, convention_name="devkit", resamples=0)
        assert values == pytest.approx([c.ap for c in alone.classes], abs=1e-12)
        assert [c.objects for c in result.classes] == [c.objects for c in alone.classes]
    assert result.mean.difference == pytest.approx(
        np.mean([c.difference for c in result.classes if c.difference is not None])
    )


@pytest.mark.shared
def test_both_sides_are_resampled_with_the_same_draws(real: Real) -> None:
    data, yolo, ssd = real
    result = compare(data, Side("yolo", yolo), Side("ssd", ssd), resamples=200, seed=3)
    truth, rule = gather(data), convention("devkit")
    tables = [
        evaluate_voc(truth, d.aligned(truth.image_ids, truth.classes, None), rule, None).tables for d in (yolo, ssd)
    ]
    draws = draw(len(tables[0][0].positives), 200, 3)
    gap = np.subtract(*(means(resampled(side, rule.ap, draws)) for side in reversed(tables)))
    wanted = interval(gap, result.mean.difference, 3)
    assert wanted is not None
    assert result.mean.interval is not None
    assert (result.mean.interval.low, result.mean.interval.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert result.mean.share_better == np.mean(np.sign(gap) + 1) / 2
    width = result.mean.interval.high - result.mean.interval.low
    assert result.mean.a_interval is not None
    assert width < 2 * (result.mean.a_interval.high - result.mean.a_interval.low)


@pytest.mark.shared
def test_swapped_sides_swap_the_sign(real: Real) -> None:
    data, yolo, ssd = real
    there = compare(data, Side("a", yolo), Side("b", ssd), resamples=0)
    back = compare(data, Side("b", ssd), Side("a", yolo), resamples=0)
    assert there.mean.difference is not None
    assert back.mean.difference == -there.mean.difference
    assert there.mean.interval is None
    assert there.mean.outcome == "no difference shown"


@pytest.mark.shared
def test_nothing_is_claimed_of_equal_sides_and_the_better_one_is_found(real: Real) -> None:
    data, yolo, _ = real
    same = compare(data, Side("a", yolo), Side("b", yolo), resamples=100)
    assert same.mean.difference == 0.0
    assert same.mean.share_better == 0.5
    assert same.mean.outcome == "no difference shown"
    shifted = Side("b", replace(yolo, boxes=yolo.boxes + 12.0))
    worse = compare(data, Side("a", yolo), shifted, resamples=100)
    assert worse.mean.outcome == "A is better"
    assert compare(data, shifted, Side("a", yolo), resamples=100).mean.outcome == "B is better"
    assert "A is better" in comparison_headline(worse)
    text = comparison_markdown(worse)
    assert text.count("\n| ") == 23, "head, rule, 20 classes, mean"
    assert all(f"| {name} |" in text for name in (*data.classes, "mAP"))
    assert comparison_rows(worse)[-1][4].startswith("−")


@pytest.mark.shared
def test_coco(shared: Path) -> None:
    folder = shared / "data/coco_fakebbox100"
    truth_file, results = folder / "instances_val2014_100.json", folder / "instances_val2014_fakebbox100_results.json"
    data = open_coco(annotations=truth_file)
    keep = set(data.image_ids)
    found = read_detections(results, data)
    here = np.asarray([name in keep for name in found.image_ids])
    found = found.select(here[found.image])
    fewer = found.select(found.scores > np.median(found.scores))
    result = compare(data, Side("all", found), Side("half", fewer), resamples=20)
    alone = evaluate(data, found, resamples=0)
    assert result.mean.name == "AP"
    assert result.mean.a == pytest.approx(alone.numbers["AP"], abs=1e-9)
    assert result.mean.difference is not None
    assert result.mean.difference < 0
    with pytest.raises(UsageError, match="COCO rule"):
        compare(data, Side("a", found), Side("b", found), coco_rule="x")
    with pytest.raises(UsageError, match="resamples"):
        compare(data, Side("a", found), Side("b", found), resamples=-1)


def test_what_counts_as_a_network(tmp_path: Path) -> None:
    assert is_checkpoint(Path("runs/best.pth"))
    assert is_checkpoint(Path("x.safetensors"))
    assert not is_checkpoint(Path("results.json"))
    assert not is_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert is_checkpoint(tmp_path)
