"""The environment is made again when what is installed changes, and only then."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


QUIET = "print('Processing /x/y.whl (from z)')"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the files that the script reads; pip is a stand-in, ``pip.py``, whose arguments are written down."""
    (tmp_path / "tools").mkdir()
    for name in ("tools/venv.py", "pyproject.toml", "constraints.txt", "hashes.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    script = tmp_path / "tools" / "venv.py"
    edit(
        script, "[python, *PIP, *words]", '[python, str(ROOT / "pip.py"), *words]'
    )  # installing torch is not what is tested
    edit(script, '"-m", "venv"', '"-m", "venv", "--without-pip"')
    pip(tmp_path, QUIET)
    return tmp_path


def pip(checkout: Path, code: str) -> None:
    told = "import sys; open('asked', 'a').write(' '.join(sys.argv[1:]) + chr(10))"
    (checkout / "pip.py").write_text(f"{told}\n{code}\n")


def make(checkout: Path) -> str:
    command = [sys.executable, str(checkout / "tools" / "venv.py"), str(checkout / "env")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_made_once_and_again_when_requirements_change(checkout: Path) -> None:
    assert "making env" in make(checkout)
    marker = checkout / "env" / "marker"
    marker.touch()
    assert make(checkout) == ""
    edit(checkout / "pyproject.toml", "line-length = 120", "line-length = 100")
    assert make(checkout) == ""
    assert marker.exists()
    edit(checkout / "pyproject.toml", '"numpy>=', '"tiny", "numpy>=')
    assert "making env" in make(checkout)
    assert not marker.exists(), "the old environment must go, with what nobody requires any more"
    edit(checkout / "constraints.txt", "torch==", "torch==9.")
    assert "making env" in make(checkout)


def test_a_broken_environment_is_made_again(checkout: Path) -> None:
    make(checkout)
    (checkout / "env" / "bin" / "python").unlink()
    assert "making env" in make(checkout)


def refused(checkout: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(checkout / "tools" / "venv.py"), str(checkout / "env")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "making env" in done.stdout
    return done


def test_a_failed_installation_is_not_taken_for_a_good_one(checkout: Path) -> None:
    pip(checkout, "sys.exit('no such thing')")
    for _ in range(2):
        assert "no such thing" in refused(checkout).stderr


def test_what_pip_fetches_is_shown_by_file_name(checkout: Path) -> None:
    assert make(checkout).splitlines()[1:] == ["  y.whl", "  y.whl"]


def test_files_are_installed_by_their_hashes_then_the_project_on_top(checkout: Path) -> None:
    make(checkout)
    first, second = (checkout / "asked").read_text().splitlines()
    assert first == f"--require-hashes --no-deps -r {checkout / 'hashes.txt'}"
    assert "--no-build-isolation" in second and f"-c {checkout / 'constraints.txt'}" in second


def test_a_file_with_another_hash_ends_it(checkout: Path) -> None:
    pip(checkout, "print('ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.'); sys.exit(1)")
    assert "not the one whose hash" in refused(checkout).stderr
    assert len((checkout / "asked").read_text().splitlines()) == 1


def test_an_index_without_the_files_is_said_and_versions_are_used(checkout: Path) -> None:
    missing = "print('ERROR: No matching distribution found for hotcoco==1.3.0'); sys.exit(1)"
    pip(checkout, f"if '--require-hashes' in sys.argv: {missing}\n{QUIET}")
    assert "without hashes: this platform or index lacks hotcoco==1.3.0" in make(checkout)
    assert "--no-build-isolation" not in (checkout / "asked").read_text()


def test_every_pin_has_hashes() -> None:
    """All but torch, whose files differ between indexes, and what only fuzzing installs."""

    def pins(name: str) -> dict[str, str]:
        rows = [line.split("==") for line in (ROOT / name).read_text().splitlines() if line and line[0] != "#"]
        return {row[0].lower().replace("_", "-"): row[1].split()[0] for row in rows}

    pinned, hashed = pins("constraints.txt"), pins("hashes.txt")
    assert {name: version for name, version in pinned.items() if name not in ("torch", "atheris")} == hashed
    lines = [line for line in (ROOT / "hashes.txt").read_text().splitlines() if line[0] != "#"]
    assert all(re.fullmatch(r"\S+==\S+( --hash=sha256:[0-9a-f]{64})+ *", line) for line in lines)
