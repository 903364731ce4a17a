"""What an import drags in, and that imports point down only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "cv2", "google.protobuf", "h5py", "rich", "msgspec", "safetensors", "jinja2")
LEVELS = {
    "text": 0,
    "errors": 1,
    "ssd_ref": 2,
    "data": 3,
    "export": 3,
    "train": 4,
    "converters": 5,
    "parity": 6,
    "fetch": 7,
    "zoo": 8,
    "commands": 9,
    "cli": 10,
    "__main__": 11,
}


def loaded_after(statement: str, names: tuple[str, ...]) -> list[str]:
    """Which of ``names`` are loaded in a fresh interpreter after ``statement``."""
    code = f"import sys\n{statement}\nprint(*(n for n in {names!r} if n in sys.modules), sep='\\n', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr.split()


def test_the_probe_sees_what_is_loaded() -> None:
    assert loaded_after("import json", ("json", "torch")) == ["json"]


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import ssdconv", HEAVY) == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["help", "verify"], ["caffe2pt", "--help"], ["detect", "--help"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_after(f"import ssdconv.cli\nassert ssdconv.cli.main({arguments!r}) == 0", HEAVY) == []


@pytest.mark.parametrize(
    "module",
    [
        "ssdconv.errors",
        "ssdconv.ssd_ref.config",
        "ssdconv.ssd_ref.networks.registry",
        "ssdconv.converters.registry",
        "ssdconv.converters.inspect",
        "ssdconv.parity.oracles.environments",
        "ssdconv.parity.layers.results",
    ],
)
def test_modules_that_do_without_torch(module: str) -> None:
    assert loaded_after(f"import {module}", ("torch", "cv2")) == []


def test_listing_networks_does_without_torch() -> None:
    assert loaded_after("import ssdconv.cli\nssdconv.cli.main(['networks'])", ("torch", "cv2")) == []


def modules() -> list[Path]:
    listed = [ROOT / f"{name}.py" for name in LEVELS if (ROOT / f"{name}.py").is_file()]
    for name in LEVELS:
        listed += (ROOT / name).rglob("*.py") if (ROOT / name).is_dir() else []
    return [file for file in listed if "workers" not in file.parts]


def imported(file: Path) -> set[str]:
    """First names below ``ssdconv`` that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("ssdconv.")}
    return found


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(ROOT)))
def test_arrows_point_down(file: Path) -> None:
    own = file.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imported(file) & LEVELS.keys():
        assert name == own or LEVELS[name] < LEVELS[own], f"{file.relative_to(ROOT)} imports ssdconv.{name}"
