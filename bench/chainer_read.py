"""Reading SSD300-VGG16 from .npz and .pth: our readers against ``numpy.load`` and ``torch.load`` on the same files.

Prints one JSON object: milliseconds, best of ``--repeat`` runs on a warm cache, each road interleaved with the others; on a
shared machine read the ratios. "open" lists names and shapes, "view" checks checksums too and gives arrays that lie in the file,
"copy" gives arrays in memory of their own, as ``numpy.load`` does. ``deflated`` is Chainer's default form of .npz.
Usage: ``python bench/chainer_read.py [--repeat 5]``
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssdconv.converters.chainer.npz import read_npz, write_npz
from ssdconv.converters.convert import convert
from ssdconv.converters.pytorch.reader import read_pth
from ssdconv.converters.pytorch.source import entries
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.chainer import chainer
from ssdconv.ssd_ref.networks.pytorch import pytorch


def write_samples(folder: Path) -> dict[str, int]:
    """The same seeded network in four forms; returns the sizes of the files."""
    from ssdconv.converters.chainer.source import write
    from ssdconv.converters.plan import Request

    tensors = seeded_tensors(chainer("ssd300_voc"))
    write(chainer("ssd300_voc"), tensors, folder / "stored.npz", Request())
    with np.load(folder / "stored.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez_compressed(folder / "deflated.npz", **arrays)
    rows = entries(pytorch("ssd_pytorch_ssd300_voc"), "ssd.pytorch")
    state = {row.source: torch.from_numpy(tensors[row.target]) for row in rows}
    torch.save(state, folder / "zip.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def opened(read: Callable[[Path], Any]) -> Callable[[Path], int]:
    def road(path: Path) -> int:
        with read(path) as table:
            return len(table)

    return road


def viewed(read: Callable[[Path], Any], copy: bool = False) -> Callable[[Path], int]:
    def road(path: Path) -> int:
        with read(path) as table:
            return sum((np.array(t.load()) if copy else t.load()).size > 0 for t in table.values())

    return road


def numpy_load(path: Path) -> int:
    with np.load(path, allow_pickle=False) as stored:
        return sum(stored[name].size > 0 for name in stored.files)


def torch_load(path: Path) -> int:
    return len(torch.load(path, map_location="cpu", weights_only=True))


def rewritten(path: Path) -> int:
    with np.load(path, allow_pickle=False) as stored:
        write_npz(path.with_name("again.npz"), {name: stored[name] for name in stored.files})
    return 71


def converted(path: Path) -> int:
    order = "RGB" if path.suffix == ".pth" else None
    return len(convert(path, path.with_name("out.pth"), channel_order=order, digests=False).rows)


ROADS: dict[str, tuple[str, Callable[[Path], int]]] = {
    "npz stored: open": ("stored.npz", opened(read_npz)),
    "npz stored: view": ("stored.npz", viewed(read_npz)),
    "npz stored: copy": ("stored.npz", viewed(read_npz, copy=True)),
    "npz stored: numpy.load": ("stored.npz", numpy_load),
    "npz deflated: open": ("deflated.npz", opened(read_npz)),
    "npz deflated: view": ("deflated.npz", viewed(read_npz)),
    "npz deflated: numpy.load": ("deflated.npz", numpy_load),
    "npz stored: convert to .pth": ("stored.npz", converted),
    "npz stored: numpy.load and write back": ("stored.npz", rewritten),
    "pth zip: open": ("zip.pth", opened(read_pth)),
    "pth zip: view": ("zip.pth", viewed(read_pth)),
    "pth zip: torch.load": ("zip.pth", torch_load),
    "pth legacy: open": ("legacy.pth", opened(read_pth)),
    "pth legacy: view": ("legacy.pth", viewed(read_pth)),
    "pth legacy: torch.load": ("legacy.pth", torch_load),
    "pth zip: convert to .pth": ("zip.pth", converted),
}


def ratios(times: Mapping[str, float]) -> dict[str, float]:
    """How many times faster than the peer."""
    pairs = [
        ("npz stored: copy", "npz stored: numpy.load"),
        ("npz stored: view", "npz stored: numpy.load"),
        ("npz deflated: view", "npz deflated: numpy.load"),
        ("pth zip: view", "pth zip: torch.load"),
        ("pth legacy: view", "pth legacy: torch.load"),
    ]
    return {f"{mine} against {peer.split(': ')[1]}": round(times[peer] / times[mine], 2) for mine, peer in pairs}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = write_samples(folder)
        best: dict[str, float] = {}
        for _ in range(repeat):
            for road, (file, run) in ROADS.items():
                start = time.perf_counter()
                if run(folder / file) != 71:
                    raise SystemExit(f"{road}: not all tensors were read")
                taken = (time.perf_counter() - start) * 1e3
                best[road] = min(best.get(road, taken), taken)
    times = {road: round(value, 2) for road, value in best.items()}
    print(json.dumps({"bytes": sizes, "cpus": os.cpu_count(), "ms": times, "times_faster": ratios(best)}, indent=2))


if __name__ == "__main__":
    main()
