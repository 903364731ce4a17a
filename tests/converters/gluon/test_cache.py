"""MXNet's model cache: names, checksums and places as GluonCV has them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ssdconv.converters.gluon.params import cached_params, folder
from ssdconv.errors import FormatError, UsageError

NAME = "ssd_512_mobilenet1.0_voc"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    path = tmp_path / "models"
    path.mkdir()
    return path


def put(models: Path, name: str, content: bytes, digits: str = "") -> Path:
    path = models / f"{name}-{digits or hashlib.sha1(content).hexdigest()[:8]}.params"
    path.write_bytes(content)
    return path


def test_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "mx"))
    assert folder() == tmp_path / "mx" / "models"
    monkeypatch.delenv("MXNET_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder() == tmp_path / ".mxnet" / "models"
    assert cached_params(NAME) is None, "no such folder is no error"


def test_the_name_is_taken_literally_and_whole(models: Path) -> None:
    put(models, NAME.replace(".", "x"), b"a dot is no wildcard")
    put(models, f"old_{NAME}", b"longer name")
    put(models, f"{NAME}_custom", b"longer name")
    (models / f"{NAME}-00000000.lock").write_bytes(b"")
    (models / f"{NAME}-00000000.params").mkdir()
    assert cached_params(NAME) is None
    path = put(models, NAME, b"weights")
    assert cached_params(NAME) == path


def test_a_file_that_is_not_what_its_name_says(models: Path) -> None:
    bad = put(models, NAME, b"half of the wei", "0badc0de")
    with pytest.raises(FormatError, match="SHA-1") as caught:
        cached_params(NAME)
    assert str(bad) in str(caught.value)
    good = put(models, NAME, b"weights")
    assert cached_params(NAME) == good, "a whole one beside it is taken"


def test_two_whole_files_are_not_chosen_between(models: Path) -> None:
    paths = [put(models, NAME, b"weights"), put(models, NAME, b"other weights")]
    with pytest.raises(UsageError) as caught:
        cached_params(NAME)
    assert all(path.name in str(caught.value) for path in paths)
