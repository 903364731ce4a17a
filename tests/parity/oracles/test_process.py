"""Talking to a worker by files: answers, crashes, time limits, and an oracle that is not there."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ssdconv.errors import MissingError
from ssdconv.parity.oracles import process
from ssdconv.parity.oracles.environments import ENVIRONMENTS, Environment
from ssdconv.parity.oracles.process import OracleError, ask

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"

ECHO = """
import json, sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
request = json.loads((folder / "request.json").read_text())
with np.load(folder / "request.npz") as stored:
    np.savez(folder / "response.npz", **{k + "/twice": stored[k] * 2 for k in stored.files})
(folder / "response.json").write_text(json.dumps({"got": request, "isolated": "SECRET_PATH" not in sys.path}))
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Put a script where workers are, run by this very interpreter."""
    pins = tmp_path / "pins.txt"
    pins.write_text("")
    env = Environment("fake", "this interpreter", (HERE,), str(pins), "pass", 1)
    monkeypatch.setitem(ENVIRONMENTS, "fake", env)
    monkeypatch.setenv("SSDCONV_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(process, "WORKERS", tmp_path)
    env.python.parent.mkdir(parents=True)
    env.python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    env.python.chmod(0o755)
    (env.folder / "ready").write_text("")

    def put(script: str) -> None:
        (tmp_path / "script.py").write_text(script)

    return put


def test_answer(worker, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    worker(ECHO)
    monkeypatch.setenv("PYTHONPATH", "SECRET_PATH")
    answer = ask("fake", "script", {"jobs": [{"do": "x"}]}, {"0/a": np.arange(3), "odd name: é": np.ones((2, 2), "f2")})
    assert answer.data == {"got": {"jobs": [{"do": "x"}]}, "isolated": True}
    np.testing.assert_array_equal(answer.arrays["0/a/twice"], [0, 2, 4])
    assert answer.arrays["odd name: é/twice"].dtype == np.float16


def test_crash_shows_standard_error(worker) -> None:  # type: ignore[no-untyped-def]
    worker("import sys\nprint('loading libraries', file=sys.stderr)\nraise ValueError('no such block: ssd9')\n")
    with pytest.raises(OracleError, match="exit code 1") as caught:
        ask("fake", "script", {})
    assert "no such block: ssd9" in str(caught.value) and "loading libraries" in str(caught.value)
    assert caught.value.exit_code == 4


def test_killed_worker(worker) -> None:  # type: ignore[no-untyped-def]
    worker("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    with pytest.raises(OracleError, match="ended by signal 11"):
        ask("fake", "script", {})


def test_time_limit_ends_the_worker_and_its_children(worker, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    note = tmp_path / "child"
    worker(
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "print('still computing', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
    )
    start = time.monotonic()
    with pytest.raises(OracleError, match=r"no answer within 3 s"):
        ask("fake", "script", {}, timeout=3)
    assert time.monotonic() - start < 20
    child = int(note.read_text())
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        pytest.fail("the worker's child outlived the time limit")


@pytest.mark.parametrize("script", ["", "import sys\nopen(sys.argv[1] + '/response.json', 'w').write('{\"a\": ')"])
def test_no_readable_answer(worker, script: str) -> None:  # type: ignore[no-untyped-def]
    worker(script)
    with pytest.raises(OracleError, match="no readable answer"):
        ask("fake", "script", {})


def test_pickle_in_the_answer_is_refused(worker) -> None:  # type: ignore[no-untyped-def]
    worker(
        "import sys\nimport numpy as np\nopen(sys.argv[1] + '/response.json', 'w').write('{}')\n"
        "np.savez(sys.argv[1] + '/response.npz', a=np.array([object], dtype=object))\n"
    )
    with pytest.raises(OracleError, match="no readable answer"):
        ask("fake", "script", {})


def test_not_installed(worker) -> None:  # type: ignore[no-untyped-def]
    (ENVIRONMENTS["fake"].folder / "ready").unlink()
    with pytest.raises(MissingError, match="ssdconv oracle install fake"):
        ask("fake", "script", {})
