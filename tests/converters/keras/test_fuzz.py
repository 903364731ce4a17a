"""Mutated HDF5 files, read in a child process with a memory limit: no crash, no hang, nothing but SsdconvError.

The HDF5 library does the parsing, so the child is what makes its faults visible; the reader cannot do more than ask it carefully.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

CHILD = """
import random, resource, sys, time
from pathlib import Path
from ssdconv.converters.keras.files import read_keras
from ssdconv.errors import SsdconvError
path, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
held = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")][0] * 1024
resource.setrlimit(resource.RLIMIT_AS, (held + (256 << 20),) * 2)
whole, rng, read = path.read_bytes(), random.Random(seed), 0
target = path.with_name("mutant.h5")
for index in range(count):
    data = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0: data[at] ^= 1 << rng.randrange(8)
        elif kind == 1: data[at : at + 8] = rng.choice([b"\\xff" * 8, bytes(8), b"\\xff" * 7 + b"\\x7f", b"\\0\\0\\0\\0\\1\\0\\0\\0"])
        elif kind == 2: del data[at : at + rng.randint(1, 64)]
        elif kind == 3: data[at:at] = rng.randbytes(rng.randint(1, 16))
        else: data[at : at + 32] = data[rng.randrange(len(data)) :][:32]
    target.write_bytes(data)
    print(index, flush=True)
    start = time.perf_counter()
    try:
        with read_keras(target) as table:
            for tensor in table.values():
                if tensor.nbytes <= len(whole):
                    tensor.load()
        read += 1
    except SsdconvError:
        pass
    assert time.perf_counter() - start < 5
print("read", read)
"""


def small(path: Path, packing: SimpleNamespace) -> None:
    """A file of a few layers, all structures of Keras' files in it."""
    rng = np.random.default_rng(0)
    layers = {
        "conv1": {"kernel": rng.standard_normal((3, 3, 3, 2)).astype("f4"), "bias": np.zeros(2, "f4")},
        "bn1": {k: np.ones(2, "f4") for k in ("gamma", "beta", "moving_mean", "moving_variance")},
    }
    with h5py.File(path, "w") as file:
        packing.save_weights(file.create_group("model_weights"), layers)
        packing.save_v3(file.create_group("other"), layers)
        file.attrs["backend"] = "tensorflow"


def run(folder: Path, packing: SimpleNamespace, count: int, seed: int) -> int:
    small(folder / "x.h5", packing)
    command = [sys.executable, "-c", CHILD, str(folder / "x.h5"), str(count), str(seed)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60 + count / 10, check=False)
    lines = child.stdout.split("\n")
    assert child.returncode == 0, f"ended with {child.returncode} at mutant {lines[-2]}: {child.stderr[-2000:]}"
    return int(lines[-2].split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="memory limits as Linux has them")
def test_three_hundred_mutants(packing: SimpleNamespace, tmp_path: Path) -> None:
    assert 20 < run(tmp_path, packing, 300, 1) < 290


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory limits as Linux has them")
def test_five_thousand_mutants(packing: SimpleNamespace, tmp_path: Path) -> None:
    assert run(tmp_path, packing, 5_000, 2) > 300
