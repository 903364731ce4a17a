"""Make the project's virtual environment: ``python3.11 tools/venv.py .venv``.

Packages are installed from files whose SHA-256 stands in ``hashes.txt``, and refused where they are others. Only torch is held to
its version alone, since indexes serve different builds under it. Where an index has no file of a pinned version for this
platform, all are installed by version alone, and that is said.

Nothing happens when the environment was made from the same requirements before. Needs the standard library only.

``python tools/venv.py --hashes`` writes ``hashes.txt`` anew from ``constraints.txt``; it needs uv.
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
PINS, HASHES = ROOT / "constraints.txt", ROOT / "hashes.txt"
PIP = ("-m", "pip", "install", "--disable-pip-version-check", "--no-color", "--progress-bar", "off")
UNHASHED = ("torch", "atheris")
"""Packages of ``constraints.txt`` without hashes: one with builds of its own per index, one that only `make fuzz` installs."""
STAMP = "ssdconv-requirements"
SHOWN = ("Downloading ", "Processing ", "Using cached ", "Installing collected ")


def fingerprint() -> str:
    """Hash of all that decides what is installed: requirements, pins, the build system and this interpreter."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["project"]
    parts = [
        project["build-system"],
        [listed.get(key) for key in ("name", "version", "dependencies", "optional-dependencies", "scripts")],
        PINS.read_text(),
        HASHES.read_text(),
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
    python = str(folder / "bin" / "python")
    hashed, lines = _pip(python, ["--require-hashes", "--no-deps", "-r", str(HASHES)])
    isolated = ["--no-build-isolation"]  # setuptools is among what was just installed
    if hashed and any("DO NOT MATCH THE HASHES" in line for line in lines):
        raise SystemExit(
            _told(lines, "a file is not the one whose hash stands in hashes.txt; nothing was installed from it")
        )
    if hashed:
        reason = next((line for line in lines if line.startswith("ERROR: No matching distribution")), "")
        if not reason:
            raise SystemExit(_told(lines, f"pip could not install the requirements (exit code {hashed})"))
        print(
            f"without hashes: this platform or index lacks {reason.rpartition(' ')[2]}; installing by version",
            flush=True,
        )
        isolated = []
    code, lines = _pip(python, ["-c", str(PINS), *isolated, "-e", f"{ROOT}[{EXTRAS}]"])
    if code:
        raise SystemExit(_told(lines, f"pip could not install the requirements (exit code {code})"))


def _told(lines: list[str], what: str) -> str:
    print("\n".join(lines[-30:]), file=sys.stderr)
    return f"{what}; pip's last lines are above"


def _pip(python: str, words: list[str]) -> tuple[int, list[str]]:
    """Exit code and lines of ``pip install``."""
    command = [python, *PIP, *words]
    lines: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            lines.append(line.rstrip())
            if line.strip().startswith(SHOWN) and ".metadata" not in line:
                print(f"  {_short(line.strip())}", flush=True)
    return pip.returncode, lines


def _short(line: str) -> str:
    """``Processing /a/b/torch-2.13.0-….whl (from ssdconv)`` without the folder and what asked for it."""
    if line.startswith("Installing "):
        return f"installing {line.count(',') + 1} packages"
    _, _, rest = line.partition(line.split()[0])
    return rest.partition(" (from")[0].strip().rpartition("/")[2]


def write_hashes() -> None:
    """Write ``hashes.txt`` with the hashes of all files of the pinned versions, as the configured package index lists them."""
    pins = [line for line in PINS.read_text().splitlines() if line and not line.startswith(("#", *UNHASHED))]
    options = ["--generate-hashes", "--no-deps", "--no-header", "--no-annotate", "--python-version", "3.11"]
    done = subprocess.run(
        ["uv", "pip", "compile", "-q", *options, "-"],
        input="\n".join(pins),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    head = [line for line in HASHES.read_text().splitlines() if line.startswith("#")]
    HASHES.write_text("\n".join(head) + "\n" + done.stdout.replace("\\\n    ", ""))


def main() -> None:
    """Make or keep the environment named on the command line."""
    if sys.argv[1] == "--hashes":
        write_hashes()
        return
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
