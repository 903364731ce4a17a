"""The projects' own code as oracles: a user's checkout, recorded with its commit and hashes, run in an interpreter that still can.

A network that was rebuilt from facts shares its facts with the converter. The original code does not: it builds its own layers, priors and
detections from the weight file. Nothing of these projects is part of ssdconv: the user brings the checkout
(``ssdconv oracle add-original NAME CHECKOUT``), and its code is run as it stands, by a worker that only adds what today's framework took away.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from ssdconv.converters.convert import Opened
from ssdconv.converters.tensors import Array
from ssdconv.errors import FormatError, MissingError, UsageError
from ssdconv.parity.layers.inputs import Image
from ssdconv.parity.oracles.base import Availability, OracleRun, Outputs, Prepared, plan_probes, runs
from ssdconv.parity.oracles.environments import state
from ssdconv.parity.oracles.worker import Arrays, Job, OracleWorker, Worker, detections_in
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.files import atomic_path, home

INPUT = "input"
MAX_FILES = 2_000


@dataclass(frozen=True)
class Original:
    """A project whose code can be run.

    Attributes:
        name: its word on the command line.
        project: where it comes from.
        commit: the one that this was tried with; another one is run too, and named in the verdict.
        needed: files that the worker imports, below the checkout.
        worker: who runs it.
        any_of: names of files of which one must be somewhere below the checkout, for a project that moved its files.
    """

    name: str
    project: str
    commit: str
    needed: tuple[str, ...]
    worker: Worker
    any_of: tuple[str, ...] = ()


TORCH = Worker("torchvision", "torch_worker", "torchvision 0.28.0", "0.28.0", borrows=True)

ORIGINALS: dict[str, Original] = {
    o.name: o
    for o in (
        Original(
            "ssd.pytorch",
            "amdegroot/ssd.pytorch",
            "5b0b77faa955c1917b0c710d770739ba8fbff9b7",
            ("ssd.py", "layers/box_utils.py", "layers/functions/detection.py", "layers/functions/prior_box.py", "data/config.py"),
            TORCH,
        ),
        Original(
            "simple-ssd",
            "HosinPrime/simple-ssd-for-beginners",
            "0b87e8fcd0d21a58cee7f9e37c15ed64435e268b",
            ("config.py", "lib/model.py", "lib/multibox_encoder.py", "lib/utils.py"),
            TORCH,
        ),
        Original(
            "ssd_keras",
            "pierluigiferrari/ssd_keras",
            "3ac9adaf3889f1020d74b0eeefea281d5e82f353",
            (),
            Worker("ssd_keras", "ssd_keras_worker"),
            any_of=("keras_ssd7.py", "keras_ssd300.py", "keras_ssd512.py"),
        ),
        Original(
            "hikapok",
            "HiKapok/SSD.TensorFlow",
            "b47ff6164c8925a8bbccc593719d5bbbab996058",
            ("eval_ssd.py", "net/ssd_net.py", "utility/anchor_manipulator.py", "preprocessing/ssd_preprocessing.py"),
            Worker("hikapok", "hikapok_worker"),
        ),
    )
}  # fmt: skip
"""Projects by name."""


@dataclass(frozen=True)
class Checkout:
    """A recorded checkout.

    Attributes:
        name: key of ``ORIGINALS``.
        path: the folder.
        commit: of git; "" for a folder without it.
        changed: Python files that differ from that commit.
        files: SHA-256 of every Python file, by path below the folder.
    """

    name: str
    path: str
    commit: str
    changed: tuple[str, ...]
    files: Mapping[str, str]

    @property
    def said(self) -> str:
        """What a verdict says of it."""
        original = ORIGINALS[self.name]
        at = self.commit[:7] or f"a folder without git (ssd files {digest_of(self.files)[:12]})"
        edited = f", with {len(self.changed)} changed files" if self.changed else ""
        return f"{original.project} at {at}{edited}"


def original(name: str) -> Original:
    """The project of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in ORIGINALS:
        raise UsageError(f"no original project {name!r}", expected=f"one of {', '.join(ORIGINALS)}")
    return ORIGINALS[name]


def add(name: str, path: Path) -> Checkout:
    """Look at a checkout and record it; nothing of it is run.

    Raises:
        UsageError: no such project.
        MissingError: no such folder.
        FormatError: the folder lacks the project's files.
    """
    wanted = original(name)
    if not path.is_dir():
        raise MissingError("no such folder", where=str(path), hint=f"`git clone` {wanted.project} there")
    found = looked_at(name, path.resolve())
    lacking = [file for file in wanted.needed if file not in found.files]
    if wanted.any_of and not any(name.rsplit("/", 1)[-1] in wanted.any_of for name in found.files):
        lacking = list(wanted.any_of)
    if lacking:
        raise FormatError(
            f"this is no checkout of {wanted.project}", where=str(path), expected=", ".join(wanted.needed or wanted.any_of),
            got=f"no {lacking[0]}",
        )  # fmt: skip
    with atomic_path(_record(name)) as temporary:
        temporary.write_text(json.dumps(asdict(found), indent=1))
    return found


def looked_at(name: str, path: Path) -> Checkout:
    """A checkout as it is now.

    Raises:
        FormatError: too many Python files for one project.
    """
    files = {}
    for file in sorted(path.rglob("*.py")):
        if file.is_file() and not file.is_symlink():
            files[file.relative_to(path).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
        if len(files) > MAX_FILES:
            raise FormatError("more Python files than a project has", where=str(path), expected=f"at most {MAX_FILES}")
    commit = _git(path, "rev-parse", "HEAD") if (path / ".git").exists() else ""
    status = _git(path, "status", "--porcelain", "--", "*.py") if commit else ""
    return Checkout(name, str(path), commit, tuple(line[3:] for line in status.splitlines()), files)


def _git(path: Path, *words: str) -> str:
    """What git answers; "" where it cannot."""
    try:
        run = subprocess.run(
            ["git", "-C", str(path), "-c", "core.fsmonitor=false", *words],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip("\n") if run.returncode == 0 else ""


def digest_of(files: Mapping[str, str]) -> str:
    """One SHA-256 over the hashes of a checkout's files."""
    return hashlib.sha256(json.dumps(dict(sorted(files.items()))).encode()).hexdigest()


def _record(name: str) -> Path:
    folder = home() / "originals"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.json"


def recorded(name: str) -> Checkout | None:
    """What ``add`` recorded; None where there is nothing, or nothing readable."""
    path = home() / "originals" / f"{original(name).name}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Checkout)
    except (OSError, msgspec.DecodeError):
        return None


def forget(name: str) -> bool:
    """Drop the record; True when there was one. The checkout itself is the user's and stays."""
    path = home() / "originals" / f"{original(name).name}.json"
    had = path.exists()
    path.unlink(missing_ok=True)
    return had


Read = Callable[[Arrays, SSDConfig, int], OracleRun]
"""The arrays of a worker's job, the network, and a count of images -> the outputs."""


class OriginalOracle(OracleWorker):
    """A project's own code, holding the weights of a file.

    Args:
        name: the project.
        job: what its worker needs to build and load the network.
        config: the network that the file was taken for.
        read: how the answer reads, where not as ``read_run`` has it.
    """

    timeout = 900.0

    def __init__(self, name: str, job: Mapping[str, Any], config: SSDConfig, read: Read | None = None) -> None:
        self.original, self.config = original(name), config
        self.asked, self._read = {"do": "activations", **job}, read or read_run
        self.worker = self.original.worker

    @property
    def name(self) -> str:
        title = state(self.worker.environment).title
        return f"the project's original code: {said_of(self.original.name)}, {title}"

    def available(self) -> Availability:
        name = self.original.name
        found = recorded(name)
        if found is None:
            step = f"`git clone` it and run `ssdconv oracle add-original {name} CHECKOUT`"
            return Availability(False, f"no checkout of {self.original.project} was added", step)
        if looked_at(name, Path(found.path)).files != found.files:
            why = f"the checkout in {found.path} is not as it was when it was added"
            return Availability(
                False, why, f"look at it, then run `ssdconv oracle add-original {name} {found.path}` again"
            )
        return super().available()

    def job(self) -> dict[str, Any]:
        return in_checkout(self.original.name, self.asked)

    def read(self, arrays: Arrays, images: int) -> OracleRun:
        return self._read(arrays, self.config, images)


def in_checkout(name: str, job: Job) -> dict[str, Any]:
    """A job of a project's worker; its checkout must have been added."""
    found = recorded(name)
    assert found is not None
    return {**job, "checkout": found.path}


def prepared_pixels(name: str, job: Job, images: Sequence[Image]) -> list[Array]:
    """Images (height, width, 3) BGR uint8 as a project's own code prepares them."""
    return original(name).worker.prepared(in_checkout(name, job), images)


def read_run(arrays: Arrays, config: SSDConfig, images: int) -> OracleRun:
    """Layers under ``modules/``, raw heads, priors as Caffe lays them out, and each image's (n, 6) label, score, corners."""
    outputs = arrays.under("modules/").later()
    outputs |= {name: arrays[name] for name in ("loc", "conf", "priors")}
    return OracleRun(Outputs(outputs), detections_in(arrays, images))


def said_of(name: str) -> str:
    """What a verdict says of a project."""
    found = recorded(name)
    return found.said if found is not None else original(name).project


def prepared(name: str, opened: Opened, job: Job, read: Read | None = None) -> Prepared:
    """A project's code as the oracle of an opened file.

    Args:
        name: key of ``ORIGINALS``.
        opened: the file.
        job, read: see ``OriginalOracle``.
    """
    return Prepared(
        OriginalOracle(name, job, opened.plan.config, read),
        plan_probes(opened.plan.probes, INPUT, loc="loc", conf="conf", priors="priors"),
        INPUT,
        runs("original code", said_of(name)),
    )
