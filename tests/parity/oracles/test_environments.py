"""Making, finding and removing an oracle's interpreter, on a tiny package index of our own."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ssdconv.errors import MissingError, UsageError
from ssdconv.parity.oracles import environments
from ssdconv.parity.oracles.environments import ENVIRONMENTS, Environment, find_python, install, remove, state, tidy
from ssdconv.ssd_ref.files import home, locked

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def wheel(folder: Path) -> str:
    """A wheel ``tinything`` 1.0 with one module; returns its sha256."""
    path = folder / "tinything-1.0-py3-none-any.whl"
    info = "tinything-1.0.dist-info"
    files = {
        "tinything.py": "ANSWER = 42\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(text)}\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record + f"{info}/RECORD,,\n"}.items():
            archive.writestr(name, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


pytestmark = pytest.mark.oracle  # interpreters are made and packages installed


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An environment of one package, in a home and with an index of its own."""
    index = tmp_path / "index"
    index.mkdir()
    pins = tmp_path / "tiny.txt"
    pins.write_text(f"tinything==1.0 --hash=sha256:{wheel(index)}\n")
    env = Environment("tiny", "tinything 1.0", (HERE,), str(pins), "import tinything; assert tinything.ANSWER == 42", 1)
    monkeypatch.setitem(ENVIRONMENTS, "tiny", env)
    monkeypatch.setenv("SSDCONV_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return env


def left_overs(env: Environment) -> list[str]:
    return sorted(p.name for p in env.folder.parent.iterdir() if not p.name.endswith(".lock"))


def test_install_use_and_remove(tiny: Environment) -> None:
    before = state("tiny")
    assert (before.installed, before.next_step) == (False, "ssdconv oracle install tiny")
    assert "is not installed" in before.reason
    told: list[str] = []
    after = install("tiny", told.append)
    assert after.installed and after.reason == "" and len(told) == 3
    answer = subprocess.run(
        [tiny.python, "-c", "import tinything; print(tinything.ANSWER)"], capture_output=True, check=True
    )
    assert answer.stdout.strip() == b"42"
    assert left_overs(tiny) == [tiny.folder.name]
    told.clear()
    install("tiny", told.append)
    assert told == [], "a second install does nothing"
    assert remove("tiny") and not state("tiny").installed and left_overs(tiny) == []
    assert not remove("tiny")


def test_two_processes_at_once(tiny: Environment) -> None:
    code = f"""
import sys
from ssdconv.parity.oracles import environments as e
e.ENVIRONMENTS["tiny"] = e.{tiny!r}
print(e.install("tiny", lambda step: print(step, file=sys.stderr)).installed)
"""
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [run.communicate(timeout=120) for run in runs]
    assert [out.strip() for out, _ in ends] == ["True", "True"]
    assert sum("creating an interpreter" in err for _, err in ends) == 1, "one builds, the other finds it built"
    assert left_overs(tiny) == [tiny.folder.name]


def test_what_a_killed_installation_left_goes_with_the_next_one_or_the_list(tiny: Environment) -> None:
    place = tiny.folder.parent
    for name in ("tiny-building-k1lled", "caffe-building-k1lled", "tiny-0123456789ab"):
        (place / name / "bin").mkdir(parents=True)
    (place / "caffe-building-link").symlink_to(place / "tiny-0123456789ab")
    install("tiny")
    kept = ["caffe-building-link", "tiny-0123456789ab", tiny.folder.name]
    assert left_overs(tiny) == sorted(["caffe-building-k1lled", *kept]), "another oracle may be at work"
    with locked(place / "caffe.lock"):
        busy = subprocess.run([sys.executable, "-m", "ssdconv", "oracle", "list"], capture_output=True, check=True)
        assert b"caffe" in busy.stdout and (place / "caffe-building-k1lled").is_dir(), "somebody builds it"
    tidy()
    assert left_overs(tiny) == sorted(kept)


def test_wrong_hash_is_refused(tiny: Environment) -> None:
    tiny.pins.write_text(f"tinything==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(MissingError, match="could not be installed") as caught:
        install("tiny")
    assert "DO NOT MATCH THE HASHES" in str(caught.value)
    assert caught.value.exit_code == 4
    assert left_overs(tiny) == []


def test_no_index(tiny: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(MissingError, match="ssdconv oracle install tiny"):
        install("tiny")
    assert left_overs(tiny) == []


def test_package_that_does_not_run(tiny: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Environment(tiny.name, tiny.title, tiny.pythons, tiny.requirements, "import tinything.absent", 1)
    monkeypatch.setitem(ENVIRONMENTS, "tiny", broken)
    with pytest.raises(MissingError, match=r"tinything\.absent"):
        install("tiny")
    assert left_overs(tiny) == [] and not state("tiny").installed


def test_no_python(tiny: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    none = Environment(tiny.name, tiny.title, ("3.99",), tiny.requirements, tiny.check, 1)
    monkeypatch.setitem(ENVIRONMENTS, "tiny", none)
    with pytest.raises(MissingError, match=r"no Python found.*3\.99"):
        install("tiny")


def test_half_made_is_not_installed(tiny: Environment) -> None:
    tiny.python.parent.mkdir(parents=True)
    tiny.python.symlink_to(sys.executable)
    assert not state("tiny").installed and "is damaged" in state("tiny").reason
    install("tiny")
    assert state("tiny").installed
    tiny.python.unlink()
    assert "is damaged" in state("tiny").reason


def test_other_pins_make_another_folder(tiny: Environment) -> None:
    before = tiny.folder
    tiny.pins.write_text(tiny.pins.read_text() + "# changed\n")
    assert tiny.folder != before and tiny.folder.parent == before.parent


def test_find_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_python((HERE,))
    assert found is not None
    # A shim that stands for nothing, as pyenv leaves them, is passed over.
    shims = tmp_path / "shims"
    shims.mkdir()
    shim = shims / "python3.98"
    shim.write_text("#!/bin/sh\necho 'pyenv: python3.98: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(shims))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert find_python(("3.98",)) is None
    # What answers with another version is not taken by its name either; pyenv's folder is looked into.
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    assert find_python(("3.98",)) is None
    inside = tmp_path / "pyenv" / "versions" / f"{HERE}.1" / "bin"
    inside.mkdir(parents=True)
    (inside / "python").symlink_to(sys.executable)
    monkeypatch.setattr(environments.sys, "executable", "/nowhere/python")
    assert find_python(("3.98", HERE)) == inside / "python"


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSDCONV_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("SSDCONV_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if sys.platform == "linux":
        assert home() == tmp_path / "cache" / "ssdconv"


def test_unknown_name() -> None:
    with pytest.raises(UsageError, match="gluon"):
        state("torch7")


def test_gluon_pins_have_hashes() -> None:
    """Every requirement is an exact version, and every one has a hash."""
    text = ENVIRONMENTS["gluon"].pins.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) > 20
    for line in lines:
        assert "==" in line.split()[0] and "--hash=sha256:" in line, line
    assert any(line.startswith("mxnet==1.9.1 ") for line in lines)
