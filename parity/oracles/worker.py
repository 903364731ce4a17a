"""Source frameworks in interpreters of their own: how a worker is started, what it is asked, and what it answers.

A worker is a script of ``workers/``. It needs its framework and NumPy, runs on Python 3.6 or later, and imports nothing of ssdconv. Once started it does
jobs until its stdin ends (``workers/serving.py``): a line there names a folder with ``request.json`` and the arrays that belong to it, and ``done`` on
its stdout says that ``response.json`` and its arrays lie in the same folder. Both are a ``WorkerMessage``. Whatever libraries print goes to stderr, whose last
lines are in the message where a worker dies. There is no shell, no pickle, and a time limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import numpy as np

from ssdconv.converters.tensors import Array
from ssdconv.errors import MissingError
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.layers.inputs import Image
from ssdconv.parity.oracles.base import Availability, OracleRun
from ssdconv.parity.oracles.environments import environment, next_step, state

WORKERS = Path(__file__).parent / "workers"
Job = Mapping[str, Any]
"""``do``, the name of one of the worker's functions, and its arguments: JSON, with absolute paths."""


class WorkerMessage(TypedDict):
    """``request.json`` and ``response.json``.

    Attributes:
        jobs: what to do, one ``Job`` after the other; or what each of them says.
        arrays: the .npy file of every array by its name, ``<number of the job>/<name>``.
    """

    jobs: list[dict[str, Any]]
    arrays: dict[str, str]


class OracleError(MissingError):
    """A source framework could not answer: it crashed, took too long, or wrote no result; ``got`` has its last words."""


class Arrays(Mapping[str, Array]):
    """Arrays of an answer by name, each read from the disk when it is asked for; the files go with the last of them."""

    def __init__(self, files: Mapping[str, Path], held: object) -> None:
        self._files, self._held = files, held

    def __getitem__(self, name: str) -> Array:
        try:
            array: Array = np.load(self._files[name], allow_pickle=False)
        except (OSError, ValueError) as error:
            raise _unreadable(error) from None
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def under(self, head: str) -> Arrays:
        """Those whose names start with ``head``, without it."""
        return Arrays({n[len(head) :]: file for n, file in self._files.items() if n.startswith(head)}, self._held)

    def later(self) -> dict[str, Array | Callable[[], Array]]:
        """How to read each, as ``Outputs`` takes them."""
        return {name: partial(self.__getitem__, name) for name in self}


@dataclass(frozen=True)
class Answer:
    """What a worker answered: what each job says, and all their arrays under ``<number of the job>/<name>``."""

    jobs: list[dict[str, Any]]
    arrays: Arrays


class Session:
    """A worker that answers requests one after the other; it starts with the first one, and anew after it ended.

    Args:
        title: who it is, for messages.
        python: the interpreter.
        script: of ``workers``, or a path, without suffix.
        lent: folders of packages that it may take from this interpreter.
        timeout: seconds for one answer, after which it and all its children are killed.
        hint: what helps where it does not start.
    """

    def __init__(
        self, title: str, python: Path, script: str, *, lent: Sequence[str] = (), timeout: float = 600.0, hint: str = ""
    ) -> None:
        alone = (
            [] if python == Path(sys.executable) else ["-E", "-s"]
        )  # else packages may be the user's, or on PYTHONPATH
        self.title, self.script, self.timeout, self.hint = title, script, timeout, hint
        self.command = [str(python), *alone, "-B", str(WORKERS / f"{script}.py"), *lent]
        self.folder = Path(tempfile.mkdtemp(prefix="ssdconv-oracle-"))
        self._process: subprocess.Popen[str] | None = None
        self._count = 0
        weakref.finalize(self, shutil.rmtree, self.folder, True)

    def ask(self, jobs: Sequence[Job], arrays: Mapping[str, Array] | None = None) -> Answer:
        """One request and its answer.

        Args:
            jobs: what to do.
            arrays: named ``<number of the job>/<name>``.

        Raises:
            OracleError: the worker ended, gave no answer in time and was stopped, or its answer cannot be read.
        """
        self._count += 1
        folder = _Folder(self.folder / str(self._count), self)
        request: WorkerMessage = {"jobs": [dict(job) for job in jobs], "arrays": {}}
        for number, (name, array) in enumerate((arrays or {}).items()):
            request["arrays"][name] = f"in{number}.npy"
            np.save(folder.path / f"in{number}.npy", array, allow_pickle=False)
        (folder.path / "request.json").write_text(json.dumps(request))
        self._exchange(folder.path)
        try:
            found = msgspec.convert(json.loads((folder.path / "response.json").read_bytes()), WorkerMessage)
        except (OSError, ValueError, msgspec.ValidationError) as error:  # json, because losses may be NaN
            raise _unreadable(error) from None
        return Answer(found["jobs"], Arrays({n: folder.path / file for n, file in found["arrays"].items()}, folder))

    def _exchange(self, folder: Path) -> None:
        log, late = self.folder / "stderr.txt", threading.Event()
        process = self._running(log)
        assert process.stdin is not None and process.stdout is not None

        def stop() -> None:
            late.set()
            end(process)

        timer = threading.Timer(self.timeout, stop)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{folder}\n")
                process.stdin.flush()
            done = any(line == "done\n" for line in iter(process.stdout.readline, ""))
        finally:
            timer.cancel()
        if done:
            return
        code = process.wait()
        self._process = None
        if late.is_set():
            raise OracleError(f"{self.title} gave no answer within {self.timeout:g} s and was stopped", got=_tail(log))
        how = f"crashed: its process ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise OracleError(f"{self.title} {how}", where=f"{Path(self.script).name}.py", got=_tail(log))

    def _running(self, log: Path) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            try:
                with log.open("wb") as stream:
                    self._process = subprocess.Popen(
                        self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, text=True,
                        start_new_session=True, cwd=self.folder, env={**os.environ, "GLOG_minloglevel": "2"},
                    )  # fmt: skip
            except OSError as error:
                raise OracleError(f"{self.title} does not start: {error}", hint=self.hint or None) from None
            weakref.finalize(self, end, self._process)
        return self._process

    def close(self) -> None:
        """End the worker; its answers stay as long as somebody has them."""
        if self._process is not None:
            end(self._process)
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    assert stream is not None
                    stream.close()
            self._process = None


class _Folder:
    """The folder of one exchange; removed when nobody wants an array from it any more."""

    def __init__(self, path: Path, session: Session) -> None:
        path.mkdir()
        self.path, self._session = path, session  # whose own folder lasts as long
        weakref.finalize(self, shutil.rmtree, path, True)


def end(process: subprocess.Popen[Any]) -> None:
    """Kill what is left of the worker, its children included."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()


def _tail(log: Path, lines: int = 12) -> str:
    text = log.read_bytes()[-8192:].decode(errors="replace").strip().splitlines()
    return "\n    ".join(["no output"] if not text else ["", *text[-lines:]])


def _unreadable(error: Exception) -> OracleError:
    return OracleError(f"the oracle wrote no readable answer: {error}")


@dataclass(frozen=True)
class Worker:
    """A source framework in an interpreter of its own.

    Attributes:
        environment: the oracle's name in ``ssdconv oracle install``.
        script: of ``workers``, or a path, without suffix.
        title: framework and versions, for reports.
        version: of the framework.
        borrows: it takes torch and NumPy from this interpreter.
    """

    environment: str
    script: str
    title: str = ""
    version: str = ""
    borrows: bool = False

    def available(self) -> Availability:
        """Whether it is installed."""
        found = state(self.environment)
        return Availability(found.installed, found.reason, found.next_step, self.version if found.installed else "")

    def session(self, title: str = "", timeout: float = 600.0) -> Session:
        """A process of it, for several requests.

        Raises:
            MissingError: the framework is not installed; the hint is the command that installs it.
        """
        found, hint = state(self.environment), f"`{next_step(self.environment)}`"
        if not found.installed:
            raise MissingError(found.reason, hint=hint)
        lent = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}) if self.borrows else []
        python, title = environment(self.environment).python, title or f"the oracle {self.environment!r}"
        return Session(title, python, self.script, lent=lent, timeout=timeout, hint=hint)

    def ask(self, jobs: Sequence[Job], arrays: Mapping[str, Array] | None = None, *, timeout: float = 600.0) -> Answer:
        """``Session.ask`` in a process that does these jobs only.

        Raises:
            MissingError: the framework is not installed, or a job failed.
        """
        session = self.session(timeout=timeout)
        try:
            return session.ask(jobs, arrays)
        finally:
            session.close()

    def prepared(self, job: Job, images: Sequence[Image]) -> list[Array]:
        """Images (height, width, 3) BGR uint8 as a job prepares them, which is given RGB under their numbers."""
        given = {f"0/{number}": np.ascontiguousarray(image[..., ::-1]) for number, image in enumerate(images)}
        answer = self.ask([job], given)
        return [answer.arrays[f"0/{number}"] for number in range(len(images))]


class OracleWorker(ABC):
    """An ``Oracle`` that a worker runs: what it is asked and how its answer reads is the source's; the rest is the same for all.

    Attributes:
        worker: who runs it.
        timeout: seconds for one run.
    """

    worker: Worker
    timeout: float = 600.0

    @property
    def name(self) -> str:
        """Framework and versions."""
        return self.worker.title

    def available(self) -> Availability:
        """Whether the worker is installed."""
        return self.worker.available()

    def run(self, pixels: Array) -> OracleRun:
        """Run the network on prepared pixels (N, channels, H, W).

        Raises:
            MissingError: the framework is not installed, or failed, as where it cannot load the file.
        """
        given = {"0/input": np.ascontiguousarray(pixels, np.float32)}
        answer = self.worker.ask([self.job()], given, timeout=self.timeout)
        return self.read(answer.arrays.under("0/"), len(pixels))

    @abstractmethod
    def job(self) -> dict[str, Any]:
        """The worker's job that computes this network's layers, heads and detections for ``input``."""

    @abstractmethod
    def read(self, arrays: Arrays, images: int) -> OracleRun:
        """The job's arrays for so many images, in the reference's order and units."""


def detections_in(arrays: Arrays, images: int) -> tuple[Rows, ...]:
    """Each image's ``<i>/detections`` (n, 6): label with background 0, score, corners as fractions."""
    found = (arrays[f"{image}/detections"].astype(np.float32, copy=False) for image in range(images))
    return tuple(Rows(r[:, 0].astype(np.int64), r[:, 1], r[:, 2:]) for r in found)
