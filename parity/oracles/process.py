"""Run a worker script in an oracle's own interpreter: arguments and results by files, a time limit, no shell.

The worker gets one argument, a folder. It reads ``request.json`` and ``request.npz`` there and writes ``response.json``
and ``response.npz``. Its standard error is shown, last lines first to blame, when it fails.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
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
