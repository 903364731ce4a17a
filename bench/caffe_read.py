"""Reading a .caffemodel the size of SSD300-VGG16: our walk against google.protobuf's full parse of the same file.

Prints one JSON object. Times are the best of ``--repeat`` runs on a warm cache, each road interleaved with the others; on a
shared machine read the ratios. Usage: ``python bench/caffe_read.py [--repeat 5]``
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google.protobuf
import numpy as np

from ssdconv.converters.caffe.net import CaffeLayer, CaffeNet
from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.converters.caffe.schema import messages
from ssdconv.converters.caffe.writer import write_caffemodel

VGG = [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256), (512, 256)] + [(512, 512)] * 5
EXTRAS = [(1024, 512, 3), (1024, 1024, 1), (256, 1024, 1), (512, 256, 3), (128, 512, 1), (256, 128, 3)] + [
    (128, 256, 1),
    (256, 128, 3),
] * 2
SOURCES = [(512, 4), (1024, 6), (512, 6), (256, 6), (256, 4), (256, 4)]


def shapes(classes: int = 21) -> list[tuple[int, ...]]:
    """Kernel shapes of SSD300-VGG16's convolutions."""
    body = [(out, inp, 3, 3) for out, inp in VGG] + [(out, inp, k, k) for out, inp, k in EXTRAS]
    heads = [(priors * width, inp, 3, 3) for inp, priors in SOURCES for width in (4, classes)]
    return body + heads


def write_sample(path: Path) -> tuple[int, int]:
    """A seeded file with these shapes; returns the counts of tensors and of numbers."""
    rng = np.random.default_rng(0)
    blobs, layers = {}, []
    for i, shape in enumerate(shapes()):
        blobs[f"conv{i}/0"] = rng.standard_normal(shape, dtype=np.float32)
        blobs[f"conv{i}/1"] = rng.standard_normal(shape[0], dtype=np.float32)
        params = {"convolution_param": {"num_output": shape[0], "kernel_size": [shape[2]]}}
        layers.append(CaffeLayer(f"conv{i}", "Convolution", params=params))
    blobs["norm/0"] = np.full(512, 20, np.float32)
    layers.append(CaffeLayer("norm", "Normalize", params={"norm_param": {"across_spatial": False}}))
    write_caffemodel(CaffeNet("bench", {}, tuple(layers)), blobs, path)
    return len(blobs), sum(a.size for a in blobs.values())


def walk(path: Path) -> int:
    with read_caffemodel(path) as table:
        return len(table)


def walk_and_copy(path: Path) -> int:
    with read_caffemodel(path) as table:
        return sum(np.array(t.load()).size > 0 for t in table.values())


def raw_read(path: Path) -> int:
    return len(path.read_bytes())


def protobuf_parse(path: Path) -> Any:
    net = messages()["Net"]()
    net.ParseFromString(path.read_bytes())
    return net


def protobuf_arrays(path: Path) -> int:
    net = protobuf_parse(path)
    arrays = [np.array(b.data, np.float32).reshape(tuple(b.shape.dim)) for layer in net.layer for b in layer.blobs]
    return len(arrays)


ROADS: dict[str, Callable[[Path], Any]] = {
    "raw_read": raw_read,
    "walk": walk,
    "walk_and_copy": walk_and_copy,
    "protobuf_parse": protobuf_parse,
    "protobuf_arrays": protobuf_arrays,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.caffemodel"
        start = time.perf_counter()
        tensors, numbers = write_sample(path)
        written = time.perf_counter() - start
        seconds = dict.fromkeys(ROADS, float("inf"))
        for _ in range(repeat):
            for name, road in ROADS.items():
                start = time.perf_counter()
                road(path)
                seconds[name] = min(seconds[name], time.perf_counter() - start)
        size = path.stat().st_size
    result = {
        "bench": "caffe_read",
        "peer": f"google.protobuf {google.protobuf.__version__}",
        "file": {"bytes": size, "tensors": tensors, "numbers": numbers, "made_in_s": round(written, 3)},
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__},
        "repeat": repeat,
        "seconds": {name: round(value, 6) for name, value in seconds.items()},
        "ratios": {
            "protobuf_parse / walk": round(seconds["protobuf_parse"] / seconds["walk"], 2),
            "protobuf_arrays / walk_and_copy": round(seconds["protobuf_arrays"] / seconds["walk_and_copy"], 2),
            "walk_and_copy / raw_read": round(seconds["walk_and_copy"] / seconds["raw_read"], 2),
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
