"""A worker process that answers several requests, one after the other: what is costly to load is loaded once.

Arrays go by files, as in ``process``, but each in one of its own, which is read when it is asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
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
from ssdconv.parity.oracles.process import WORKERS, OracleError, end, tail


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
