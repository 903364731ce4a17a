"""Which verdicts decide about a result as a whole."""

from __future__ import annotations

import pytest

from ssdconv.parity.accuracy.published import Outcome, Verdict, rows
from ssdconv.parity.accuracy.result import EvaluationResult, Histogram

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
