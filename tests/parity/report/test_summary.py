"""Reports: what a reader needs is there, passed or failed, and JSON comes back equal."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ssdconv.errors import FormatError, MissingError
from ssdconv.parity.layers.results import (
    Boundary,
    DetectionResult,
    Gap,
    InputResult,
    ParityReport,
    ProbeResult,
    TensorResult,
    link_results,
)
from ssdconv.parity.layers.tolerance import Floor, Measurement
from ssdconv.parity.report.layers import dumps, load, markdown
from ssdconv.parity.report.summary import MOST_GROUPS, groups, verdict
from ssdconv.parity.report.terminal import show
from ssdconv.ssd_ref.evidence import LINKS as NAMED
from ssdconv.ssd_ref.evidence import Claim


def probe(source: str, ratio: float = 1.0, rms: float = 1.0, problem: str = "", reference: str = "m") -> ProbeResult:
    m = Measurement((1, 2048), 10.0, 5.0, ratio * 1e-6, rms * 1e-7, 1e-6, 1e-7, (0, 7), 1.5, 1.25, problem)
    return ProbeResult(source, reference, m, Floor(1e-6, 1e-7), problem)


NAMES = ["conv1_1", "relu1_1", "pool1", "conv2_1", "relu2_1", "fc6", "relu6", "conv4_3_norm_mbox_loc"]


SAYS = tuple(Claim(link, "source framework" if link == "architecture" else "stated", f"about {link}") for link in NAMED)
LINKS = link_results(SAYS, (), dict.fromkeys(NAMED, "compared"), {})


def report(*, bad: dict[str, ProbeResult] | None = None, **fields: object) -> ParityReport:
    probes = [probe("data", 0, 0, reference="@input")] + [(bad or {}).get(n, probe(n, 1.25)) for n in NAMES]
    probes.append(probe("mbox_priorbox", 0.5, reference="@priors"))
    found = DetectionResult(200, 200, 200, 1e-7, 2e-7, 1e-6, 1e-6)
    inputs = (InputResult("photo.jpg", tuple(probes), found), InputResult("noise, seed 0", tuple(probes), found))
    base = ParityReport(
        "ssd300_voc",
        "caffe",
        "/tmp/out.pth",
        "a" * 64,
        "/tmp/x.caffemodel",
        "b" * 64,
        "OpenCV 4.14.0",
        inputs,
        TensorResult(71),
        {"torch": "2.13.0"},
        notes=("a note",),
        links=LINKS,
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def printed(found: ParityReport, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    show(found, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


WRONG = {"fc6": probe("fc6", 30.0, 90.0), "relu6": probe("relu6", 25.0, 80.0)}


def test_a_passed_report() -> None:
    text = printed(report())
    assert "same network: 20 probes on 2 inputs" in text and "first divergent" not in text
    for part in ("ssd300_voc (caffe)", "OpenCV 4.14.0", "71 bit-identical", "200 of 200 equal", "a note", "1.25"):
        assert part in text
    assert report().worst is not None and report().first_divergent is None


def test_a_failed_report_names_the_first_divergent_layer() -> None:
    found = report(bad=WRONG)
    text = printed(found)
    assert found.first_divergent == "fc6" and not found
    assert "first divergent layer: fc6 on photo.jpg" in text and "1 more behind it differ" in text
    assert "off by 30 x the rounding floor (rms 90 x)" in text and "oracle 1.5, reference 1.25" in text
    assert "rtol 3e-06" in text and text.rstrip().endswith("first divergent layer is fc6")


@pytest.mark.parametrize("width", [60, 80, 160])
def test_it_fits_the_terminal(width: int) -> None:
    assert max(len(line) for line in printed(report(bad=WRONG), width).splitlines()) <= width


def test_detections_and_tensors_have_their_own_verdicts() -> None:
    lonely = Boundary("oracle", 7, 0.5, (0.1, 0.1, 0.2, 0.2), "nothing on the other side explains its absence", False)
    inputs = tuple(replace(i, detections=DetectionResult(200, 199, 199, one_sided=(lonely,))) for i in report().inputs)
    found = report(inputs=inputs)
    assert found.first_divergent == "detections" and "though every layer agrees" in verdict(found)
    assert "only the oracle has class 7, score 0.5" in printed(found) and "1 unexplained" in printed(found)
    excused = tuple(
        replace(i, detections=DetectionResult(200, 199, 199, one_sided=(replace(lonely, explained=True),)))
        for i in report().inputs
    )
    assert report(inputs=excused) and "1 at a decision boundary" in printed(report(inputs=excused))
    stored = report(tensors=TensorResult(71, ("a.weight: differs from a/0 by up to 1e-3",)))
    assert not stored and "stored tensors differ: a.weight" in verdict(stored) and "1 of 71 differ" in printed(stored)
    assert not report(tensors=TensorResult(0)) and not report(inputs=())
    without = tuple(replace(i, detections=None) for i in report().inputs)
    assert "ends before its detections" in printed(report(inputs=without))


def test_a_missing_probe_is_a_failure_whatever_its_numbers() -> None:
    gone = {"pool1": probe("pool1", 0, 0, problem="the oracle has no output 'pool1'")}
    found = report(bad=gone)
    assert not found and found.first_divergent == "pool1" and found.worst == gone["pool1"]
    assert "has no output 'pool1'" in printed(found) and "no other layer differs" in printed(found)


def test_groups_follow_the_stages_and_count_every_probe() -> None:
    found = groups(report(bad=WRONG))
    assert [g.name for g in found] == [
        "data",
        "conv1_1 … pool1",
        "conv2_1 … relu2_1",
        "fc6 … relu6",
        "conv4_3_norm_mbox_loc",
        "mbox_priorbox",
    ]
    assert sum(g.probes for g in found) == report().probes and [g.failed for g in found] == [0, 0, 0, 4, 0, 0]
    assert found[3].ratio == pytest.approx(30) and found[3].worst.source == "fc6"
    many = tuple(probe(f"layer{k}_x") for k in range(90))
    assert len(groups(report(inputs=(InputResult("i", many),)))) == MOST_GROUPS


def test_markdown() -> None:
    text = markdown(report(bad=WRONG))
    assert text.startswith("## Parity: FAILED") and "| `fc6 … relu6` ❌ 4 | 4 | 30.00 | 90.00 |" in text
    assert "- `fc6` on photo.jpg: off by 30 x" in text and "- versions: torch 2.13.0" in text
    full = markdown(report())
    assert full.startswith("## Parity: passed") and full.count("| `conv1_1` | 1×2048 | 1.25 | 1.00 |") == 2


def test_json_files(tmp_path: Path) -> None:
    found = report(bad=WRONG)
    path = tmp_path / "report.json"
    path.write_text(dumps(found))
    assert load(path) == found
    data = json.loads(path.read_text())
    assert data["first_divergent"] == "fc6" and data["worst_ratio"] == pytest.approx(30)
    assert [p["ok"] for p in data["inputs"][0]["probes"]].count(False) == 2
    with pytest.raises(MissingError):
        load(tmp_path / "none.json")
    path.write_text("[]")
    with pytest.raises(FormatError, match=r"report\.json"):
        load(path)


NORM = Gap("norm4", "architecture", "oracle cannot", "OpenCV has no such layer")
EMPTY = Gap("detections", "detection rule", "empty", "neither side detects anything")


def with_gaps(*gaps: tuple[Gap, ...], found: DetectionResult | None = None) -> ParityReport:
    """A passed report whose inputs have these gaps."""
    inputs = report().inputs
    return report(
        inputs=tuple(replace(i, gaps=g, detections=found or i.detections) for i, g in zip(inputs, gaps, strict=True))
    )


def test_a_part_that_no_input_compares_is_not_compared_and_neither_passed_nor_failed() -> None:
    found = with_gaps((NORM,), (NORM,))
    assert found.outcome == "not compared" and not found and not found.passed and found.gaps == (NORM,)
    text = printed(found)
    assert "not compared" in text and "norm4: OpenCV has no such layer" in text and "same network" not in text
    assert "## Parity: not compared" in markdown(found)
    data = found.to_json()
    assert data["passed"] is False and data["outcome"] == "not compared" and data["gaps"][0]["code"] == "oracle cannot"
    assert ParityReport.from_json(json.dumps(data)) == found


def test_a_difference_outweighs_what_was_not_compared() -> None:
    inputs = tuple(replace(i, gaps=(NORM,)) for i in report(bad=WRONG).inputs)
    assert report(inputs=inputs).outcome == "failed"


def test_nothing_detected_on_one_input_is_made_up_for_by_the_other() -> None:
    assert with_gaps((EMPTY,), ()).outcome == "passed" and with_gaps((EMPTY,), (EMPTY,)).gaps == (EMPTY,)
    nothing = with_gaps((EMPTY,), (EMPTY,), found=DetectionResult())
    assert nothing.outcome == "not compared" and "neither side detects anything" in printed(nothing)
    infinite = with_gaps((EMPTY,), (EMPTY,), found=DetectionResult(3, 3, overflow=True))
    assert "boxes of both sides are infinite" in printed(infinite)
