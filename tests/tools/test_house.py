"""The picture of the house in CONTRIBUTING.md is the one that the imports make, and follows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssdconv.tools import house


def test_the_picture_is_current() -> None:
    _, old, _ = house.held(house.PAGE.read_text(encoding="utf-8"))
    assert house.alike(old, house.picture()), "run: python tools/house.py"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A house of four rooms: cli -> parity/a -> parity -> ssd_ref, and cli -> ssd_ref, which follows."""
    files = {
        "cli.py": "from ssdconv.parity.a import x\nfrom ssdconv.ssd_ref import y\n",
        "errors.py": "",
        "parity/__init__.py": '"""Proof. More."""\nfrom ssdconv.errors import E\n',
        "parity/core.py": "def f():\n    import ssdconv.ssd_ref.net\n",
        "parity/a/__init__.py": "from ssdconv.parity import core\n",
        "parity/a/workers/w.py": "from ssdconv.cli import main\n",
        "ssd_ref/__init__.py": "",
        "tests/__init__.py": "from ssdconv.cli import main\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_arrows_are_the_imports(small: Path) -> None:
    wanted = {
        "cli": {"parity/a", "ssd_ref"},
        "parity/a": {"parity"},
        "parity": {"ssd_ref"},
        "ssd_ref": set(),
        "errors": set(),
    }
    assert house.arrows(small) == wanted


def test_arrows_that_follow_from_others_are_not_drawn(small: Path) -> None:
    graph = {room: targets for room, targets in house.arrows(small).items() if room != "errors"}
    assert set(house.drawn(graph)) == {("cli", "parity/a"), ("parity/a", "parity"), ("parity", "ssd_ref")}


def test_rooms_that_point_to_each_other_stand_for_one() -> None:
    graph = {"top": {"a", "low"}, "a": {"b"}, "b": {"a", "low"}, "low": set()}
    assert set(house.drawn(graph)) == {("top", "a"), ("a", "b"), ("b", "a"), ("b", "low")}


def test_another_arrow_or_room_is_another_picture_and_a_few_lines_are_not(small: Path) -> None:
    before = house.picture(small)
    assert "parity --> ssd_ref" in before and "| `parity` | Proof | 2 | 4 | `ssd_ref` |" in before
    (small / "parity/core.py").write_text("def f():\n    import ssdconv.ssd_ref.net\n\n")
    assert house.picture(small) != before and house.alike(before, house.picture(small))
    (small / "parity/core.py").write_text("import json\n" * 9 + "import ssdconv.ssd_ref\n")
    assert not house.alike(before, house.picture(small)), "far more lines"
    (small / "parity/core.py").write_text("from ssdconv.cli import main\n" * 2)
    assert not house.alike(before, house.picture(small))


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(SystemExit, match="no markers"):
        house.held("# Contributing\n")
