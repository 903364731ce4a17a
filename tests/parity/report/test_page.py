"""The templates: every file is used, nothing a stranger wrote becomes markup, and a misspelt name is an error."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import jinja2
import numpy as np
import pytest

from ssdconv.errors import OutputError
from ssdconv.parity.report.page import TEMPLATES, data_url, drawn, environment, figure, write_files

HOSTILE = "</style><script>alert(1)</script> \"' onload=x {{ 7 * 7 }} \x1b[2J\u202e"


def test_every_template_parses_and_is_used() -> None:
    names = {path.name for path in TEMPLATES.iterdir()}
    named = set(re.findall(r'"([\w.]+\.(?:j2|css))"', "".join(p.read_text() for p in TEMPLATES.parent.glob("*.py"))))
    for name in names:
        environment().get_template(name)
        named |= set(re.findall(r'"([\w.]+\.(?:j2|css))"', (TEMPLATES / name).read_text()))
    assert names == named


@pytest.mark.parametrize(
    "text", ["{{ name }}", '<a title="{{ name }}">', "{{ name | upper }}", "{% set x = name %}{{ x ~ 1 }}"]
)
def test_whatever_is_printed_is_escaped(text: str) -> None:
    shown = environment().from_string(text).render(name=HOSTILE)
    assert not re.search(r"<(script|/style)", shown, re.IGNORECASE) and shown.count('"') == text.count('"')
    assert "\x1b" not in shown and "\u202e" not in shown and "49" not in shown


def test_a_misspelt_name_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        environment().from_string("{{ nmae }}").render(name="x")


def test_plates_stay_inside_of_the_image() -> None:
    for box in ((-5.0, -5.0, 20.0, 20.0), (90.0, 70.0, 130.0, 95.0)):
        plate = drawn(box, "true", "t", "a dog 0.9", (120.0, 90.0), 9.0)
        assert plate.left >= 0 and plate.left + plate.wide <= 120
        assert plate.base - 1.2 * plate.size >= 0 and plate.base <= 90
    assert drawn((5, 5, 1, 1), "x", "t", None, (9, 9), 1.0).width == 0


def test_photos_are_reduced_by_width_only() -> None:
    import base64

    for size, wanted in (((40, 30), (40, 30)), ((100, 1040), (50, 520))):
        data = base64.b64decode(data_url(np.zeros((*size, 3), np.uint8)).split(",")[1])
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None and image.shape[:2] == wanted


def test_figures() -> None:
    assert [figure(v) for v in (1.0, 9999.0, 10_000.0)] == ["1.00", "9,999.00", "1.0e+04"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/x"):
        write_files(tmp_path / "file" / "x", "report", {"md": ""})
    assert write_files(tmp_path / "new", "report", {"md": "a"}) == {"md": tmp_path / "new" / "report.md"}
