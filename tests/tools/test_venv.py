"""The environment is made again when what is installed changes, and only then."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the files that the script reads; pip is a stand-in that writes down its arguments."""
    (tmp_path / "tools").mkdir()
    for name in ("tools/venv.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    script = tmp_path / "tools" / "venv.py"
    # Installing torch is not what is tested here.
    fake = '    command = [python, "-c", "import sys; print(\'Processing /x/y.whl (from z)\')"]\n'
    text = script.read_text()
    start, end = text.index('    command = [python, "-m", "pip"'), text.index("    lines: list[str] = []")
    text = text[:start] + fake + text[end:]
    assert '"-m", "venv"' in text
    script.write_text(text.replace('"-m", "venv"', '"-m", "venv", "--without-pip"'))
    return tmp_path


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


def test_a_failed_installation_is_not_taken_for_a_good_one(checkout: Path) -> None:
    edit(
        checkout / "tools" / "venv.py",
        "import sys; print('Processing",
        "import sys; sys.exit('no such thing'); print('",
    )
    command = [sys.executable, str(checkout / "tools" / "venv.py"), str(checkout / "env")]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "no such thing" in done.stderr
        assert "making env" in done.stdout


def test_what_pip_fetches_is_shown_by_file_name(checkout: Path) -> None:
    assert make(checkout).splitlines()[1:] == ["  y.whl"]
