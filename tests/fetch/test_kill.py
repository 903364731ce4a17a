"""kill -9 at random moments of a download: the file is absent or right, and the next run finishes it."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdconv.fetch.digest import Expected
from ssdconv.fetch.download import fetch

BIG = np.random.default_rng(9).bytes(3_000_000)
SHA = hashlib.sha256(BIG).hexdigest()
CHILD = """
import sys
from pathlib import Path
from ssdconv.fetch.digest import Expected
from ssdconv.fetch.download import Options, fetch
print("ready", flush=True)
sys.stdin.readline()
fetch([sys.argv[1]], Path(sys.argv[2]), Expected({size}, "sha256", "{sha}"), options=Options(timeout=5))
print("done", flush=True)
"""


def paced(request: Any) -> None:
    """The file from where it was asked, over about a quarter of a second."""
    start = request.start
    whole = f"bytes {start}-{len(BIG) - 1}/{len(BIG)}"
    if start:
        request.head("206 Partial Content", Content_Length=len(BIG) - start, Content_Range=whole, ETag='"k"')
    else:
        request.head("200 OK", Content_Length=len(BIG), ETag='"k"')
    for at in range(start, len(BIG), 100_000):
        request.send(BIG[at : at + 100_000])
        time.sleep(0.008)


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_at_random_moments(kills: int, server: Any, tmp_path: Path) -> None:
    server.script = [paced]
    code = CHILD.format(size=len(BIG), sha=SHA)
    seeded = random.Random(kills)
    resumed = finished = 0
    for round_ in range(kills):
        target = tmp_path / f"{round_ // 4}" / "weights.bin"  # up to four kills of one download
        target.parent.mkdir(exist_ok=True)
        before = len(server.requests)
        child = subprocess.Popen(
            [sys.executable, "-c", code, server.url, str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdin is not None and child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.stdin.write("\n")
        child.stdin.flush()
        time.sleep(seeded.uniform(0, 0.3))
        child.kill()
        child.communicate()
        finished += target.exists()
        assert not target.exists() or target.read_bytes() == BIG
        resumed += any("range" in request.headers for request in server.requests[before:])
    for folder in tmp_path.iterdir():
        target = folder / "weights.bin"
        fetch([server.url], target, Expected(len(BIG), "sha256", SHA))
        assert target.read_bytes() == BIG
        assert {path.name for path in folder.iterdir()} == {"weights.bin", "weights.bin.lock"}
    assert resumed > 0, "no kill left a part that was continued"
    assert finished < kills, "every download ended before it was killed"


def test_two_processes_download_once(server: Any, tmp_path: Path) -> None:
    server.script = [paced]
    target = tmp_path / "weights.bin"
    code = CHILD.format(size=len(BIG), sha=SHA)
    command = [sys.executable, "-c", code, server.url, str(target)]
    pair = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for child in pair:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for child in pair:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in pair:
        out, _ = child.communicate(timeout=30)
        assert (child.returncode, out) == (0, "done\n")
    assert target.read_bytes() == BIG
    assert len(server.requests) == 1
