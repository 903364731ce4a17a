"""Make the project's virtual environment: ``python3.11 tools/venv.py .venv``.

Nothing happens when the environment was made from the same requirements before. Needs the standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "coco,test,lint"
STAMP = "ssdconv-requirements"
SHOWN = ("Downloading ", "Processing ", "Using cached ", "Installing collected ")


def fingerprint() -> str:
    """Hash of all that decides what is installed: requirements, pins, the build system and this interpreter."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["project"]
    parts = [
        project["build-system"],
        [listed.get(key) for key in ("name", "version", "dependencies", "optional-dependencies", "scripts")],
        (ROOT / "constraints.txt").read_text(),
        [sys.version, str(ROOT), EXTRAS],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def create(folder: Path) -> None:
    """An empty environment with pip.

    Raises:
        SystemExit: this Python comes without venv or pip, and they could not be installed.
    """
    if folder.exists():
        shutil.rmtree(folder)
    if subprocess.run([sys.executable, "-c", "import ensurepip"], capture_output=True, check=False).returncode:
        _install_ensurepip()
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)


def _install_ensurepip() -> None:
    # Debian and Ubuntu keep ensurepip in a package of its own, without which no environment can be made.
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise SystemExit(f"{sys.executable} has no ensurepip; install it first: sudo apt-get install {package}")
    print(f"installing {package}, without which Python makes no virtual environments", flush=True)
    subprocess.run([apt, "-q", "update"], check=True, stdout=sys.stderr)
    subprocess.run([apt, "-q", "install", "-y", "--no-install-recommends", package], check=True, stdout=sys.stderr)


def install(folder: Path) -> None:
    """Install the project, editable, with its tools; shows what pip fetches.

    Raises:
        SystemExit: pip failed; its last lines are shown.
    """
    python, pins = str(folder / "bin" / "python"), str(ROOT / "constraints.txt")
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-color", "--progress-bar", "off"]
    command += ["-c", pins, "-e", f"{ROOT}[{EXTRAS}]"]
    lines: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            lines.append(line.rstrip())
            if line.strip().startswith(SHOWN) and ".metadata" not in line:
                print(f"  {_short(line.strip())}", flush=True)
    if pip.returncode:
        print("\n".join(lines[-30:]), file=sys.stderr)
        raise SystemExit(
            f"pip could not install the requirements (exit code {pip.returncode}); its last lines are above"
        )


def _short(line: str) -> str:
    """``Processing /a/b/torch-2.13.0-….whl (from ssdconv)`` without the folder and what asked for it."""
    if line.startswith("Installing "):
        return f"installing {line.count(',') + 1} packages"
    _, _, rest = line.partition(line.split()[0])
    return rest.partition(" (from")[0].strip().rpartition("/")[2]


def main() -> None:
    """Make or keep the environment named on the command line."""
    folder = Path(sys.argv[1]).resolve()
    stamp, wanted = folder / STAMP, fingerprint()
    if stamp.is_file() and stamp.read_text() == wanted and (folder / "bin" / "python").exists():
        return
    print(f"making {folder.name}: torch and the other requirements; some minutes the first time", flush=True)
    create(folder)
    install(folder)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
