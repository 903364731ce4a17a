"""The published tables: complete, well-formed, and named in our words.
Verdicts: what is compared with what, and where the tolerance comes from.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ssdconv.errors import FormatError, UsageError
from ssdconv.parity.accuracy.bootstrap import Interval
from ssdconv.parity.accuracy.published import (
    FILE,
    ROLES,
    MeasuredNumber,
    PublishedRow,
    datasets,
    judge,
    judge_all,
    networks,
    protocol,
    rows,
    table,
)
from ssdconv.parity.accuracy.voc import PRESETS

DATA = {
    "VOC2007 test": "voc07", "VOC2012 test": "voc12-test", "COCO val2017": "coco-val2017",
    "COCO test-dev2015": "coco-test-dev2015", "COCO test-dev": "coco-test-dev",
}  # fmt: skip
SYSTEMS = {
    "caffe_ssd": "caffe/", "caffe_mobilenet_ssd": "caffe/mobilenet_ssd_voc", "gluoncv": "gluon/", "chainercv": "chainer/",
    "simple_ssd": "pytorch/simple_ssd_ssd300_voc", "ssd_pytorch": "pytorch/ssd_pytorch_ssd300_voc",
    "keras_jedol": "keras/jedol_", "keras_ssd_keras": "keras/ssd_keras_", "tf_hikapok": "tensorflow/hikapok_ssd300_vgg16_voc",
}  # fmt: skip


def metric_of(text: str) -> str:
    for start, name in (("AP@[.5", "AP"), ("AP@.5 ", "AP50"), ("AP@.75", "AP75"), ("mAP", "mAP")):
        if text.startswith(start):
            return name
    return f"AP:{text.split()[1]}"


@pytest.mark.shared
def test_complete(shared: Path) -> None:
    """Every row of the collected tables is here with its value, data set and metric, under a network of its source."""
    collected = json.loads((shared / "reference" / "published_tables.json").read_text())
    expected: Counter[tuple[str, str, float]] = Counter()
    for row in collected:
        value = float(str(row["value"]).split("-")[0])
        expected[DATA[row["test_data"]], metric_of(row["metric"]), value] += 1
    assert Counter((r.dataset, r.metric, r.value) for r in table()) == expected
    for row in collected:
        system = re.split(r"[ (]|->", row["system"])[0]
        if system not in SYSTEMS:
            continue
        value = float(str(row["value"]).split("-")[0])
        metric, dataset = metric_of(row["metric"]), DATA[row["test_data"]]
        mine = [r for r in rows(dataset=dataset, metric=metric) if r.value == value and r.network]
        assert any(r.network and r.network.startswith(SYSTEMS[system]) for r in mine), row


def test_gluoncv_rows() -> None:
    expected = {
        "ssd_300_vgg16_atrous_voc": (77.6,), "ssd_512_vgg16_atrous_voc": (79.2,), "ssd_512_resnet50_v1_voc": (80.1,),
        "ssd_512_mobilenet1.0_voc": (75.4,), "ssd_300_vgg16_atrous_coco": (25.1, 42.9, 25.8),
        "ssd_512_vgg16_atrous_coco": (28.9, 47.9, 30.6), "ssd_512_resnet50_v1_coco": (30.6, 50.0, 32.2),
        "ssd_512_mobilenet1.0_coco": (21.7, 39.2, 21.3), "ssd_300_resnet34_v1b_coco": (25.1, 41.7, 26.2),
    }  # fmt: skip
    for name, values in expected.items():
        found = rows(network=f"gluon/{name}", role="primary")
        assert tuple(r.value for r in found) == values, name
        assert {r.convention for r in found} == ({"gluoncv"} if name.endswith("voc") else {None})
        assert {r.score_floor for r in found} == ({None} if name.endswith("voc") else {0.05})


def test_hikapok_per_class() -> None:
    found = rows(network="hikapok_ssd300_vgg16_voc")
    classes = {r.metric[3:]: r.value for r in found if r.metric.startswith("AP:")}
    assert len(classes) == 20 and classes["sofa"] == 80.6 and classes["chair"] == 61.9
    mean = next(r.value for r in found if r.metric == "mAP")
    assert sum(classes.values()) / 20 == pytest.approx(mean, abs=0.005)


def test_every_row_is_sound() -> None:
    for r in table():
        assert r.role in ROLES and r.units == "%" and 0 < r.value <= 100 and r.title
        assert (r.network is None) == (r.role == "context")
        assert r.network is None or r.network.split("/")[0] in (
            "caffe",
            "gluon",
            "keras",
            "chainer",
            "tensorflow",
            "pytorch",
        )
        assert (r.ap is None) == r.dataset.startswith("coco")
        assert r.convention is None or r.convention in PRESETS
        assert r.url is None or r.url.startswith("https://")
        assert round(r.value, r.digits) == r.value, "no more decimals than the document prints"
        assert r.checked or "recalled" in r.notes or "torchvision" in r.title
    assert not re.search(r"seed|/work|shared", FILE.read_text())


def test_primary_rows_speak_about_one_protocol() -> None:
    for name in networks():
        for dataset in datasets():
            mine = rows(network=name, dataset=dataset, role="primary")
            assert len({(r.convention, r.score_floor) for r in mine}) <= 1, (name, dataset)


def test_text_and_bounds() -> None:
    ssd = rows(network="caffe/ssd300_voc", dataset="voc07", role="primary")[0]
    assert ssd.text == "77.2" and ssd.bounds == pytest.approx((0.7715, 0.7725))
    simple = rows(network="simple_ssd_ssd300_voc")[0]
    assert simple.text == "73-75" and simple.bounds == pytest.approx((0.725, 0.755))
    hikapok = rows(network="tensorflow/hikapok_ssd300_vgg16_voc", metric="mAP")[0]
    assert hikapok.text == "76.94" and hikapok.bounds == pytest.approx((0.76935, 0.76945))
    assert "high" not in ssd.to_json() and ssd.to_json()["network"] == "caffe/ssd300_voc"


def test_filters() -> None:
    assert len(rows()) == len(table()) == 200
    both = rows(network="ssd300_voc")
    assert {r.network for r in both} == {"caffe/ssd300_voc", "chainer/ssd300_voc"}
    assert rows(network="nothing") == ()
    with pytest.raises(UsageError, match="voc07"):
        rows(dataset="voc2007")


def test_protocol() -> None:
    assert protocol("gluon/ssd_512_resnet50_v1_voc", "voc07") == ("gluoncv", None)
    assert protocol("gluon/ssd_512_resnet50_v1_coco", "coco-val2017") == (None, 0.05)
    assert protocol("chainer/ssd300_voc", "voc07") == ("chainercv", None)
    assert protocol("caffe/ssd300_voc", "voc12") == (None, None) == protocol(None, "voc07")


def test_damaged_table(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"version": 1, "rows": [{}]}')
    with pytest.raises(FormatError, match=r"p\.json"):
        table(tmp_path / "p.json")


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
