"""Interpreters of their own for source frameworks that cannot live beside this one, made by one command.

An environment is a virtual environment below ``home()``, filled from pinned wheels whose hashes are checked; what exists as C++ sources only is built
there from a pinned archive, with CMake and the system's libraries. It is made in a temporary folder and renamed when it works, so that a half-made
one is never used; a lock keeps two processes from building the same one. Nothing here imports the source framework.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ssdconv.errors import MissingError, OutputError, UsageError
from ssdconv.ssd_ref.files import home, locked

_HERE = Path(__file__).parent
NATIVE = _HERE / "native"
LIBRARY = "lib/libcaffe_c.so"
"""The library that is built, below the environment's folder."""
PACKAGES = (
    "cmake", "g++", "make", "protobuf-compiler", "libprotobuf-dev", "libboost-system-dev", "libboost-thread-dev",
    "libboost-filesystem-dev", "libboost-regex-dev", "libgoogle-glog-dev", "libgflags-dev", "libhdf5-dev", "libopenblas-dev",
)  # fmt: skip
"""Debian's (and Ubuntu's) names of what the build needs."""
Progress = Callable[[str], None]
"""Told each step in a few words."""


@dataclass(frozen=True)
class Environment:
    """What an oracle's interpreter needs.

    Attributes:
        name: the source's word ("gluon").
        title: what is in it, for people.
        pythons: versions that serve, best first.
        requirements: pinned wheels with hashes, below ``requirements/``.
        check: statement that must run in the finished environment.
        megabytes: what it takes on disk, roughly.
        sources: pinned source archives with hashes, built in the environment after the wheels; "" where all are wheels.
        native: a pinned C++ source archive that a library is made of; "" for none.
    """

    name: str
    title: str
    pythons: tuple[str, ...]
    requirements: str
    check: str
    megabytes: int
    sources: str = ""
    native: str = ""

    @property
    def pins(self) -> Path:
        """The requirements file."""
        return _HERE / "requirements" / self.requirements

    @property
    def folder(self) -> Path:
        """Where the environment lives; another set of pins has another folder."""
        built = (_HERE / "requirements" / self.sources).read_bytes() if self.sources else b""
        if self.native:
            built += self.pins.with_name(self.native).read_bytes()
            built += b"".join(path.read_bytes() for path in sorted(NATIVE.iterdir()))
        digest = hashlib.sha256(self.pins.read_bytes() + built + repr(self.pythons).encode()).hexdigest()
        return home() / "oracles" / f"{self.name}-{digest[:12]}"

    @property
    def python(self) -> Path:
        """The environment's interpreter, whether it exists or not."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


ENVIRONMENTS: dict[str, Environment] = {
    e.name: e
    for e in (
        Environment(
            "gluon",
            "MXNet 1.9.1 and GluonCV 0.10.5.post0",
            ("3.11", "3.10", "3.9", "3.8"),
            "gluon.txt",
            "import mxnet, gluoncv; assert float(mxnet.nd.ones(2).sum().asscalar()) == 2",
            750,
        ),
        Environment(
            "caffe",
            "the original Caffe, SSD branch (brocolli-caffe 9.0.2, CPU)",
            ("3.11", "3.12", "3.10", "3.9"),
            "caffe.txt",
            f"import ctypes, pathlib, sys, numpy; ctypes.CDLL(pathlib.Path(sys.prefix) / '{LIBRARY}').net_open",
            90,
            native="caffe-native.txt",
        ),
        Environment(
            "chainer",
            "Chainer 7.8.1 and ChainerCV 0.13.1",
            ("3.8", "3.9", "3.10"),
            "chainer.txt",
            "import chainer, cv2; from chainercv.links import SSD300; SSD300(n_fg_class=1)",
            260,
            sources="chainer-build.txt",
        ),
        Environment(
            "tensorflow", "TensorFlow 2.15.1, Keras 2.15", ("3.11",), "tensorflow.txt", "import tensorflow.keras", 1300
        ),
        Environment(
            "ssd_keras",
            "Keras 2.2.4 and TensorFlow 1.15.5 on Python 3.7, for ssd_keras' own code",
            ("3.7",),
            "ssd_keras.txt",
            "import keras; assert keras.__version__ == '2.2.4'",
            700,
            sources="ssd_keras-build.txt",
        ),
        Environment(
            "hikapok",
            "TensorFlow 1.6.0 on Python 3.6, for SSD.TensorFlow's own code",
            ("3.6",),
            "hikapok.txt",
            "import tensorflow, tensorflow.contrib.slim; assert tensorflow.__version__ == '1.6.0'",
            280,
        ),
        Environment(
            "torchvision",
            "torchvision 0.28.0 on this interpreter's torch",
            (f"{sys.version_info[0]}.{sys.version_info[1]}",),
            "torchvision.txt",
            "import importlib.metadata as m; assert m.version('torchvision') == '0.28.0'",
            50,
        ),
    )
}
"""Oracles that need an interpreter of their own, by name."""


@dataclass(frozen=True)
class State:
    """Whether an environment is there.

    Attributes:
        name, title: see ``Environment``.
        installed: it is built and was checked.
        folder: where it is or would be.
        reason: why it is not there, "" when it is.
        next_step: the command that changes that, "" when it is there.
    """

    name: str
    title: str
    installed: bool
    folder: Path
    reason: str = ""
    next_step: str = ""


def environment(name: str) -> Environment:
    """The environment of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in ENVIRONMENTS:
        close = difflib.get_close_matches(name.lower(), ENVIRONMENTS, 1, 0.5)
        hint = f"did you mean {close[0]!r}?" if close else "`ssdconv oracle list` shows them"
        raise UsageError(f"no oracle {name!r} to install", expected=f"one of {', '.join(ENVIRONMENTS)}", hint=hint)
    return ENVIRONMENTS[name]


def state(name: str) -> State:
    """Whether the environment of that name is there; looks at the disk only."""
    env = environment(name)
    if (env.folder / "ready").is_file() and env.python.exists():
        return State(name, env.title, True, env.folder)
    reason = "is not installed" if not env.folder.exists() else "is damaged"
    return State(name, env.title, False, env.folder, f"the oracle {name!r} ({env.title}) {reason}", next_step(name))


def next_step(name: str) -> str:
    """The command that installs an oracle."""
    return f"ssdconv oracle install {name}"


def states() -> list[State]:
    """All environments, installed or not."""
    return [state(name) for name in ENVIRONMENTS]


_BUILDING = "-building-"


def _lock(env: Environment) -> Path:
    return env.folder.parent / f"{env.name}.lock"


def _half_built(env: Environment) -> list[Path]:
    return [
        path for path in env.folder.parent.glob(f"{env.name}{_BUILDING}*") if path.is_dir() and not path.is_symlink()
    ]


def _sweep(env: Environment) -> None:
    """Remove what killed installations left; the lock is held, so nobody builds there."""
    for path in _half_built(env):
        shutil.rmtree(path, ignore_errors=True)


def tidy() -> None:
    """Remove what killed installations left of any environment, but for those that another process is at."""

    def busy() -> None:
        raise OutputError("another process installs this oracle")

    for env in ENVIRONMENTS.values():
        if _half_built(env):
            with contextlib.suppress(OutputError), locked(_lock(env), busy, patience=0):
                _sweep(env)


def install(name: str, progress: Progress | None = None, *, timeout: float = 3600.0) -> State:
    """Build the environment, or do nothing when it is there.

    Args:
        name: the oracle.
        progress: told each step in a few words.
        timeout: seconds for the package installation.

    Raises:
        MissingError: no suitable Python, no package index, a wheel whose hash differs, or a framework that does not
            run here; nothing is left behind.
    """
    env, say = environment(name), progress or (lambda _: None)
    env.folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(_lock(env), lambda: say("waiting for another process that installs the same oracle")):
        _sweep(env)
        if state(name).installed:
            return state(name)
        python = find_python(env.pythons)
        if python is None:
            raise MissingError(
                f"no Python found for the oracle {name!r}",
                expected=f"Python {', '.join(env.pythons)} on PATH or under pyenv",
                hint=f"`pyenv install {env.pythons[0]}`, then `{next_step(name)}`; conversion works without it",
            )
        temporary = Path(tempfile.mkdtemp(prefix=f"{name}{_BUILDING}", dir=env.folder.parent))
        try:
            _build(env, python, temporary, say, timeout)
            shutil.rmtree(env.folder, ignore_errors=True)
            temporary.rename(env.folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return state(name)


def remove(name: str) -> bool:
    """Delete the environment, its older versions and half-built ones; True when there was something to delete."""
    env = environment(name)
    if not env.folder.parent.is_dir():
        return False
    with locked(_lock(env)):
        found = [path for path in env.folder.parent.glob(f"{name}-*") if path.is_dir()]
        for path in found:
            shutil.rmtree(path)
    return bool(found)


def _build(env: Environment, python: Path, folder: Path, say: Progress, timeout: float) -> None:
    say(f"creating an interpreter from {python}")
    _step(env, [str(python), "-I", "-m", "venv", "--copies" if os.name == "nt" else "--symlinks", str(folder)], 300)
    inner = folder / env.python.relative_to(env.folder)
    say(f"installing {env.title} (about {env.megabytes} MB)")
    pip = [str(inner), "-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
    _step(env, [*pip, "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(env.pins)], timeout)
    if env.sources:
        say("building what has no wheels")
        pip = [*pip, "--require-hashes", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
        _step(env, [*pip, "-r", str(env.pins.with_name(env.sources))], timeout)
    if env.native:
        _build_native(env, inner, folder, say, timeout)
    say("checking that it runs")
    _step(env, [str(inner), "-I", "-c", env.check], 300)
    (folder / "ready").write_text(f"{python}\n")


def _build_native(env: Environment, python: Path, folder: Path, say: Progress, timeout: float) -> None:
    """Fetch the archive, build it, and leave ``LIBRARY`` in ``folder``; sources and objects are removed.

    Raises:
        MissingError: a compiler or library is missing (all are named), the archive cannot be fetched, or does not compile.
    """
    _require_packages(env, say)
    work = folder / "build"
    archive, source, objects = work / "archive", work / "source", work / "objects"
    say("fetching the source archive")
    pip = [str(python), "-I", "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--quiet"]
    flags = ["--require-hashes", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
    _step(env, [*pip, *flags, "-r", str(env.pins.with_name(env.native)), "-d", str(archive)], 600)
    with tarfile.open(next(archive.glob("*.tar.gz"))) as packed:
        packed.extractall(source, filter="data")
    root = next(path for path in source.iterdir() if path.is_dir())
    say("compiling (some minutes)")
    _step(env, ["cmake", "-S", str(NATIVE), "-B", str(objects), f"-DCAFFE={root}"], 300)
    _step(env, ["cmake", "--build", str(objects), "--parallel", str(os.cpu_count() or 1)], timeout)
    target = folder / LIBRARY
    target.parent.mkdir(exist_ok=True)
    shutil.move(objects / target.name, target)
    shutil.rmtree(work)


def _require_packages(env: Environment, say: Progress) -> None:
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
        _step(env, install, 900)
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


def _step(env: Environment, command: list[str], timeout: float) -> None:
    """Run one step; pip keeps the user's own configuration (index, proxy)."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, errors="replace")
    except subprocess.TimeoutExpired:
        raise _failed(env, f"took longer than {timeout:g} s") from None
    except OSError as error:
        raise _failed(env, str(error)) from None
    if run.returncode:
        lines = (run.stderr or run.stdout).strip().splitlines()
        raise _failed(env, "\n".join(lines[-8:]) or f"exit code {run.returncode}")


def _failed(env: Environment, why: str) -> MissingError:
    return MissingError(
        f"the oracle {env.name!r} could not be installed",
        where=str(env.folder),
        got=why,
        hint=f"with a package index within reach, run `{next_step(env.name)}` again; conversion works without it",
    )


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
