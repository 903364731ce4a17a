"""Killed, out of space, or over a limit while writing: the file's name holds the old file, the new one whole, or nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ssdconv.converters.convert import reverse
from ssdconv.errors import OutputError
from ssdconv.export.hub import write_hub
from ssdconv.ssd_ref.checkpoint import read

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and signals as Linux has them")

FORMATS = ("h5", "weights.h5", "npz", "pth", "ckpt")
WAYS = ("forward", "back")
COMMON = """
import json, resource, signal, sys
from ssdconv.converters.convert import convert
from ssdconv.converters.convert import reverse
from ssdconv.errors import OutputError
import ssdconv.ssd_ref.checkpoint, ssdconv.ssd_ref.model
def write(job):
    if job["what"] == "forward":
        convert(job["src"], job["dst"], source=job["source"], digests=False, **job["wishes"])
    else:
        reverse(job["src"], job["dst"], job["source"])
jobs = json.loads(sys.argv[1])
"""
FORKS = (
    COMMON
    + """
import os, time
write(jobs[0])
start = time.perf_counter()
write(jobs[0])
print(time.perf_counter() - start, flush=True)
for line in sys.stdin:  # each line: a child that writes again and again, until it is killed
    child = os.fork()
    if not child:
        while True:
            write(jobs[0])
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
)
LIMITED = (
    COMMON
    + """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for job in jobs:
    resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], resource.RLIM_INFINITY))
    try:
        write(job)
        said = "written"
    except OutputError as error:
        said = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(json.dumps(said), flush=True)
"""
)


def target(case: Any, what: str, folder: Path) -> Path:
    return folder / ("out.pth" if what == "forward" else case.file.name)


def job(case: Any, what: str, folder: Path) -> dict[str, Any]:
    src, dst = (case.file if what == "forward" else case.checkpoint), target(case, what, folder)
    return {"what": what, "source": case.source, "src": str(src), "dst": str(dst), "wishes": case.wishes}


def whole(case: Any, what: str, path: Path, folder: Path) -> None:
    """Fails unless ``path`` is a complete file with the case's tensors."""
    if what == "back":
        case.convert(path, folder / "check.pth")
        path = folder / "check.pth"
    held, wanted = read(path).state_dict, read(case.checkpoint).state_dict
    assert held.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert held[name].numpy().tobytes() == tensor.numpy().tobytes(), name


@pytest.mark.parametrize("what", WAYS)
@pytest.mark.parametrize(
    ("name", "kills"), [("npz", 3), *(pytest.param(name, 40, marks=pytest.mark.slow) for name in FORMATS)]
)
def test_kill_at_random_moments(cases: dict[str, Any], name: str, what: str, kills: int, tmp_path: Path) -> None:
    case, rng, seen = cases[name], random.Random(kills), 0
    dst = target(case, what, tmp_path)
    parts = {dst.name} if what == "forward" else {file.name for file in case.files}
    command = [sys.executable, "-c", FORKS, json.dumps([job(case, what, tmp_path)])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        seconds = float(server.stdout.readline())
        for _ in range(kills):
            server.stdin.write("go\n")
            server.stdin.flush()
            child = int(server.stdout.readline())
            time.sleep(rng.uniform(0.0, 3 * seconds + 0.05))
            os.kill(child, signal.SIGKILL)
            assert int(server.stdout.readline()) == signal.SIGKILL
            names = {f.name for f in tmp_path.iterdir() if not f.name.endswith(".tmp")}
            assert names <= parts
            if names == parts:
                whole(case, what, dst, tmp_path)
                seen += 1
            for file in tmp_path.iterdir():
                file.unlink()
    assert seen or kills < 10


def test_a_file_size_limit(cases: dict[str, Any], tmp_path: Path) -> None:
    """Every format in both ways, with limits from nothing to almost enough, in one child."""
    jobs, folders = [], []
    for name, case in cases.items():
        for what in WAYS:
            files = [case.checkpoint] if what == "forward" else case.files
            size = max(file.stat().st_size for file in files)
            for limit in (0, 2_000, size // 2, int(size * 0.99)):
                folders.append(tmp_path / f"{name}-{what}-{limit}")
                folders[-1].mkdir()
                jobs.append(job(case, what, folders[-1]) | {"limit": limit})
    # The same again where a good file stands already.
    for name, case in cases.items():
        folders.append(tmp_path / f"{name}-old")
        folders[-1].mkdir()
        reverse(case.checkpoint, target(case, "back", folders[-1]), case.source)
        jobs.append(job(case, "back", folders[-1]) | {"limit": 2_000})
    before = [{f.name: f.read_bytes() for f in folder.iterdir()} for folder in folders]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, json.dumps(jobs)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-1500:]
    for folder, said, held in zip(folders, done.stdout.splitlines(), before, strict=True):
        assert "cannot write" in json.loads(said), (folder.name, said)
        assert {f.name: f.read_bytes() for f in folder.iterdir()} == held, folder.name
    assert done.stderr == ""


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("what", WAYS)
def test_a_full_disk(case: Any, what: str, full_disk: Path) -> None:
    dst = target(case, what, full_disk)
    with pytest.raises(OutputError, match="cannot write the file: No space left"):
        if what == "forward":
            case.convert(case.file, dst)
        else:
            reverse(case.checkpoint, dst, case.source)
    assert not list(full_disk.iterdir())


def test_a_full_disk_while_a_hub_folder_is_written(cases: dict[str, Any], full_disk: Path) -> None:
    with pytest.raises(OutputError, match="cannot write the file"):
        write_hub(read(cases["h5"].checkpoint), full_disk / "hub")
    assert not list(full_disk.glob("hub*")) and not list(full_disk.glob(".hub*"))
