"""Where other Pythons are on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def find_python(versions: tuple[str, ...]) -> Path | None:
    """The first interpreter of one of the versions, best version first; None when there is none.

    Looks at this interpreter, ``pythonX.Y`` on PATH, and pyenv's versions; each is asked for its version, because a shim
    may stand for nothing.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for version in versions:
        candidates = [Path(sys.executable)] if f"{sys.version_info[0]}.{sys.version_info[1]}" == version else []
        candidates += sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)
        on_path = shutil.which(f"python{version}")
        candidates += [Path(on_path)] if on_path else []
        for candidate in candidates:
            if _answers(candidate, version):
                return candidate
    return None


def _answers(python: Path, version: str) -> bool:
    question = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        run = subprocess.run(
            [str(python), "-I", "-c", question], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0 and run.stdout.strip() == version
