"""Talking to a worker by files: answers, crashes, time limits, and an oracle that is not there."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssdconv.errors import MissingError
from ssdconv.parity.oracles import worker
from ssdconv.parity.oracles.environments import ENVIRONMENTS, Environment
from ssdconv.parity.oracles.worker import WORKERS, OracleError, Worker

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
FAKE = Worker("fake", "script")
Put = Callable[[str], None]

ECHO = """
print("libraries print on import")
import os, sys
from serving import serve

def twice(job, arrays):
    print("and while they work")
    return {"got": job, "isolated": "SECRET_PATH" not in sys.path}, {name + "/twice": a * 2 for name, a in arrays.items()}

def who(job, arrays):
    return {"pid": os.getpid(), "loss": float("nan")}, {}

serve(who, **{"a name": twice})
"""
"""A worker that prints where it should not, with a function under another name."""

CRUDE = """
import sys
from pathlib import Path
folder = Path(sys.stdin.readline().rstrip())
{}
print("done", flush=True)
sys.stdin.readline()
"""
"""A worker that does not use ``serving``."""


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Put a script where workers are, run by this very interpreter."""
    pins = tmp_path / "pins.txt"
    pins.write_text("")
    env = Environment("fake", "this interpreter", (HERE,), str(pins), "pass", 1)
    monkeypatch.setitem(ENVIRONMENTS, "fake", env)
    monkeypatch.setenv("SSDCONV_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(worker, "WORKERS", tmp_path)
    shutil.copy(WORKERS / "serving.py", tmp_path)
    env.python.parent.mkdir(parents=True)
    env.python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    env.python.chmod(0o755)
    (env.folder / "ready").write_text("")

    def put(script: str) -> None:
        (tmp_path / "script.py").write_text(script)

    return put


def test_answer(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    put(ECHO)
    monkeypatch.setenv("PYTHONPATH", "SECRET_PATH")
    job = {"do": "a name", "x": [1]}
    answer = FAKE.ask([job, job], {"0/a": np.arange(3), "1/odd name: é": np.ones((2, 2), "f2")})
    assert answer.jobs == [{"got": job, "isolated": True}] * 2
    np.testing.assert_array_equal(answer.arrays["0/a/twice"], [0, 2, 4])
    assert list(answer.arrays.under("1/")) == ["odd name: é/twice"]
    assert answer.arrays.under("1/")["odd name: é/twice"].dtype == np.float16


def test_a_session_keeps_its_process_and_its_files_go_with_the_last_array(put: Put) -> None:
    put(ECHO)
    session = FAKE.session()
    first, second = (session.ask([{"do": "who"}]).jobs[0] for _ in range(2))
    assert first["pid"] == second["pid"] and np.isnan(first["loss"])
    answer = session.ask([{"do": "a name"}], {"0/a": np.arange(3)})
    later = answer.arrays.under("0/").later()
    session.close()
    folder, process = session.folder, session.ask([{"do": "who"}]).jobs[0]["pid"]
    assert process != first["pid"], "it starts anew"
    del session, answer
    gc.collect()
    assert callable(later["a/twice"]) and later["a/twice"]().tolist() == [0, 2, 4]
    later.clear()
    gc.collect()
    assert not folder.exists() and not Path(f"/proc/{process}").exists()


def test_packages_are_lent_to_those_that_borrow(put: Put) -> None:
    put(
        "import sys\nfrom serving import serve\ndef path(job, arrays):\n    return {'path': sys.path}, {}\nserve(path)\n"
    )
    borrowing = Worker("fake", "script", borrows=True)
    mine, theirs = (one.ask([{"do": "path"}]).jobs[0]["path"] for one in (borrowing, FAKE))
    assert len(mine) > len(theirs) and str(Path(np.__file__).parent.parent) == mine[-1]


def test_crash_shows_standard_error(put: Put) -> None:
    put("import sys\nprint('loading libraries', file=sys.stderr)\nraise ValueError('no such block: ssd9')\n")
    with pytest.raises(OracleError, match="the oracle 'fake' failed with exit code 1") as caught:
        FAKE.ask([])
    assert "no such block: ssd9" in str(caught.value) and "loading libraries" in str(caught.value)
    assert caught.value.exit_code == 4


def test_killed_worker(put: Put) -> None:
    put("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    with pytest.raises(OracleError, match="ended by signal 11"):
        FAKE.ask([])


def test_time_limit_ends_the_worker_and_its_children(put: Put, tmp_path: Path) -> None:
    note = tmp_path / "child"
    put(
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "print('still computing', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
    )
    start = time.monotonic()
    with pytest.raises(OracleError, match=r"no answer within 3 s") as caught:
        FAKE.ask([], timeout=3)
    assert time.monotonic() - start < 20 and "still computing" in str(caught.value)
    child = int(note.read_text())
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        pytest.fail("the worker's child outlived the time limit")


@pytest.mark.parametrize("text", ["", '{"a": ', "[]", '{"jobs": [], "arrays": {"a": 5}}'])
def test_no_readable_answer(put: Put, text: str) -> None:
    put(CRUDE.format(f"(folder / 'response.json').write_text('{text}')" if text else ""))
    with pytest.raises(OracleError, match="no readable answer"):
        FAKE.ask([])


def test_pickle_in_the_answer_is_refused(put: Put) -> None:
    put(
        CRUDE.format(
            "import numpy as np\nnp.save(folder / 'a.npy', np.array([object], dtype=object))\n"
            '(folder / "response.json").write_text(\'{"jobs": [], "arrays": {"0/a": "a.npy"}}\')'
        )
    )
    with pytest.raises(OracleError, match="no readable answer"):
        FAKE.ask([]).arrays["0/a"]


def test_not_installed(put: Put) -> None:
    (ENVIRONMENTS["fake"].folder / "ready").unlink()
    with pytest.raises(MissingError, match="ssdconv oracle install fake"):
        FAKE.ask([])


def test_an_interpreter_that_does_not_start(put: Put) -> None:
    python = ENVIRONMENTS["fake"].python
    python.write_text("not a program")
    with pytest.raises(OracleError, match="the oracle 'fake' does not start"):
        FAKE.ask([])
