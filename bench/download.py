"""Downloads and loading by name: ``python bench/download.py`` prints JSON.

A server in a process of its own sends 150 MB over the loopback interface. ``ssdconv.fetch`` takes it (hashed on the fly, synced
to the disk, renamed) in turn with copy loops that do not hash: blocks of 1 MB over ``http.client``, with and without a sync at
the end, and ``shutil.copyfileobj`` over ``urllib``. Ratios are speeds, ours over the loop's, from medians of the same run. Where
sha256 of bytes in memory alone takes longer than the loop, no ratio of 1 can be reached, with however many threads. Then a network of SSD300's size is used by name: first use converts, later uses
take the cached checkpoint, whose sha256 is checked; loading is compared with ``torch.load`` of the same weights as .pth.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MEGABYTES = 150
CHUNK = 1 << 20


def serve(path: Path) -> None:
    """Answer every request with the file; prints the port first."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    size = path.stat().st_size
    while True:
        connection, _ = listener.accept()
        with connection, path.open("rb") as stream:
            connection.recv(65536)
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode())
            connection.sendfile(stream)


def copy_loop(url: str, target: Path) -> None:
    """The plain way: read a block, write a block."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    connection.request("GET", parts.path)
    answer = connection.getresponse()
    with target.open("wb") as out:
        while block := answer.read(CHUNK):
            out.write(block)
    connection.close()


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def copy_and_sync(url: str, target: Path) -> None:
    """The plain way, with the bytes on the disk for sure at the end, as ours are."""
    copy_loop(url, target)
    with target.open("rb+") as stream:
        os.fsync(stream.fileno())


def copyfileobj(url: str, target: Path) -> None:
    """The standard library's way."""
    with urllib.request.urlopen(url) as answer, target.open("wb") as out:
        shutil.copyfileobj(answer, out)


def downloads(folder: Path, rounds: int) -> dict[str, Any]:
    """Our download beside the plain loops."""
    from ssdconv.fetch.digest import Expected
    from ssdconv.fetch.download import fetch

    source, target = folder / "source.bin", folder / "target.bin"
    source.write_bytes(os.urandom(1 << 20) * MEGABYTES)
    data = source.read_bytes()
    expected = Expected(len(data), "sha256", hashlib.sha256(data).hexdigest())
    child = subprocess.Popen([sys.executable, __file__, "--serve", str(source)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    url = f"http://127.0.0.1:{int(child.stdout.readline())}/w.bin"
    ways: dict[str, Callable[[], object]] = {
        "ssdconv": lambda: fetch([url], target, expected),
        "copy loop": lambda: copy_loop(url, target),
        "copy loop with sync": lambda: copy_and_sync(url, target),
        "copyfileobj": lambda: copyfileobj(url, target),
        "sha256 in memory": lambda: hashlib.sha256(data).digest(),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    try:
        for i in range(rounds + 1):
            for name, way in ways.items():
                taken = seconds(way)
                target.unlink(missing_ok=True)
                if i:  # the first round fills the file cache
                    times[name].append(taken)
    finally:
        child.kill()
        child.wait()
    middle = {name: statistics.median(taken) for name, taken in times.items()}
    loops = ("copy loop", "copy loop with sync", "copyfileobj")
    return {
        "megabytes": MEGABYTES,
        "rounds": rounds,
        "seconds": {name: round(taken, 3) for name, taken in middle.items()},
        "speed over": {name: round(middle[name] / middle["ssdconv"], 2) for name in loops},
        "best that hashing allows over the copy loop": round(
            middle["copy loop"] / max(middle["copy loop"], middle["sha256 in memory"]), 2
        ),
    }


def by_name(folder: Path, rounds: int) -> dict[str, Any]:
    """A network of SSD300's size from a zoo file, first and later uses."""
    import torch

    from ssdconv.converters.convert import reverse
    from ssdconv.ssd_ref import checkpoint
    from ssdconv.ssd_ref.model import SSD
    from ssdconv.ssd_ref.networks.registry import network

    torch.manual_seed(0)
    model = SSD(network("ssd300_voc", "caffe"))
    checkpoint.save(folder / "a.pth", model.config, model.state_dict(), {})
    reverse(folder / "a.pth", folder / "ssd300.caffemodel", "caffe")
    environment = os.environ | {"SSDCONV_HOME": str(folder / "home")}
    tool = [sys.executable, "-m", "ssdconv"]
    added = [*tool, "zoo", "add", "ssd300.caffemodel", "--name", "bench", "--network", "ssd300_voc", "--zoo", "z.json"]
    subprocess.run(added, cwd=folder, check=True, env=environment, capture_output=True)
    code = (
        "import time; start = time.perf_counter()\n"
        "from pathlib import Path\nfrom ssdconv import zoo\n"
        "path = zoo.weights('bench', zoo=Path('z.json')); found = time.perf_counter() - start\n"
        "zoo.load(path); print(found, time.perf_counter() - start, path)"
    )

    def run() -> tuple[float, float, str]:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=folder, check=True, env=environment, capture_output=True, text=True)
        found, whole, path = done.stdout.split(maxsplit=2)
        return float(found), float(whole), path.strip()

    first = run()
    later = [run() for _ in range(rounds)]
    bare = [seconds(lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True)) for _ in range(rounds)]
    cached = Path(first[2])
    checkpoint.load(cached)
    mapped = [seconds(lambda: checkpoint.load(cached)) for _ in range(rounds)]
    plain = [seconds(lambda: torch.load(folder / "a.pth", weights_only=True)) for _ in range(rounds)]
    middle = statistics.median
    return {
        "megabytes": round(cached.stat().st_size / 1e6, 1),
        "seconds": {
            "first use": round(first[1], 3),
            "later use, whole": round(middle([whole for _, whole, _ in later]), 3),
            "later use, path with sha256 checked": round(middle([found for found, _, _ in later]), 3),
            "import torch alone": round(middle(bare), 3),
            "load of the cached .safetensors": round(middle(mapped), 4),
            "torch.load of the .pth": round(middle(plain), 4),
        },
        "torch.load over loading from the cache": round(middle(plain) / middle(mapped), 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    with tempfile.TemporaryDirectory() as folder:
        result = {"download": downloads(Path(folder), options.rounds), "by name": by_name(Path(folder), options.rounds)}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
