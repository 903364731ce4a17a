"""Run a worker script in an oracle's own interpreter: arguments and results by files, a time limit, no shell.

The worker gets one argument, a folder. It reads ``request.json`` and ``request.npz`` there and writes ``response.json``
and ``response.npz``. Its standard error is shown, last lines first to blame, when it fails.

A worker process that answers several requests, one after the other: what is costly to load is loaded once.

Arrays go by files, as in ``process``, but each in one of its own, which is read when it is asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.tensors import Array
from ssdconv.errors import MissingError
from ssdconv.parity.oracles.environments import environment, next_step, state

WORKERS = Path(__file__).parent / "workers"


class OracleError(MissingError):
    """A source framework could not answer: it crashed, took too long, or wrote no result."""


@dataclass(frozen=True)
class Answer:
    """What a worker answered: ``data`` from its JSON, ``arrays`` from its npz (empty when it wrote none)."""

    data: dict[str, Any]
    arrays: dict[str, Array]


def ask(
    name: str,
    worker: str,
    request: Mapping[str, Any],
    arrays: Mapping[str, Array] | None = None,
    *,
    timeout: float = 600.0,
) -> Answer:
    """Run ``workers/<worker>.py`` in the environment ``name`` and return its answer.

    Args:
        name: the oracle whose interpreter runs it.
        worker: script name without suffix.
        request: JSON-ready data; paths in it should be absolute.
        arrays: arrays to hand over.
        timeout: seconds after which the worker and all its children are killed.

    Raises:
        MissingError: the oracle is not installed; the hint is the command that installs it.
        OracleError: the worker failed; its last lines are in the message.
    """
    status = state(name)
    if not status.installed:
        raise MissingError(status.reason, hint=f"`{status.next_step}`")
    with tempfile.TemporaryDirectory(prefix=f"ssdconv-{name}-") as folder:
        work = Path(folder)
        (work / "request.json").write_text(json.dumps(dict(request)))
        np.savez(work / "request.npz", **dict(arrays or {}))  # type: ignore[arg-type]
        _run(name, WORKERS / f"{worker}.py", work, timeout)
        return _answer(name, work)


def _run(name: str, script: Path, work: Path, timeout: float) -> None:
    command = [str(environment(name).python), "-E", "-s", "-B", str(script), str(work)]
    log = work / "stderr.txt"
    with log.open("wb") as stream:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True, cwd=work
            )
        except OSError as error:
            raise OracleError(f"the oracle {name!r} does not start: {error}", hint=f"`{next_step(name)}`") from None
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise OracleError(
                f"the oracle {name!r} gave no answer within {timeout:g} s and was stopped", got=tail(log)
            ) from None
        finally:
            end(process)
    if code:
        how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise OracleError(f"the oracle {name!r} {how}", where=script.name, got=tail(log))


def end(process: subprocess.Popen[Any]) -> None:
    """Kill what is left of the worker, its children included."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()


def tail(log: Path, lines: int = 12) -> str:
    text = log.read_bytes()[-8192:].decode(errors="replace").strip().splitlines()
    return "\n    ".join(["no output"] if not text else ["", *text[-lines:]])


def _answer(name: str, work: Path) -> Answer:
    try:
        data = json.loads((work / "response.json").read_text())
        arrays = {}
        if (work / "response.npz").exists():
            with np.load(work / "response.npz", allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
    except (OSError, ValueError) as error:
        raise OracleError(f"the oracle {name!r} wrote no readable answer: {error}") from None
    if not isinstance(data, dict):
        raise OracleError(f"the oracle {name!r} wrote no readable answer", expected="an object", got=type(data))
    return Answer(data, arrays)


class CrashedError(OracleError):
    """The worker ended without an answer; ``got`` has its last words."""


@dataclass(frozen=True)
class Reply:
    """A worker's answer: its data, and its arrays, each read from the disk when called; they go with the last of them."""

    data: dict[str, Any]
    arrays: Mapping[str, Callable[[], Array]]


class Session:
    """A worker that starts with the first request, and anew with the next one after it ended.

    Args:
        title: who it is, for messages.
        python: the interpreter.
        worker: script below ``workers``, without suffix.
        timeout: seconds for one answer.
    """

    def __init__(self, title: str, python: Path, worker: str, timeout: float = 600.0) -> None:
        self.title = title
        self.command = [str(python), "-B", str(WORKERS / f"{worker}.py")]
        self.timeout = timeout
        self._process: subprocess.Popen[str] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="ssdconv-oracle-"))
        self._count = 0
        self._cleaning = weakref.finalize(self, shutil.rmtree, self._folder, True)

    @property
    def folder(self) -> Path:
        """A folder that goes with the session."""
        return self._folder

    def ask(self, request: Mapping[str, Any], arrays: Mapping[str, Array]) -> Reply:
        """One request and its answer.

        Raises:
            CrashedError: the worker ended, or gave no answer in time and was stopped.
        """
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        files = {}
        for number, (name, array) in enumerate(arrays.items()):
            files[name] = f"in{number}.npy"
            np.save(folder / files[name], array)
        (folder / "request.json").write_text(json.dumps({**request, "arrays": files}))
        self._exchange(folder)
        answer = json.loads((folder / "response.json").read_text())
        held = _Folder(folder, self)
        return Reply(answer["data"], {name: _Stored(file, held) for name, file in answer["arrays"].items()})

    def _exchange(self, folder: Path) -> None:
        log = self._folder / "stderr.txt"
        process = self._running(log)
        assert process.stdin is not None and process.stdout is not None
        late = threading.Timer(self.timeout, process.kill)
        late.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{folder}\n")
                process.stdin.flush()
            done = process.stdout.readline() == "done\n"
        finally:
            in_time = not late.finished.is_set()
            late.cancel()
        if done:
            return
        code = process.wait()
        self._process = None
        if not in_time:
            raise CrashedError(f"{self.title} gave no answer within {self.timeout:g} s and was stopped", got=tail(log))
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        raise CrashedError(f"{self.title} crashed: its process ended {how}", got=tail(log))

    def _running(self, log: Path) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            with log.open("wb") as stream:
                self._process = subprocess.Popen(
                    self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, text=True,
                    start_new_session=True, cwd=self._folder, env={**os.environ, "GLOG_minloglevel": "2"},
                )  # fmt: skip
            weakref.finalize(self, end, self._process)
        return self._process

    def close(self) -> None:
        """End the worker and remove its files."""
        if self._process is not None:
            end(self._process)
        self._cleaning()


class _Folder:
    """The folder of one answer; removed when nobody wants an array from it any more."""

    def __init__(self, path: Path, session: Session) -> None:
        self.path = path
        self.session = session  # whose own folder lasts as long
        weakref.finalize(self, shutil.rmtree, path, True)


@dataclass(frozen=True)
class _Stored:
    file: str
    folder: _Folder

    def __call__(self) -> Array:
        array: Array = np.load(self.folder.path / self.file, allow_pickle=False)
        return array
