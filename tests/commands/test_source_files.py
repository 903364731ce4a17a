"""``ssdconv gluon2pt --network NAME`` without a file: MXNet's model cache first, then the zoo; nothing leaves the machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import ssdconv
from ssdconv import cli
from ssdconv.converters.gluon.mapping import anchor_names, anchors, rows_of
from ssdconv.converters.gluon.params import write_params
from ssdconv.converters.gluon.recognise import reference_shapes
from ssdconv.ssd_ref.networks.gluon import gluon

NAME = "ssd_300_mobilenet0.25_voc"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small network's .params file."""
    config, rng = gluon(NAME), np.random.default_rng(0)
    shapes = reference_shapes(config)
    rows = [row for row in rows_of(config) if row.target in shapes]
    tensors = {row.name.structural: rng.uniform(0.1, 1, shapes[row.target]).astype("f4") for row in rows}
    tensors |= {n.structural: a for n, a in zip(anchor_names(config), anchors(config), strict=True)}
    path = tmp_path_factory.mktemp("params") / "x.params"
    write_params(path, tensors)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, and an empty current folder."""
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "mxnet"))
    monkeypatch.setenv("SSDCONV_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def cache(here: Path, content: bytes) -> Path:
    path = here / "mxnet" / "models" / f"{NAME}-{hashlib.sha1(content).hexdigest()[:8]}.params"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (["out.pth"], "out.pth"),
        (["out.safetensors"], "out.safetensors"),
        ([], f"{NAME}.pth"),
        (["--format", "safetensors"], f"{NAME}.safetensors"),
    ],
)
def test_from_the_cache(
    words: list[str], made: str, here: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cache(here, content)
    assert cli.main(["gluon2pt", "--network", NAME, *words, "--json", "--offline"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["file"] == str(path) and report["sha256"] == hashlib.sha256(content).hexdigest()
    assert report["outputs"] == [made] and str(path) in err
    assert [p.name for p in (here / "work").iterdir()] == [made]
    assert ssdconv.load(made).config == gluon(NAME)


def test_a_named_file_wins(here: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    cache(here, content)
    own = here / "own.params"
    own.write_bytes(content)
    assert cli.main(["gluon2pt", "--network", NAME, str(own), "out.pth", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(own)


def test_then_the_zoo(here: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """A mirror that is a folder here stands for the network."""
    from ssdconv.zoo import find

    mirror = here / "mirror"
    mirror.mkdir()
    (mirror / find(NAME).record.file.name).write_bytes(content)
    assert cli.main(["gluon2pt", "--network", NAME, "out.pth", "--mirror", str(mirror), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"].startswith(str(here / "home"))


def test_in_neither_place(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gluon2pt", "--network", "ssd_512_resnet50_v1_voc", "out.pth", "--offline", "--json"]) == 4
    out, err = capsys.readouterr()
    assert str(here / "mxnet" / "models") in err and "zoo" in err and "x.params out.pth" in err
    assert json.loads(out)["error"]["code"] == "MissingError"
    assert not list((here / "work").iterdir())


def test_a_damaged_cache_file_is_named(here: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = cache(here, content)
    path.write_bytes(content[:-1])
    assert cli.main(["gluon2pt", "--network", NAME, "out.pth", "--offline"]) == 3
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["out.pth"], ["--network", "ssd_512_resnet50_v1_vco", "out.pth"]])
def test_no_name_or_a_wrong_one(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gluon2pt", *words]) == 2
    assert "network" in capsys.readouterr().err
