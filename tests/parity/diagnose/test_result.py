"""A diagnosis survives JSON, and reads as plain English."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from ssdconv.errors import FormatError
from ssdconv.parity.diagnose.configs import TABLE
from ssdconv.parity.diagnose.result import Agreement, Diagnosis, Trial, lines, show

FOUND = Diagnosis(
    "explained",
    "mine.pth",
    "OpenCV 4.14.0",
    "conv1_1",
    (TABLE["channel-order"].cause("conv1_1: input channels reversed", "conv1_1"), TABLE["fc6-dilation"].cause()),
    (Trial(("channel-order",), "conv1_1", 1e5, 0.2, "fc6", True),),
    Agreement("conv1_1", 70, 68, 1e5, 71, 1, 200, 3),
    Agreement(None, 70, 0, 0.3, 71, 0, 200, 200),
    12.5,
    ("a note",),
)


def test_json_round_trip() -> None:
    data = FOUND.to_json()
    assert Diagnosis.from_json(data) == FOUND == Diagnosis.from_json(json.dumps(data))
    assert data["causes"][0]["where"] == "https://github.com/amdegroot/ssd.pytorch/issues/44"


@pytest.mark.parametrize("text", ["{}", "[", '{"verdict": "maybe", "suspect": "a", "truth": "b"}', b"\xff"])
def test_what_is_no_diagnosis_is_refused(text: str | bytes) -> None:
    with pytest.raises(FormatError, match="not a diagnosis"):
        Diagnosis.from_json(text)


def test_the_text_tells_cause_reason_figures_and_fix() -> None:
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    show(FOUND, console)
    text = console.export_text()
    assert "mine.pth against OpenCV 4.14.0: the difference is explained" in text
    assert "1. RGB and BGR are exchanged in the first layer  [channel-order]" in text
    assert "2. fc6 has another dilation" in text
    assert "about 5 mAP" in text and "issues/44" in text and "to fix: convert the original file again" in text
    assert (
        "as it is          2 of 70 layers agree, 70 of 71 tensors are bit-identical, 3 of 200 detections equal" in text
    )
    assert "with this undone  70 of 70 layers agree, 71 of 71 tensors" in text and "note: a note" in text


def test_an_unexplained_difference_shows_no_undone_state() -> None:
    found = Diagnosis(
        "unexplained", "a", "b", "conv3_1", before=Agreement("conv3_1", 9, 4), after=Agreement("conv3_1", 9, 4)
    )
    text = "\n".join(line for _, line in lines(found))
    assert "no known mistake explains" in text and "starts at conv3_1" in text and "undone" not in text
