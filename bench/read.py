"""Reading SSD300-VGG16 from each source's file: our readers against what is usually called on the same file.

Prints one JSON object: milliseconds, best of ``--repeat`` rounds on a warm cache in which all roads take turns; on a shared machine
read the ratios. "open" lists names and shapes, "view" checks checksums too and gives arrays that lie in the file, "copy" gives arrays in
memory of their own. ``deflated`` is Chainer's default form of .npz. Peers: google.protobuf's full parse (.caffemodel), ``numpy.load``,
``torch.load``, h5py alone, TensorFlow's own reader (needs the installed oracle, else "not measured"), and plain bytes.
Usage: ``python bench/read.py [--repeat 5] [--only npz pth h5]``
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from _timing import best_of

from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.converters.caffe.schema import messages
from ssdconv.converters.chainer.npz import read_npz
from ssdconv.converters.convert import convert, reverse
from ssdconv.converters.keras import source as keras_source
from ssdconv.converters.plan import Request
from ssdconv.converters.pytorch.reader import read_pth
from ssdconv.converters.pytorch.source import entries
from ssdconv.converters.tensorflow import source as tf_source
from ssdconv.converters.tensorflow.bundle import shard_path
from ssdconv.errors import MissingError
from ssdconv.parity.oracles.tensorflow import WORKER
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.registry import network

Road = Callable[[Path], object]


def write_samples(folder: Path) -> None:
    """The same seeded network in every form."""
    config = network("caffe/ssd300_voc")
    checkpoint.save(folder / "net.safetensors", config, seeded_tensors(config))
    reverse(folder / "net.safetensors", folder / "net.caffemodel", "caffe")
    config = network("chainer/ssd300_voc")
    tensors = seeded_tensors(config)
    checkpoint.save(folder / "net.safetensors", config, tensors)
    reverse(folder / "net.safetensors", folder / "stored.npz", "chainer")
    with np.load(folder / "stored.npz") as stored:
        np.savez_compressed(folder / "deflated.npz", **{name: stored[name] for name in stored.files})
    rows = entries(network("pytorch/ssd_pytorch_ssd300_voc"), "ssd.pytorch")
    state = {row.source: torch.from_numpy(tensors[row.target]) for row in rows}
    torch.save(state, folder / "zip.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    for name, source, write in (
        ("net.h5", "keras/ssd_keras_ssd300_voc", keras_source.write),
        ("net.ckpt", "tensorflow/hikapok_ssd300_vgg16_voc", tf_source.write),
    ):
        config = network(source)
        write(config, seeded_tensors(config), folder / name, Request())


def opened(read: Callable[[Path], Any], path: Path) -> int:
    with read(path) as table:
        return len(table)


def viewed(read: Callable[[Path], Any], path: Path) -> int:
    with read(path) as table:
        return sum(t.load().size > 0 for t in table.values())


def copied(read: Callable[[Path], Any], path: Path) -> int:
    with read(path) as table:
        return sum(np.array(t.load()).size > 0 for t in table.values())


def protobuf_arrays(path: Path) -> int:
    net = messages()["Net"]()
    net.ParseFromString(path.read_bytes())
    return len([np.array(b.data, np.float32).reshape(tuple(b.shape.dim)) for layer in net.layer for b in layer.blobs])


def numpy_load(path: Path) -> int:
    with np.load(path, allow_pickle=False) as stored:
        return sum(stored[name].size > 0 for name in stored.files)


def torch_load(path: Path) -> int:
    return len(torch.load(path, map_location="cpu", weights_only=True))


def h5py_alone(path: Path) -> int:
    arrays: list[Any] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda _, found: arrays.append(found[()]) if isinstance(found, h5py.Dataset) else None)
    return len(arrays)


def converted(path: Path) -> int:
    order = "RGB" if path.suffix == ".pth" else None
    return len(convert(path, path.with_name("out.pth"), channel_order=order, digests=False).rows)


WAYS: dict[str, Callable[[Callable[[Path], Any], Path], int]] = {"open": opened, "view": viewed, "copy": copied}
FILES: dict[str, tuple[str, Callable[[Path], Any], tuple[str, Road]]] = {
    "caffemodel": ("net.caffemodel", read_caffemodel, ("google.protobuf", protobuf_arrays)),
    "npz stored": ("stored.npz", read_npz, ("numpy.load", numpy_load)),
    "npz deflated": ("deflated.npz", read_npz, ("numpy.load", numpy_load)),
    "pth zip": ("zip.pth", read_pth, ("torch.load", torch_load)),
    "pth legacy": ("legacy.pth", read_pth, ("torch.load", torch_load)),
    "h5": ("net.h5", keras_source.read, ("h5py alone", h5py_alone)),
    "checkpoint": (
        "net.ckpt",
        tf_source.read,
        ("plain bytes", lambda path: np.fromfile(shard_path(path, 0, 1), np.uint8)),
    ),
}
"""Form -> file, our reader, its peer."""


def tensorflow_itself(path: Path, repeat: int) -> float | str:
    """Milliseconds of TensorFlow's own reader, best of several in one process."""
    try:
        answer = WORKER.ask([{"do": "read", "path": str(path)}] * repeat)
    except MissingError as error:
        return f"not measured: {error.what}"
    return round(1e3 * min(job["seconds"] for job in answer.jobs), 2)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[""], help="forms that begin so")
    options = parser.parse_args()
    forms = {form: row for form, row in FILES.items() if form.startswith(tuple(options.only))}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_samples(folder)
        roads: dict[str, Callable[[], object]] = {}
        for form, (file, read, (peer, run)) in forms.items():
            path = folder / file
            roads |= {f"{form}: {word}": partial(way, read, path) for word, way in WAYS.items()}
            roads |= {f"{form}: {peer}": partial(run, path), f"{form}: convert to .pth": partial(converted, path)}
        best = best_of(roads, options.repeat)
        sizes = {p.name: p.stat().st_size for p in sorted(folder.iterdir()) if not p.name.startswith("out")}
        theirs = tensorflow_itself(folder / "net.ckpt", options.repeat) if "checkpoint" in forms else None
    times: dict[str, Any] = {road: round(value, 2) for road, value in best.items()}
    ratios = {
        f"{form}: {word} against {peer}": round(best[f"{form}: {peer}"] / best[f"{form}: {word}"], 2)
        for form, (_, _, (peer, _)) in forms.items()
        for word in ("view", "copy")
    }
    if theirs is not None:
        times["checkpoint: TensorFlow"] = theirs
    print(
        json.dumps(
            {"bytes": sizes, "cpus": os.cpu_count(), "ms": times, "times_faster": ratios, "load": os.getloadavg()[0]},
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
