"""Building what an oracle has as C++ sources only: a pinned archive, CMake, and the system's libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ssdconv.errors import MissingError

NATIVE = Path(__file__).parent / "native"
LIBRARY = "lib/libcaffe_c.so"
"""The library that is built, below the environment's folder."""
PACKAGES = (
    "cmake", "g++", "make", "protobuf-compiler", "libprotobuf-dev", "libboost-system-dev", "libboost-thread-dev",
    "libboost-filesystem-dev", "libboost-regex-dev", "libgoogle-glog-dev", "libgflags-dev", "libhdf5-dev", "libopenblas-dev",
)  # fmt: skip
"""Debian's (and Ubuntu's) names of what the build needs."""
Progress = Callable[[str], None]
Step = Callable[[Sequence[str], float], None]
"""Runs one command within a time limit, and raises MissingError where it fails."""


def sources() -> bytes:
    """What decides how the library turns out, besides the archive: part of the environment's digest."""
    return b"".join(path.read_bytes() for path in sorted(NATIVE.iterdir()))


def build(python: Path, pins: Path, folder: Path, say: Progress, step: Step, timeout: float) -> None:
    """Fetch the archive, build it, and leave ``LIBRARY`` in ``folder``; sources and objects are removed.

    Args:
        python: an interpreter with pip and setuptools.
        pins: requirements file with the archive and its hash.
        folder: of the environment.
        say: told each step.
        step: runs one command.
        timeout: seconds for the compilation.

    Raises:
        MissingError: a compiler or library is missing (all are named), the archive cannot be fetched, or does not compile.
    """
    require_packages(say, step)
    work = folder / "build"
    archive, source, objects = work / "archive", work / "source", work / "objects"
    say("fetching the source archive")
    pip = [str(python), "-I", "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--quiet"]
    flags = ["--require-hashes", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
    step([*pip, *flags, "-r", str(pins), "-d", str(archive)], 600)
    with tarfile.open(next(archive.glob("*.tar.gz"))) as packed:
        packed.extractall(source, filter="data")
    root = next(path for path in source.iterdir() if path.is_dir())
    say("compiling (some minutes)")
    step(["cmake", "-S", str(NATIVE), "-B", str(objects), f"-DCAFFE={root}"], 300)
    step(["cmake", "--build", str(objects), "--parallel", str(os.cpu_count() or 1)], timeout)
    target = folder / LIBRARY
    target.parent.mkdir(exist_ok=True)
    shutil.move(objects / target.name, target)
    shutil.rmtree(work)


def require_packages(say: Progress, step: Step) -> None:
    """See to the system's packages: nothing where they are there, apt where we are root, else an error that names them.

    Raises:
        MissingError: packages are missing, and this is not Debian's root.
    """
    missing = missing_packages()
    if not missing:
        return
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        say(f"installing {', '.join(missing)}")
        step(install, 900)
        return
    raise MissingError(
        "system packages are missing that Caffe is built with",
        expected=", ".join(PACKAGES),
        got=f"without {', '.join(missing)}",
        hint=f"`sudo {' '.join(install)}`, then `ssdconv oracle install caffe`",
    )


def missing_packages() -> tuple[str, ...]:
    """Those of ``PACKAGES`` that dpkg does not know as installed; without dpkg, those of which no tool is found."""
    if shutil.which("dpkg-query") is None:
        return tuple(name for name in ("cmake", "g++", "make") if shutil.which(name) is None)
    found = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *PACKAGES],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    there = {line.split()[0] for line in found.splitlines() if line.endswith(" installed")}
    return tuple(name for name in PACKAGES if name not in there)
