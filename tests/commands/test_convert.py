"""``<source>2pt``, ``pt2<source>`` and ``convert``: the verbs follow the registry, and the files follow the verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ssdconv
from ssdconv import cli
from ssdconv.commands import convert
from ssdconv.converters import convert as converting
from ssdconv.converters.registry import SOURCES
from ssdconv.errors import FormatError

pytestmark = pytest.mark.shared


def test_every_source_has_both_verbs() -> None:
    assert {v for s in SOURCES.values() for v in (s.verb, s.reverse)} <= set(cli.verbs())
    for source in SOURCES.values():
        assert set(source.options) <= set(convert.OPTIONS)


def test_forward_and_back_give_the_same_tensors(
    converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    back, again = tmp_path / "back.caffemodel", tmp_path / "again.safetensors"
    assert cli.main(["pt2caffe", str(converted.checkpoint), str(back)]) == 0
    out = capsys.readouterr().out
    assert f"wrote {back}" in out
    assert cli.main(["caffe2pt", str(back), str(again), "--prototxt", str(back.with_suffix(".prototxt"))]) == 0
    assert f"wrote {again}" in capsys.readouterr().out
    first, second = (ssdconv.load(path).state_dict() for path in (converted.checkpoint, again))
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


def test_json_is_the_whole_report(converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.pth"
    arguments = ["caffe2pt", str(converted.source), str(target), "--format", "both", "--json"]
    assert cli.main(arguments) == 0
    out, _ = capsys.readouterr()
    report = json.loads(out)
    assert report["sha256"] == "2a56a11a57a4a295956b0660b4a3d76bbdca2206c4961cea8efe7d95c7cb2f2d"
    assert report["outputs"] == [str(target), str(target.with_suffix(".safetensors"))]
    assert all(Path(path).is_file() for path in report["outputs"])
    assert len(report["tensors"]) == 104


def test_text_has_totals_and_warnings_on_stderr(
    converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["caffe2pt", str(converted.source), str(tmp_path / "o.pth"), "--prototxt", str(converted.prototxt)]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    total = next(line.split() for line in out.splitlines() if line.startswith("total"))
    assert total == ["total", "104", "2,662,666"]
    assert "warning: " in err
    assert "warning" not in out


@pytest.mark.parametrize(("verb", "source"), [("caffe2pt", "caffe"), ("convert", None)])
def test_wishes_reach_the_converter(
    verb: str, source: str | None, converted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def convert(*args: Any, **wishes: Any) -> None:
        seen.update(wishes, args=args)
        raise FormatError("enough")

    monkeypatch.setattr(converting, "convert", convert)
    wishes = ["--network", "ssd300_voc", "--num-classes", "7", "--prototxt", str(converted.prototxt)]
    assert cli.main([verb, str(converted.source), "o.pth", *wishes, "--format", "both"]) == 3
    assert seen == {
        "args": (converted.source, "o.pth"),
        "source": source,
        "network": "ssd300_voc",
        "num_classes": 7,
        "prototxt": str(converted.prototxt),
        "format": "both",
        "settings": {},
    }


def test_convert_recognises_both_ends(converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", str(converted.source), str(tmp_path / "a.pth")]) == 0
    assert cli.main(["convert", str(tmp_path / "a.pth"), str(tmp_path / "b.caffemodel")]) == 0
    assert "104 tensors back to caffe" in capsys.readouterr().out
    assert (tmp_path / "b.prototxt").is_file()


@pytest.mark.parametrize("lost", ["src", "prototxt"])
def test_a_missing_file_is_named(lost: str, converted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"src": str(converted.source), "prototxt": str(converted.prototxt), lost: str(tmp_path / "lost")}
    assert cli.main(["caffe2pt", files["src"], str(tmp_path / "o.pth"), "--prototxt", files["prototxt"]]) == 4
    assert str(tmp_path / "lost") in capsys.readouterr().err
    assert not (tmp_path / "o.pth").exists()
