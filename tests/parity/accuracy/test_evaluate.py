"""The whole way from files to a result with verdicts, and which verdicts decide about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ssdconv.data.coco import open_coco
from ssdconv.data.records import Problems
from ssdconv.data.voc import open_voc
from ssdconv.errors import FormatError, UsageError
from ssdconv.parity.accuracy.detections import IncompleteDetectionsError, UnknownImageError
from ssdconv.parity.accuracy.evaluate import RunOptions, evaluate, verify_dataset
from ssdconv.parity.accuracy.files import DetectionsWriter, read_detections
from ssdconv.parity.accuracy.published import Outcome, Verdict, rows
from ssdconv.parity.accuracy.result import EvaluationResult, Histogram
from ssdconv.parity.accuracy.voc import PRESETS

CHAINER = "chainer/ssd300_voc"


def stored(
    dataset: str | None, root: Path | None, detections: Path, **options: Any
) -> tuple[EvaluationResult, Problems]:
    """What ``verify --detections`` finds."""
    outcome = verify_dataset(None, RunOptions(dataset, root, detections=detections, **options))
    assert outcome is not None and outcome[1] is None
    return outcome[0], outcome[2]


@pytest.mark.shared
def test_voc07_from_files(voc07_root: Path, ssd300_files: Path) -> None:
    result, problems = stored(
        "voc07", voc07_root, ssd300_files, network="pytorch/ssd_pytorch_ssd300_voc", resamples=200
    )
    assert result.convention == PRESETS["ssd.pytorch"], "the network's published convention"
    assert result.numbers["mAP"] == pytest.approx(0.70144, abs=1e-5)
    assert (result.images, result.objects, result.detections) == (4952, 14976, 57322)
    assert not result and result.outcome == "differs"
    spread = result.intervals["mAP"]
    assert spread.low < 0.70144 < spread.high and 0.015 < spread.high - spread.low < 0.035
    car = next(c for c in result.classes if c.name == "car")
    assert (car.objects, car.detections, car.true_positives) == (1201, 4784, 1078)
    assert EvaluationResult.from_json(result.to_json()) == result and len(problems) == 0


@pytest.mark.shared
def test_a_published_number_within_the_interval_is_reproduced(voc07_root: Path, yolov2_files: Path) -> None:
    result, _ = stored("voc07", voc07_root, yolov2_files, network=CHAINER, resamples=100)
    verdict = next(v for v in result.verdicts if v.counts)
    near = replace(verdict.row, value=72.4)
    from ssdconv.parity.accuracy.published import MeasuredNumber, judge

    here = MeasuredNumber(
        dataset="voc07", images=1, of_images=1, metric="mAP", value=result.numbers["mAP"],
        interval=result.intervals["mAP"], ap="11point", convention="chainercv",
    )  # fmt: skip
    assert verdict.outcome == "differs" and judge(near, here).outcome == "reproduced"


@pytest.mark.shared
def test_limit(voc07_root: Path, yolov2_files: Path) -> None:
    result, _ = stored("voc07", voc07_root, yolov2_files, network=CHAINER, limit=50, resamples=20)
    assert (result.images, result.of_images) == (50, 4952)
    assert result.outcome == "not comparable" and bool(result)
    with pytest.raises(UsageError, match="limit"):
        stored("voc07", voc07_root, yolov2_files, limit=0)


@pytest.mark.shared
def test_keep_going_counts(voc07_root: Path, yolov2_files: Path, tmp_path: Path) -> None:
    for path in yolov2_files.iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    with open(tmp_path / "comp4_det_test_dog.txt", "a") as file:
        file.write("009999 0.5 1 2 3 4\n000001 0.5 1 2 3\n")
    with pytest.raises(FormatError):
        stored("voc07", voc07_root, tmp_path)
    result, problems = stored("voc07", voc07_root, tmp_path, keep_going=True, resamples=0)
    assert result.problems == {"ColumnCountError": 1, "UnknownImageError": 1} == problems.counts
    assert result.numbers["mAP"] == 0.7213806028350517


@pytest.mark.shared
def test_coco(shared: Path) -> None:
    folder = shared / "data" / "coco_fakebbox100"
    network = "gluon/ssd_512_resnet50_v1_coco"
    dataset = open_coco(annotations=folder / "instances_val2014_100.json")
    found = read_detections(folder / "instances_val2014_fakebbox100_results.json", dataset)
    result = evaluate(dataset, found, network=network, resamples=50, train_data="COCO train2017")
    assert result.metric == "coco" and result.rule is not None and result.rule.name == "coco"
    assert result.numbers["AP"] == pytest.approx(0.5046, abs=1e-4) and set(result.intervals) == {"AP", "AP50", "AP75"}
    assert {v.why for v in result.verdicts if v.counts} == {
        "published on COCO val2017, measured on instances_val2014_100"
    }
    assert EvaluationResult.from_json(result.to_json()) == result


def test_gluoncv_rule_comes_from_the_published_protocol(tmp_path: Path, bench: Callable[[str], ModuleType]) -> None:
    truth, _ = bench("coco_fuzz").random_set(np.random.default_rng(3))
    (tmp_path / "a.json").write_text(json.dumps(truth))
    dataset = open_coco(annotations=tmp_path / "a.json", name="coco-val2017")
    with DetectionsWriter(tmp_path / "d.jsonl", dataset="x", network="y", classes=dataset.classes) as out:
        for name in dataset.image_ids:
            out.write(name, [0, 0], [0.04, 0.5], [[0, 0, 9, 9], [5, 5, 50, 60]])
    result, _ = stored(
        "coco-val2017", None, tmp_path / "d.jsonl", annotations=tmp_path / "a.json", resamples=20,
        network="gluon/ssd_512_resnet50_v1_coco",
    )  # fmt: skip
    assert result.rule is not None and result.rule.score_floor == 0.05
    assert result.detections == len(dataset)
    assert {v.outcome for v in result.verdicts if v.counts} <= {"differs", "reproduced"}, "same set, floor and metric"


@pytest.fixture
def voc_like(tmp_path: Path) -> Path:
    """VOC2007 test of two images: 000001 with a cat and a difficult cat, 000002 with a dog."""
    folder = tmp_path / "VOC2007"
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "test.txt").write_text("000001\n000002\n")
    for name, objects in (("000001", (("cat", 11, 0), ("cat", 61, 1))), ("000002", (("dog", 21, 0),))):
        body = "".join(
            f"<object><name>{n}</name><difficult>{d}</difficult><bndbox><xmin>{x}</xmin><ymin>11</ymin><xmax>{x + 19}</xmax>"
            f"<ymax>30</ymax></bndbox></object>"
            for n, x, d in objects
        )
        size = "<size><width>100</width><height>50</height></size>"
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{body}</annotation>")
    return tmp_path


def stream(root: Path, images: tuple[str, ...] = ("000001", "000002")) -> Path:
    """A stream with one exact 0-based detection of the cat, one false confident dog in 000001, an unsure false cat in 000002."""
    path = root / "detections.jsonl"
    with DetectionsWriter(path, dataset="voc07", network=CHAINER, classes=("dog", "cat")) as out:
        for name in images:
            if name == "000001":
                out.write(name, [1, 0], [0.9, 0.8], [[10, 10, 29, 29], [70, 5, 90, 40]])
            else:
                out.write(name, [1], [0.3], [[70, 5, 90, 40]])
    return path


def test_small_by_hand(voc_like: Path) -> None:
    result, _ = stored("voc07", voc_like, stream(voc_like), network=CHAINER, resamples=10)
    ap = {c.name: c.ap for c in result.classes if c.ap is not None}
    assert ap == {"cat": pytest.approx(1.0), "dog": 0.0} and result.numbers["mAP"] == pytest.approx(0.5)
    first, second = result.worst
    assert (first.image_id, first.false, first.missed, first.path) == ("000001", 1, 0, None)
    assert (second.image_id, second.false, second.missed) == ("000002", 0, 1)
    shown = {(b.status, b.label): b.box for b in first.boxes}
    assert shown["object", 7] == (10.0, 10.0, 29.0, 29.0) == shown["true", 7], "both counted from 0"
    assert shown["difficult", 7] == (60.0, 10.0, 79.0, 29.0) and ("false", 11) in shown
    assert sum(result.histogram.true) == 1 and sum(result.histogram.false) == 2
    assert next(c for c in result.curves if c.name == "cat").recall == (1.0,)


def test_boxes_are_drawn_in_the_pictures_own_pixels(voc_like: Path) -> None:
    """The kit counts from 1, on both sides; what is drawn counts from 0."""
    result, _ = stored("voc07", voc_like, stream(voc_like), convention="devkit", resamples=0)
    shown = {(b.status, b.label): b.box for b in result.worst[0].boxes}
    assert shown["object", 7] == (10.0, 10.0, 29.0, 29.0) and shown["true", 7] == (9.0, 9.0, 28.0, 28.0)


def test_interrupted_run_is_no_result(voc_like: Path) -> None:
    path = stream(voc_like, ("000001",))
    with pytest.raises(IncompleteDetectionsError):
        stored("voc07", voc_like, path)
    result, _ = stored("voc07", voc_like, path, limit=1, resamples=0)
    assert result.images == 1


def test_stranger_images(voc_like: Path) -> None:
    with DetectionsWriter(voc_like / "x.jsonl", dataset="d", network="n", classes=("cat",)) as out:
        for name in ("000001", "000002", "000003"):
            out.write(name, [0], [0.5], [[1, 1, 2, 2]])
    with pytest.raises(UnknownImageError, match="000003"):
        stored("voc07", voc_like, voc_like / "x.jsonl")


def test_usage_errors(voc_like: Path) -> None:
    path = stream(voc_like)
    dataset = open_voc(voc_like)
    found = read_detections(path, dataset)
    for options, message in (
        ({"convention_name": "devkid"}, "did you mean devkit"),
        ({"convention_name": "gluoncv"}, "input size"),
        ({"metric": "coco"}, "COCO's form"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluate(dataset, found, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="neither weights nor detections"):
        verify_dataset(None, RunOptions("voc07", voc_like))
    result = evaluate(dataset, found, convention_name="gluoncv", input_size=(300, 300), resamples=0)
    assert result.input_size == (300, 300) and result.intervals == {}


def test_no_rows_no_verdict(voc_like: Path) -> None:
    result, _ = stored("voc07", voc_like, stream(voc_like), resamples=0)
    assert result and result.outcome == "not published" and result.verdicts == ()
    assert result.convention == PRESETS["devkit"]


def test_voc_metric_on_a_coco_form_set(tmp_path: Path) -> None:
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10.0, 10.0, 20.0, 20.0], "area": 400.0, "iscrowd": 0}
    form = {
        "images": [{"id": 1, "width": 50, "height": 50}],
        "annotations": [box],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(form))
    dataset = open_coco(annotations=tmp_path / "a.json")
    with DetectionsWriter(tmp_path / "d.jsonl", dataset="x", network="y", classes=("a",)) as out:
        out.write("1", [0], [0.9], [[10, 10, 30, 30]])
    found = read_detections(tmp_path / "d.jsonl", dataset)
    for name in ("devkit", "chainercv", "ssd.pytorch", "caffe"):
        result = evaluate(dataset, found, metric="voc", convention_name=name, resamples=0)
        assert result.numbers["mAP"] == pytest.approx(1.0), name


def test_from_json_refuses_other_things() -> None:
    for text in ("", "{}", "[1]"):
        with pytest.raises(FormatError, match="not an evaluation result"):
            EvaluationResult.from_json(text)


ROW = rows(network="caffe/ssd300_voc", role="primary")[0]


def result(*verdicts: tuple[Outcome, bool]) -> EvaluationResult:
    return EvaluationResult(
        dataset="voc07", network="caffe/ssd300_voc", images=1, of_images=1, objects=0, detections=0, source="x",
        metric="voc", numbers={"mAP": None}, intervals={}, convention=None, rule=None, input_size=None, evaluator="x",
        classes=(), curves=(), histogram=Histogram((0.0, 1.0), (0,), (0,)), worst=(), shown_from=0.5,
        verdicts=tuple(Verdict(o, "", ROW, "mAP", None, None, counts) for o, counts in verdicts), problems={}, seconds=0.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("verdicts", "passed", "outcome"),
    [
        ((), True, "not published"),
        ((("differs", False),), True, "not published"),
        ((("differs", False), ("reproduced", True)), True, "reproduced"),
        ((("not comparable", True), ("reproduced", True)), True, "reproduced"),
        ((("not comparable", True),), True, "not comparable"),
        ((("reproduced", True), ("differs", True)), False, "differs"),
    ],
)
def test_only_verdicts_that_count_decide(
    verdicts: tuple[tuple[Outcome, bool], ...], passed: bool, outcome: str
) -> None:
    found = result(*verdicts)
    assert (bool(found), found.outcome) == (passed, outcome)
    assert EvaluationResult.from_json(found.to_json()) == found
