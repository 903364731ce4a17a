"""The reports of an evaluation: complete, escaped, and self-contained."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from rich.console import Console

from ssdconv.errors import OutputError
from ssdconv.parity.accuracy.bootstrap import Interval
from ssdconv.parity.accuracy.published import MeasuredNumber, judge_all, rows
from ssdconv.parity.accuracy.result import ClassScore, Curve, EvaluationResult, Histogram, Shown, WorstImage
from ssdconv.parity.accuracy.voc import PRESETS
from ssdconv.parity.report.accuracy import html_page, markdown, write_report
from ssdconv.parity.report.terminal import overview, show_evaluation

NETWORK = "tensorflow/hikapok_ssd300_vgg16_voc"
EVIL = "<script>alert('x')</script>|"


@pytest.fixture
def result(tmp_path: Path) -> EvaluationResult:
    image = tmp_path / "photo.jpg"
    cv2.imwrite(str(image), np.full((60, 900, 3), 120, np.uint8))
    classes = (
        ClassScore("car", 0.8, Interval(0.78, 0.84), 1201, 4784, 1078),
        ClassScore(EVIL, None, None, 0, 3, 0),
    )
    common = {"dataset": "voc07", "images": 4952, "of_images": 4952, "ap": "11point", "convention": "devkit"}
    measured = (
        MeasuredNumber(metric="mAP", value=0.765, interval=Interval(0.76, 0.77), **common),  # type: ignore[arg-type]
        MeasuredNumber(metric="AP:car", value=0.8, interval=Interval(0.78, 0.84), **common),  # type: ignore[arg-type]
    )
    boxes = (
        Shown(0, (10, 5, 50, 40), "object"),
        Shown(0, (12, 5, 50, 40), "true", 0.93),
        Shown(1, (0, 0, 9, 9), "false", 0.7),
    )
    return EvaluationResult(
        dataset="voc07", network=NETWORK, images=4952, of_images=4952, objects=12032, detections=57322, source=EVIL,
        metric="voc", numbers={"mAP": 0.765}, intervals={"mAP": Interval(0.76, 0.77, resamples=1000)},
        convention=PRESETS["devkit"], rule=None, input_size=None, evaluator="ssdconv", classes=classes,
        curves=(Curve("car", (0.1, 0.5, 0.9), (1.0, 0.9, 0.4)), Curve(EVIL, (), ())),
        histogram=Histogram((0.0, 0.5, 1.0), (3, 40), (900, 0)),
        worst=(WorstImage("000001", str(image), 900, 60, 1, 2, boxes), WorstImage("000002", None, 9, 9, 0, 1, ())),
        shown_from=0.5, verdicts=judge_all(rows(NETWORK), measured), problems={"ZeroBoxError": 3}, seconds=0.05,
    )  # fmt: skip


def text_of(result: EvaluationResult, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width)
    show_evaluation(result, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_terminal(result: EvaluationResult) -> None:
    text = text_of(result, 120)
    for part in (NETWORK, "VOC2007 test, 4,952 images", "76.50", "76.00–77.00", "76.94", "reproduced", "README of SSD.TensorFlow",
                 "80.00", "78.0–84.0", "82.7", "−2.70", "3 x ZeroBoxError", "convention devkit"):  # fmt: skip
        assert part in text, part
    assert max(map(len, text_of(result).splitlines())) <= 80


def test_a_difference_is_shown_where_the_verdict_is_not_true(result: EvaluationResult) -> None:
    wrong = replace(result, verdicts=tuple(replace(v, outcome="differs") for v in result.verdicts))
    assert not wrong
    assert "82.7" in text_of(wrong, 120) and "82.7" in markdown(wrong) and "82.7" in html_page(wrong)
    console = Console(file=StringIO(), width=140)
    console.print(overview([wrong, replace(result, network=None, verdicts=())]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "76.94" in text and "differs" in text and "not published" in text


def test_markdown(result: EvaluationResult) -> None:
    text = markdown(result)
    assert "| mAP | 76.50 | 76.00–77.00 |" in text and "verdict: **reproduced**" in text
    assert "| car | 80.00 | 78.0–84.0 | 1201 | 4784 | 1078 | 82.7 | −2.70 |" in text
    for line in text.splitlines():
        if line.startswith("|") and "---" not in line and "SSD.TensorFlow" not in line:
            assert line.replace("\\|", "").count("|") in (4, 6, 9), line


class Page(HTMLParser):
    """Collects tags and addresses, and checks that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("href", "src", "xlink:href") and tag != "a"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()


def test_html_is_well_formed_and_self_contained(result: EvaluationResult) -> None:
    text = html_page(result)
    page = Page(text)
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    assert page.addresses and all(a.startswith("data:image/jpeg;base64,") for a in page.addresses)
    assert "url(" not in text and "@import" not in text
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)


def test_html_shows_everything(result: EvaluationResult) -> None:
    text = html_page(result)
    for part in ("76.50", "76.00–77.00", "76.94", "reproduced", "82.7", "−2.70", "car 0.93", "000001", "ZeroBoxError",
                 "1 false, 2 missed", "https://github.com/HiKapok/SSD.TensorFlow", "no objects"):  # fmt: skip
        assert part in text, part
    assert EVIL not in text and "&lt;script&gt;" in text
    assert text.count('<figure class="curve">') == 1, "no curve for a class without objects"


def test_pictures_are_reduced_and_decodable(result: EvaluationResult) -> None:
    import base64

    data = re.search(r"base64,([^\"]+)", html_page(result))
    assert data
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data[1]), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and image.shape[1] == 460


def test_without_images_the_worst_are_listed(result: EvaluationResult) -> None:
    bare = replace(result, worst=tuple(replace(w, path=None) for w in result.worst))
    text = html_page(bare)
    Page(text)
    assert "not on this machine" in text and "<td>000002</td>" in text


def test_nothing_measured(result: EvaluationResult) -> None:
    empty = replace(
        result, numbers={"mAP": None}, intervals={}, verdicts=(), worst=(), network=None, problems={},
        histogram=Histogram((0.0, 1.0), (0,), (0,)),
    )  # fmt: skip
    Page(html_page(empty))
    assert "not measured" in html_page(empty) and "not measured" in markdown(empty) and "not measured" in text_of(empty)


def test_files(result: EvaluationResult, tmp_path: Path) -> None:
    written = write_report(result, tmp_path / "a" / "b")
    assert set(written) == {"json", "md", "html"} and all(p.is_file() for p in written.values())
    assert EvaluationResult.from_json(written["json"].read_text()) == result
    assert len(list((tmp_path / "a" / "b").iterdir())) == 3
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(result, tmp_path / "file" / "x")
