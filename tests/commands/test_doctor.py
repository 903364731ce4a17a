"""``ssdconv doctor``: what it says is what is installed, and an oracle that does not answer is reported so."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from ssdconv import cli
from ssdconv.commands import doctor


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSDCONV_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_json_tells_versions_and_oracles(capsys: pytest.CaptureFixture[str], empty_home: Path) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["torch"] == version("torch")
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["devices"][0].startswith("cpu")
    assert facts["cache"].startswith(str(empty_home))
    oracles = {o["name"]: o for o in facts["oracles"]}
    assert oracles["opencv"]["answers"] is True
    others = [o for name, o in oracles.items() if name != "opencv"]
    assert all(o["answers"] is False and "ssdconv oracle install" in o["detail"] for o in others)


def test_text_names_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in doctor.NEEDED:
        assert name in out
    assert "oracle opencv" in out


def test_a_missing_package_is_named_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "NEEDED", (*doctor.NEEDED, "no-such-package"))
    assert cli.main(["doctor"]) == 4
    out = capsys.readouterr().out
    assert "no-such-package" in out
    assert "pip install no-such-package" in out


def test_opencv_that_computes_wrongly_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.opencv_oracle().answers
    monkeypatch.setattr(doctor, "PROBE_NET", doctor.PROBE_NET.replace(b"0.5", b"0.25"))
    state = doctor.opencv_oracle()
    assert not state.answers
    assert "-0.25" in state.detail


def test_opencv_that_fails_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE_NET", b"layer {")
    state = doctor.opencv_oracle()
    assert not state.answers
    assert state.detail


@pytest.mark.parametrize(
    ("statement", "answers", "said"),
    [("pass", True, "title"), ("raise SystemExit('no such thing')", False, "no such thing"), ("1/0", False, "ZeroDiv")],
)
def test_an_interpreter_answers_when_its_check_runs(statement: str, answers: bool, said: str) -> None:
    got, detail = doctor._answers([sys.executable, "-c", statement], "title")
    assert got is answers
    assert said in detail


def test_an_interpreter_that_hangs_or_is_absent_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ORACLE_SECONDS", 0.2)
    assert doctor._answers([sys.executable, "-c", "import time; time.sleep(30)"], "title")[0] is False
    assert doctor._answers(["/no/such/python", "-c", "pass"], "title")[0] is False
