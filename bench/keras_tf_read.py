"""Reading SSD300-VGG16 from Keras' .h5 and a TensorFlow checkpoint: our readers against h5py alone, TensorFlow, and plain bytes.

Prints one JSON object: milliseconds, best of ``--repeat`` runs on a warm cache, each road interleaved with the others; on a
shared machine read the ratios. "open" lists names and shapes, "load" reads every tensor (the checkpoint's with its CRC-32C checked).
TensorFlow's own figure needs the installed oracle, else it is "not measured". Usage: ``python bench/keras_tf_read.py [--repeat 5]``
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ssdconv.converters.convert import convert
from ssdconv.converters.keras import source as keras_source
from ssdconv.converters.plan import Request
from ssdconv.converters.tensorflow import source as tf_source
from ssdconv.converters.tensorflow.bundle import shard_path
from ssdconv.errors import MissingError
from ssdconv.parity.oracles.tensorflow import ask_jobs
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.keras import ssd_keras
from ssdconv.ssd_ref.networks.tensorflow import hikapok


def write_samples(folder: Path) -> None:
    """The same seeded tensors as an .h5 file and as a checkpoint."""
    config = ssd_keras("ssd_keras_ssd300_voc")
    tensors = seeded_tensors(config)
    keras_source.write(config, tensors, folder / "net.h5", Request())
    tf_source.write(hikapok("hikapok_ssd300_vgg16_voc"), tensors, folder / "net.ckpt", Request())


def opened(read: Callable[[Path], Any]) -> Callable[[Path], int]:
    def road(path: Path) -> int:
        with read(path) as table:
            return len(table)

    return road


def loaded(read: Callable[[Path], Any]) -> Callable[[Path], int]:
    def road(path: Path) -> int:
        with read(path) as table:
            return sum(t.load().size > 0 for t in table.values())

    return road


def h5py_alone(path: Path) -> int:
    arrays: list[Any] = []

    def keep(_: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset):
            arrays.append(found[()])

    with h5py.File(path, "r") as file:
        file.visititems(keep)
    return len(arrays)


def plain_bytes(path: Path) -> int:
    return len(np.fromfile(shard_path(path, 0, 1), np.uint8))


def converted(path: Path) -> int:
    return len(convert(path, path.with_name("out.pth"), digests=False).rows)


ROADS: dict[str, tuple[str, Callable[[Path], int]]] = {
    "h5: open": ("net.h5", opened(keras_source.read)),
    "h5: load": ("net.h5", loaded(keras_source.read)),
    "h5: h5py alone": ("net.h5", h5py_alone),
    "h5: convert to .pth": ("net.h5", converted),
    "checkpoint: open": ("net.ckpt", opened(tf_source.read)),
    "checkpoint: load": ("net.ckpt", loaded(tf_source.read)),
    "checkpoint: plain bytes": ("net.ckpt", plain_bytes),
    "checkpoint: convert to .pth": ("net.ckpt", converted),
}


def tensorflow_itself(path: Path, repeat: int) -> float | str:
    """Milliseconds of TensorFlow's own reader, best of several in one process."""
    try:
        answer = ask_jobs([{"do": "read", "path": str(path)}] * repeat)
    except MissingError as error:
        return f"not measured: {error.what}"
    return round(1e3 * min(job["seconds"] for job in answer.data["jobs"]), 2)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_samples(folder)
        best = dict.fromkeys(ROADS, float("inf"))
        for _ in range(repeat):
            for road, (file, run) in ROADS.items():
                start = time.perf_counter()
                run(folder / file)
                best[road] = min(best[road], 1e3 * (time.perf_counter() - start))
        theirs = tensorflow_itself(folder / "net.ckpt", repeat)
    ratios: dict[str, Any] = {
        "h5: load against h5py alone": round(best["h5: h5py alone"] / best["h5: load"], 2),
        "checkpoint: load against plain bytes": round(best["checkpoint: plain bytes"] / best["checkpoint: load"], 2),
    }
    if isinstance(theirs, float):
        ratios["checkpoint: load against TensorFlow"] = round(theirs / best["checkpoint: load"], 2)
    times: dict[str, Any] = {road: round(value, 2) for road, value in best.items()}
    times["checkpoint: TensorFlow"] = theirs
    print(json.dumps({"milliseconds": times, "times faster": ratios, "load": os.getloadavg()[0]}, indent=1))


if __name__ == "__main__":
    main()
