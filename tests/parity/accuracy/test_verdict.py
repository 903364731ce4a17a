"""Verdicts: what is compared with what, and where the tolerance comes from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ssdconv.parity.accuracy.bootstrap import Interval
from ssdconv.parity.accuracy.published import MeasuredNumber, PublishedRow, judge, judge_all, rows

ROW = rows(network="chainer/ssd300_voc", role="primary")[0]  # 77.8, chainercv, 11 points
HERE = MeasuredNumber(
    dataset="voc07", images=4952, of_images=4952, metric="mAP", value=0.775, interval=Interval(0.77, 0.779, resamples=9),
    ap="11point", convention="chainercv",
)  # fmt: skip


def test_reproduced() -> None:
    verdict = judge(ROW, HERE)
    assert verdict and verdict.outcome == "reproduced" and verdict.difference == pytest.approx(-0.3)
    assert "77.00-77.90" in verdict.why and "77.75-77.85" in verdict.why


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.70, 0.7774, "differs"), (0.70, 0.7776, "reproduced"),  # half a unit below 77.8 is 77.75
        (0.7784, 0.80, "reproduced"), (0.7786, 0.80, "differs"),
    ],
)  # fmt: skip
def test_tolerance_is_interval_and_rounding(low: float, high: float, outcome: str) -> None:
    assert judge(ROW, replace(HERE, interval=Interval(low, high))).outcome == outcome


def test_digits_set_the_rounding() -> None:
    near = replace(HERE, interval=Interval(0.70, 0.7774))
    for digits, outcome in ((0, "reproduced"), (1, "differs"), (2, "differs")):  # "78" may be anything from 77.5
        assert judge(replace(ROW, value=78.0, digits=digits), near).outcome == outcome
    below = replace(HERE, interval=Interval(0.70, 0.7749))
    assert judge(replace(ROW, value=78.0, digits=0), below).outcome == "differs"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dataset": "voc12"}, "published on VOC2007 test, measured on VOC2012 val"),
        ({"images": 100}, "100 of 4952 images"),
        ({"ap": "area"}, "published 11point AP, measured area AP"),
        ({"convention": "devkit"}, "convention chainercv, measured under devkit"),
        ({"value": None}, "nothing was to be found"),
        ({"interval": None}, "uncertainty was not measured"),
    ],
)
def test_not_comparable(change: dict[str, object], why: str) -> None:
    verdict = judge(ROW, replace(HERE, **change))  # type: ignore[arg-type]
    assert verdict.outcome == "not comparable" and why in verdict.why and not verdict


def test_score_floor() -> None:
    row = rows(network="gluon/ssd_512_resnet50_v1_coco", metric="AP", role="primary")[0]
    here = MeasuredNumber(
        dataset="coco-val2017", images=1, of_images=1, metric="AP", value=0.306, interval=Interval(0.3, 0.31)
    )
    assert "without detections under 0.05" in judge(row, here).why
    assert judge(row, replace(here, score_floor=0.05)).outcome == "reproduced"


def test_test_dev_is_not_val2017() -> None:
    row = rows(network="caffe/ssd300_coco", metric="AP", role="primary")[0]
    here = MeasuredNumber(
        dataset="coco-val2017", images=1, of_images=1, metric="AP", value=0.251, interval=Interval(0.2, 0.3)
    )
    assert judge(row, here).why == "published on COCO test-dev2015, measured on COCO val2017"


def test_unknown_convention_is_said() -> None:
    row = rows(network="simple_ssd_ssd300_voc")[0]
    verdict = judge(row, replace(HERE, convention="devkit", value=0.74, interval=Interval(0.73, 0.75)))
    assert verdict.outcome == "reproduced" and verdict.difference == 0.0 and "unknown" in verdict.why
    assert judge(row, replace(HERE, value=0.77)).difference == pytest.approx(2.0), "distance to the nearer end"


def of(network: str, train_data: str | None = None) -> dict[tuple[str, str], tuple[str, bool]]:
    here = replace(HERE, convention="caffe")
    found = judge_all(rows(network=network, dataset="voc07"), (here,), train_data)
    return {(v.row.text, v.row.weights): (v.outcome, v.counts) for v in found}


def test_released_weights_are_held_against_primary_rows_only() -> None:
    found = of("caffe/ssd300_voc")
    assert found["77.2", "released"] == ("reproduced", True)
    assert found["81.2", "released"] == ("not comparable", False), "other training data"
    assert ("77.2", "quoted") not in found and found["77.5", "released"][1] is False


def test_training_data_choose_the_rows() -> None:
    found = of("caffe/ssd300_voc", "07+12+COCO")
    assert found["81.2", "released"] == ("differs", True)
    assert found["77.2", "released"] == ("not comparable", False)


def test_context_is_never_judged() -> None:
    context: tuple[PublishedRow, ...] = rows(role="context")
    assert judge_all(context, (replace(HERE, metric="mAP"), replace(HERE, metric="AP"))) == ()
