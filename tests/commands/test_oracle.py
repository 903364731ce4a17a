"""``ssdconv oracle`` on a tiny environment without any package, and what ``verify`` says where an oracle is absent."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdconv import cli
from ssdconv.converters.gluon.mapping import anchor_names, anchors, rows_of
from ssdconv.converters.gluon.params import write_params
from ssdconv.converters.gluon.recognise import reference_shapes
from ssdconv.parity.oracles.environments import ENVIRONMENTS, Environment
from ssdconv.ssd_ref.networks.gluon import gluon


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSDCONV_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def tiny(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An environment with no package, so that no index is asked."""
    pins = tmp_path / "tiny.txt"
    pins.write_text("# nothing\n")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    env = Environment("tiny", "Tiny 1.0", (version,), str(pins), "import json", 1)
    monkeypatch.setitem(ENVIRONMENTS, "tiny", env)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return env


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    assert cli.main(list(words)) == code
    return capsys.readouterr()


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    rows = json.loads(run(capsys, "oracle", "list", "--json")[0])
    return {row["name"]: row for row in rows if row["kind"] == "framework"}


def test_install_list_and_remove(tiny: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    before = listed(capsys)
    assert list(before) == list(ENVIRONMENTS)
    assert not any(row["installed"] for row in before.values())
    assert before["tiny"]["next_step"] == "ssdconv oracle install tiny"
    out, err = run(capsys, "oracle", "install", "tiny", "--json")
    made = json.loads(out)
    assert made["installed"] is True and made["was_installed"] is False and Path(made["folder"]) == tiny.folder
    assert tiny.python.exists()
    assert [line.split(":")[0] for line in err.splitlines()] == ["tiny"] * 3, "one line per step"
    out, err = run(capsys, "oracle", "install", "tiny")
    assert (out, err) == (f"tiny: Tiny 1.0 was in {tiny.folder}\n", "")
    assert listed(capsys)["tiny"]["installed"] is True
    row = next(line for line in run(capsys, "oracle", "list")[0].splitlines() if line.startswith("tiny "))
    assert "yes" in row.split() and str(tiny.folder) in row
    assert json.loads(run(capsys, "oracle", "remove", "tiny", "--json")[0])["removed"] is True
    assert not tiny.folder.exists() and listed(capsys)["tiny"]["installed"] is False
    assert run(capsys, "oracle", "remove", "tiny")[0] == "tiny: was not installed\n"


@pytest.mark.parametrize("action", ["install", "remove"])
def test_an_unknown_name_gets_the_near_one(action: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "oracle", action, "glun", "--json", code=2)
    assert "did you mean 'gluon'?" in err
    assert json.loads(out)["error"]["code"] == "UsageError"
    assert not home.exists()


def test_no_python_of_the_right_version(
    tiny: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ENVIRONMENTS, "tiny", replace(tiny, pythons=("3.99", "3.98")))
    out, err = run(capsys, "oracle", "install", "tiny", "--json", code=4)
    assert "Python 3.99, 3.98" in err and "pyenv install 3.99" in err and "`ssdconv oracle install tiny`" in err
    assert json.loads(out)["error"]["code"] == "MissingError"


def test_no_index(tiny: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.pins.write_text(f"tinything==1.0 --hash=sha256:{'0' * 64}\n")
    _, err = run(capsys, "oracle", "install", "tiny", code=4)
    assert "package index" in err and "`ssdconv oracle install tiny`" in err
    assert listed(capsys)["tiny"]["installed"] is False


@pytest.mark.parametrize("words", [[], ["instal"], ["install"], ["remove"], ["list", "gluon"]])
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "oracle", *words, code=2)[0] == ""


def test_verify_without_the_oracle_is_not_run_and_conversion_works(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = gluon("ssd_300_mobilenet0.25_voc")
    shapes, rng = reference_shapes(config), np.random.default_rng(0)
    tensors = {
        row.name.structural: rng.uniform(0.1, 1, shapes[row.target]).astype("f4")
        for row in rows_of(config)
        if row.target in shapes
    }
    tensors |= {n.structural: a for n, a in zip(anchor_names(config), anchors(config), strict=True)}
    source, checkpoint = tmp_path / "x.params", tmp_path / "out.pth"
    write_params(source, tensors)
    run(capsys, "gluon2pt", str(source), str(checkpoint))
    out, err = run(capsys, "verify", str(checkpoint), "--source", str(source), "--json", code=4)
    assert "not run: the oracle 'gluon'" in err and "ssdconv oracle install gluon" in err
    error = json.loads(out)["error"]
    assert (error["code"], error["exit_code"], error["hint"]) == ("MissingError", 4, "ssdconv oracle install gluon")
