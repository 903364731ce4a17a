"""GluonCV files and networks: conversion against MXNet and against writing the bytes, detection against GluonCV's forward.

Needs MXNet (``ssdconv oracle install gluon``). Prints one JSON object; times are the best of ``--repeat``, roads interleaved, on
a warm cache; on a shared machine read the ratios. Usage:
``python bench/gluon_convert.py [--repeat 3] [--network NAME] [--batch 1] [--threads N]``
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ssdconv.converters.convert import convert
from ssdconv.converters.gluon.params import read_params
from ssdconv.parity.oracles.gluon import GluonOracle
from ssdconv.parity.oracles.worker import Worker
from ssdconv.ssd_ref.checkpoint import load
from ssdconv.ssd_ref.networks.gluon import gluon
from ssdconv.ssd_ref.postprocess import detect

MAKER = Worker("gluon", str(Path(__file__).resolve().parents[1] / "tests/parity/oracles/workers/gluon_maker"))

MEMORY = """
import sys, threading, time
from pathlib import Path
from ssdconv.converters.convert import convert
import ssdconv.converters.gluon.source, ssdconv.ssd_ref.checkpoint, safetensors.torch

def anonymous():
    return int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("RssAnon")).split()[1])
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.0005)
peak, done = 0, False
before = anonymous()
thread = threading.Thread(target=watch); thread.start()
convert(sys.argv[1], sys.argv[2])
done = True; thread.join()
print((peak - before) * 1024)
"""


def best(road: Callable[[], object]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    road()
    return time.perf_counter() - start


def write_bytes(data: bytes, path: Path) -> None:
    """The least that a conversion must do: write as many bytes and get them onto the disk."""
    with path.open("wb") as stream:
        stream.write(data)
        os.fsync(stream.fileno())


def conversion(params: Path, folder: Path, repeat: int) -> dict[str, object]:
    """.params to checkpoint, and the roads to compare with."""
    data = params.read_bytes()
    with read_params(params) as table:
        largest = max(t.nbytes for t in table.values() if "anchors" not in t.name)
        arrays = {name: torch.from_numpy(np.array(t.load())) for name, t in table.items()}
    roads: dict[str, Callable[[], object]] = {
        "write_bytes": lambda: write_bytes(data, folder / "raw"),
        "convert_safetensors": lambda: convert(params, folder / "out.safetensors", digests=False),
        "convert_pth": lambda: convert(params, folder / "out.pth", digests=False),
        "torch_save": lambda: torch.save(arrays, folder / "peer.pth"),
    }
    convert(params, folder / "out.safetensors")
    seconds = dict.fromkeys(roads, float("inf"))
    for _ in range(repeat):
        for name, road in roads.items():
            seconds[name] = min(seconds[name], best(road))
    answer = MAKER.ask([{"do": "bench_load", "path": str(params), "repeat": repeat}])
    seconds["mxnet_load"] = min(answer.jobs[0]["seconds"])
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(params), str(folder / "memory.safetensors")],
        capture_output=True,
        text=True,
        check=True,
    )
    private = int(run.stdout)
    return {
        "file_bytes": len(data),
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "private_bytes": private,
        "largest_tensor_bytes": largest,
        "ratios": {
            "convert_safetensors / write_bytes": round(seconds["convert_safetensors"] / seconds["write_bytes"], 2),
            "(mxnet_load + torch_save) / convert_pth": round(
                (seconds["mxnet_load"] + seconds["torch_save"]) / seconds["convert_pth"], 2
            ),
            "private memory / (largest tensor + 64 MB)": round(private / (largest + 64e6), 2),
        },
    }


def throughput(params: Path, folder: Path, network: str, repeat: int, batch: int, threads: int) -> dict[str, object]:
    """Pictures per second, detections included: the same input, thread count and process priority on both sides.

    Ours as ``verify --dataset`` runs it, channels last under inference mode; GluonCV's hybridized with static memory, with
    and without MXNet's fusion of operators (its better figure counts). Rounds of both sides take turns.
    """
    config = gluon(network)
    models = {"ssdconv": load(folder / "out.pth").to(memory_format=torch.channels_last)}
    models["ssdconv, contiguous"] = load(folder / "out.pth")
    size = config.pixels.size[0]
    array = np.random.default_rng(0).uniform(-2, 2, (batch, 3, size, size)).astype("f4")
    pixels = {name: torch.from_numpy(array) for name in models}
    pixels["ssdconv"] = pixels["ssdconv"].contiguous(memory_format=torch.channels_last)
    seconds: dict[str, list[float]] = {}
    job = {**GluonOracle(params, config).job(), "do": "bench", "repeat": repeat}
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    for _ in range(3):
        for name, model in models.items():
            for index in range(repeat + 2):
                with torch.inference_mode():
                    x = pixels[name]
                    took = best(lambda: detect(*model(x), config.priors, config.pixels.size, config.detect))  # noqa: B023
                if index >= 2:
                    seconds.setdefault(name, []).append(took)
        for backend in ("NONE", "MKLDNN"):
            os.environ["MXNET_SUBGRAPH_BACKEND"] = backend
            answer = MAKER.ask([job], {"0/input": array}).jobs[0]
            assert answer["threads"] == str(torch.get_num_threads()) and answer["backend"] == backend
            seconds.setdefault(f"gluoncv, subgraph backend {backend}", []).extend(answer["seconds"])
    rates = {name: batch / float(np.median(values)) for name, values in seconds.items()}
    peer = max(rate for name, rate in rates.items() if name.startswith("gluoncv"))
    return {
        "threads": threads,
        "batch": batch,
        "load_average": os.getloadavg()[0],
        "pictures_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "ratios": {"ssdconv / gluoncv": round(rates["ssdconv"] / peer, 2)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--network", default="ssd_512_resnet50_v1_voc")
    parser.add_argument("--batch", type=int, default=1, help="pictures per forward pass")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each side")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = {"do": "build", "network": args.network, "seed": 1, "size": 300, "folder": name, "stem": "net"}
        built = MAKER.ask([{**job, "dialects": ["structural"]}])
        params = Path(built.jobs[0]["paths"]["structural"])
        result = {
            "bench": "gluon_convert",
            "network": args.network,
            "peer": "MXNet 1.9.1, GluonCV 0.10.5.post0",
            "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "torch": str(torch.__version__)},
            "repeat": args.repeat,
            "conversion": conversion(params, folder, args.repeat),
            "detection": throughput(params, folder, args.network, 2 * args.repeat, args.batch, args.threads),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
