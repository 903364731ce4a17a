"""The wheel: one import name, every folder of the checkout in it, and it runs in an environment that has nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import ssdconv

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
NOT_SHIPPED = {"tests", "bench", "tools", "build", "dist", "docs", "demo_out", "bench_out", "runs"}


def folder_of(package: str) -> Path:
    """Where a package of the wheel lies in the checkout."""
    return ROOT.joinpath(*package.split(".")[1:])


def package_folders() -> set[str]:
    """Import names of all folders that hold Python modules and are not tests or scripts."""
    found = {"ssdconv"}
    for file in ROOT.rglob("*.py"):
        parts = file.parent.relative_to(ROOT).parts
        if parts and parts[0] not in NOT_SHIPPED and not any(p.startswith(".") or "egg-info" in p for p in parts):
            found.add(".".join(("ssdconv", *parts)))
    return found


def test_the_package_list_is_the_folders_on_disk() -> None:
    listed = SETUPTOOLS["packages"]
    assert len(listed) == len(set(listed))
    workers = {name for name in package_folders() if name.endswith(".workers")} - set(listed)
    # Worker scripts run in other interpreters: they may ship as data of the package above instead.
    assert set(listed) == package_folders() - workers
    for name in workers:
        parent, _, folder = name.rpartition(".")
        patterns = SETUPTOOLS["package-data"].get(parent, [])
        assert any(p.startswith(f"{folder}/") for p in patterns), f"{name} is neither a package nor package data"


def test_one_version() -> None:
    assert PROJECT["project"]["version"] == ssdconv.__version__


def test_every_requirement_has_a_pin() -> None:
    def names(lines: list[str]) -> set[str]:
        for sign in "<>=!~;[":
            lines = [line.split(sign)[0] for line in lines]
        return {line.strip().lower() for line in lines}

    extras = PROJECT["project"]["optional-dependencies"]
    wanted = names(PROJECT["project"]["dependencies"] + [r for name in ("coco", "test", "lint") for r in extras[name]])
    text = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line for line in text if line and not line.startswith("#")]
    assert all("==" in line for line in pinned)
    assert wanted <= names(pinned), f"no pin for {sorted(wanted - names(pinned))}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network from a copy, so that nothing is left in the checkout."""
    copy = tmp_path_factory.mktemp("source") / "ssdconv"
    hidden = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", *NOT_SHIPPED)
    shutil.copytree(ROOT, copy, ignore=hidden)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(out.glob("*.whl"))


def test_the_wheel_holds_every_file(wheel: Path) -> None:
    shipped = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"ssdconv/{name}" for name in ("zoo.json", "py.typed", "cli.py", "__main__.py", "errors.py")}
    for package in package_folders() - {"ssdconv"}:
        folder = folder_of(package)
        files = [f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
        wanted |= {f"ssdconv/{f.relative_to(ROOT).as_posix()}" for f in files}
    assert wanted <= shipped, f"not in the wheel: {sorted(wanted - shipped)}"
    assert not [name for name in shipped if name.startswith(("ssdconv/tests", "ssdconv/bench", "ssdconv/tools"))]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel; requirements are borrowed from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def site_packages(folder: Path) -> Path:
    return next(folder.glob("lib/python3*/site-packages"))


def test_the_wheel_puts_one_name_into_site_packages(installed: Path) -> None:
    names = {entry.name for entry in site_packages(installed).iterdir()}
    assert names == {"ssdconv", f"ssdconv-{ssdconv.__version__}.dist-info"}


def run_installed(installed: Path, *command: str) -> subprocess.CompletedProcess[str]:
    # A line in a .pth file lends the packages of the tests' environment, but not its editable ssdconv: the hooks
    # in .pth files of a folder that was added that way are not run.
    (site_packages(installed) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    tool = installed / "bin" / command[0]
    return subprocess.run(
        [str(tool), *command[1:]], capture_output=True, text=True, check=False, cwd=installed, env=environment
    )


def test_the_installed_command_runs(installed: Path) -> None:
    done = run_installed(installed, "ssdconv", "--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"ssdconv {ssdconv.__version__}"), done.stderr
    networks = run_installed(installed, "ssdconv", "networks")
    assert networks.returncode == 0, networks.stderr
    assert "ssd300_voc" in networks.stdout


def test_every_installed_module_is_the_wheels_own(installed: Path) -> None:
    done = run_installed(
        installed, "python", "-c", "import ssdconv.cli as c, ssdconv as s; print(c.__file__, s.__file__)"
    )
    assert done.returncode == 0, done.stderr
    home = str(site_packages(installed).resolve())
    assert all(str(Path(file).resolve()).startswith(home) for file in done.stdout.split())
