"""The parity report on disk: what a reader needs is in it, the page is whole and fetches nothing, JSON comes back equal."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from ssdconv.errors import OutputError
from ssdconv.parity.diagnose.result import Agreement, Cause, Diagnosis, Trial
from ssdconv.parity.layers.results import (
    Boundary,
    ComparedTensor,
    Detection,
    DetectionResult,
    InputResult,
    ParityReport,
    ProbeResult,
    TensorResult,
)
from ssdconv.parity.layers.tolerance import Floor, Measurement
from ssdconv.parity.report.layers import (
    HEIGHT,
    TOP,
    dumps,
    error_svg,
    html_page,
    images_of,
    markdown,
    worst_rows,
    write_report,
)

LAYERS = ["data", "conv1_1", "relu1_1", "pool1", "fc6", "relu6", "mbox_loc", "mbox_conf"]
BOX = (0.1, 0.2, 0.5, 0.6)


def probe(name: str, ratio: float, problem: str = "") -> ProbeResult:
    m = Measurement((1, 8, 20, 20), 10.0, 5.0, ratio * 1e-6, ratio * 1e-7, 1e-6, 1e-7, (0, 1, 2, 3), 1.5, 1.25, problem)
    return ProbeResult(name, f"backbone.{name}", m, Floor(1e-6, 1e-7), problem)


def report(bad: dict[str, float] | None = None, **change: object) -> ParityReport:
    bad = bad or {}
    rows = tuple(probe(n, bad.get(n, 0.0 if n == "data" else 1.25)) for n in LAYERS)
    best = (Detection(1, 0.875, BOX), Detection(2, 0.5, (0.3, 0.3, 0.9, 1.4)))
    lonely = Boundary("oracle", 2, 0.5, best[1].box, "nothing on the other side explains its absence", False)
    edge = Boundary("reference", 1, 0.0100001, BOX, "score threshold", True)
    found = DetectionResult(2, 2, 1, 1e-7, 2e-7, 1e-6, 1e-6, (lonely, edge) if bad else (), "", best, best)
    inputs = (InputResult("street <1>.png", rows, found), InputResult("noise, seed 0", rows[::1], None))
    mapping = (
        ComparedTensor(
            "conv1_1/kernel", (3, 3, 3, 8), "backbone.conv1_1.weight", (8, 3, 3, 3), "transpose(3, 2, 0, 1)", True
        ),
        ComparedTensor("fc6/bias", (8,), "backbone.fc6.bias", (8,), "", not bad),
    )
    different = ("backbone.fc6.bias: differs from fc6/bias by up to 0.5",) if bad else ()
    tensors = TensorResult(2, different, mapping, {"global_step": "a counter"})
    base = ParityReport(
        "ssd300 <voc>",
        "tensorflow",
        "out.pth",
        "a" * 64,
        "x.ckpt",
        "b" * 64,
        "TensorFlow 2.15",
        inputs,
        tensors,
        {"torch": "2.13.0"},
        {"Shape": "moves values"},
        ("a note & more",),
        3.25,
        ("background", "dog", "cat"),
    )
    return replace(base, **change)  # type: ignore[arg-type]


WRONG = {"fc6": 40.0, "relu6": 35.0, "mbox_loc": 90.0}
CAUSE = Cause(
    "channel-order",
    "channels are reversed",
    "The file was read as RGB <by mistake>.",
    "https://github.com/amdegroot/ssd.pytorch/issues/44 asks",
    "weights",
    "conv1_1: input channels reversed",
    "conv1_1",
    "ssdconv torch2pt x.pth --channel-order BGR",
)
DIAGNOSIS = Diagnosis(
    "explained",
    "mine.pth",
    "x.ckpt",
    "fc6",
    (CAUSE,),
    (Trial(("stride",), "fc6", 40.0, 39.0), Trial(("channel-order",), "fc6", math.inf, 0.25, None, True)),
    Agreement("fc6", 16, 6, 11.25, 2, 1, 7, 3),
    Agreement(None, 16, 0, 0.25, 2, 0, 7, 7),
    12.5,
    ("looked at one input only",),
)


class Page(HTMLParser):
    """Tags, addresses and text; what is opened must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += re.sub(r"\s*\n\s*", "", data)

    def classes(self, tag: str) -> list[str]:
        return [a.get("class", "") for t, a in self.tags if t == tag]


def pictures(report: ParityReport, folder: Path) -> Path:
    path = folder / report.inputs[0].name
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))
    return path


@pytest.mark.parametrize("bad", [None, WRONG])
def test_the_page_is_whole_and_fetches_nothing(tmp_path: Path, bad: dict[str, float] | None) -> None:
    found = report(bad)
    images = images_of(found, [pictures(found, tmp_path)])
    page = Page(html_page(found, DIAGNOSIS if bad else None, images))
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for key in ("src", "href", "xlink:href"):
            address = attributes.get(key, "data:")
            assert address.startswith("data:image/jpeg;base64,") or tag == "a" or address == "data:"
    assert not re.search(r"url\(|@import", html_page(found))
    for part in ("ssd300 <voc>", "street <1>.png", "a" * 64, "b" * 64, "torch 2.13.0", "TensorFlow 2.15", "a note & more",
                 "conv1_1/kernel", "transpose(3, 2, 0, 1)", "global_step", "a counter", "dog 0.875", "3.2 s"):  # fmt: skip
        assert part in page.text, part
    assert ("not the same network" in page.text) == bool(bad)
    assert len([t for t, a in page.tags if t == "image"]) == 2, "the photo, once for each side"


def test_the_first_divergence_is_marked() -> None:
    page = Page(html_page(report(WRONG)))
    assert page.classes("tr").count("bad first") == 2  # in the excerpt and in the whole table
    assert page.classes("circle").count("bad first") == 2  # one per input
    assert page.classes("circle").count("bad") == 4 and page.classes("circle").count("ok") == 10
    assert page.text.count("first difference: fc6") == 2
    assert "off by 40 x the rounding floor" in page.text
    assert "fc6/bias by up to 0.5" in page.text
    for name in LAYERS:
        assert f"{name}backbone.{name}1 × 8 × 20 × 20" in page.text, name
    agreed = Page(html_page(report()))
    assert not {"bad", "bad first"} & {*agreed.classes("tr"), *agreed.classes("circle")}
    assert "16 of 16" in agreed.text and "10 of 16" in page.text


def test_the_plot_is_logarithmic() -> None:
    svg = ElementTree.fromstring(error_svg(InputResult("x", tuple(probe(f"l{k}", 10.0**k) for k in range(4)))))
    dots = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in svg.iter("circle")]
    steps = np.diff([y for _, y in dots])
    np.testing.assert_allclose(steps, steps[0], atol=0.11)
    assert steps[0] < -20 and np.ptp(np.diff([x for x, _ in dots])) < 0.2
    assert all(TOP <= y <= TOP + HEIGHT for _, y in dots)
    nothing = ElementTree.fromstring(error_svg(InputResult("x", (probe("zero", 0.0), probe("inf", math.inf)))))
    zero, infinite = (float(c.attrib["cy"]) for c in nothing.iter("circle"))
    assert zero == TOP + HEIGHT and infinite == TOP


def test_the_worst_of_all_inputs_is_listed() -> None:
    base = report()
    worse = replace(base.inputs[1], probes=tuple(probe(n, 3.0 if n == "fc6" else 0.1) for n in LAYERS))
    rows = {p.source: (p.ratio, name) for p, name in worst_rows(replace(base, inputs=(base.inputs[0], worse)))}
    assert list(rows) == LAYERS
    assert rows["fc6"] == (pytest.approx(3.0), "noise, seed 0") and rows["pool1"][1] == "street <1>.png"


def test_boxes_of_one_side_are_told_apart(tmp_path: Path) -> None:
    found = report(WRONG)
    page = Page(html_page(found, None, images_of(found, [pictures(found, tmp_path)])))
    drawn = [k for k in page.classes("rect") if k and "plate" not in k]
    assert sorted(drawn) == ["only", "same", "same", "same"]
    assert "nothing on the other side explains its absence" in page.text and "score threshold" in page.text
    assert [k for k in Page(html_page(report())).classes("rect") if k == "only"] == []


def test_pictures_that_are_gone_are_left_out(tmp_path: Path) -> None:
    found = report()
    assert images_of(found, [tmp_path / found.inputs[0].name]) == {}
    named = replace(found, inputs=(replace(found.inputs[0], name="synthetic picture, seed 3"),))
    (image,) = images_of(named).values()
    from ssdconv.parity.layers.inputs import synthetic_picture

    np.testing.assert_array_equal(image, synthetic_picture(3))


def test_the_diagnosis_has_cause_figures_and_trials() -> None:
    page = Page(html_page(report(WRONG), DIAGNOSIS))
    for part in ("the cause was found", "channels are reversed", "conv1_1: input channels reversed", "read as RGB <by mistake>",
                 "torch2pt x.pth --channel-order BGR", "6 of 16", "0 of 16", "3 of 7", "7 of 7", "2 trials in 12.5 s",
                 "looked at one input only"):  # fmt: skip
        assert part in page.text, part
    assert ("a", {"href": "https://github.com/amdegroot/ssd.pytorch/issues/44"}) in page.tags
    lost = replace(DIAGNOSIS, verdict="unexplained", causes=(), after=Agreement("fc6", 16, 6))
    text = Page(html_page(report(WRONG), lost)).text
    assert "no known mistake explains the difference" in text and "What is left starts at fc6" in text
    assert "with the causes undone" not in text


def test_markdown_for_a_pull_request() -> None:
    text = markdown(report(WRONG), DIAGNOSIS)
    for part in ("## Parity: FAILED", "### Diagnosis: the cause was found", "**channels are reversed**",
                 "| layers that differ | 6 of 16 | 0 of 16 |", "| weights | `" + "a" * 64, "`fc6` ❌", "1.25"):  # fmt: skip
        assert part in text, part
    assert text.count("| `fc6` ❌ |") == 2 and text.count("<details>") == text.count("</details>") == 1
    assert "Diagnosis" not in markdown(report())
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1, block


def test_json_comes_back_equal() -> None:
    found = report(WRONG)
    data = json.loads(dumps(found, DIAGNOSIS))
    assert ParityReport.from_json(data) == found
    again = Diagnosis.from_json(data["diagnosis"])
    assert again.causes == DIAGNOSIS.causes and again.after == DIAGNOSIS.after
    assert again.trials[1].excess_before == 1e308, "JSON has no infinity"
    assert json.loads(dumps(found))["diagnosis"] is None


def test_three_files_replace_older_ones(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    first = write_report(target, report(WRONG))
    second = write_report(target, report())
    assert first == second == [target / f"parity.{end}" for end in ("html", "md", "json")]
    assert sorted(p.name for p in target.iterdir()) == ["parity.html", "parity.json", "parity.md"]
    assert "passed" in (target / "parity.md").read_text() and "not the same" not in (target / "parity.html").read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_report(tmp_path / "file", report())
