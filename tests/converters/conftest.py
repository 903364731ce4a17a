"""Mutated files for fuzzing, in this process and in one with a memory limit."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ssdconv.converters.tensors import TensorTable
from ssdconv.errors import SsdconvError

EDGES = (
    0,
    1,
    2,
    7,
    31,
    32,
    33,
    0x7F,
    0xFF,
    0xFFFF,
    0xF993FAC8,
    0xF993FAC9,
    0xF993FACA,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 62,
    (1 << 64) - 1,
)
Ranges = tuple[tuple[int, int], ...]
Parse = Callable[[bytes], TensorTable]


def mutate(rng: random.Random, data: bytes, focus: Ranges = ()) -> bytes:
    """One to four edits of ``data``: flipped bits, edge values, cuts, insertions, moved blocks.

    Most of them lie within the ``focus`` ranges, where headers are.
    """
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        low, high = rng.choice(focus) if focus and rng.random() < 0.8 else (0, len(out))
        kind, at = rng.randrange(7), rng.randrange(low, max(min(high, len(out)), low + 1))
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind == 2:
            out[at : at + 4] = struct.pack("<I", rng.choice(EDGES) & 0xFFFFFFFF)
        elif kind == 3:
            out[at : at + 8] = struct.pack("<Q", rng.choice(EDGES))
        elif kind == 4:
            del out[at : at + rng.randint(1, 16)]
        elif kind == 5:
            out[at:at] = rng.randbytes(rng.randint(1, 16))
        else:
            block = out[at : at + rng.randint(1, 40)]
            to = rng.randrange(len(out) or 1)
            out[to : to + len(block)] = block
    return bytes(out)


def _fuzz(parse: Parse, seeds: list[tuple[bytes, Ranges]], mutants: int, seed: int, limit: int = 1 << 20) -> int:
    """Parse mutants and load what is accepted; returns how many were accepted whole.

    Nothing but SsdconvError may escape, no mutant may take two seconds, and no tensor may load as another size than declared.
    """
    rng, accepted = random.Random(seed), 0
    for index in range(mutants):
        mutant = mutate(rng, *rng.choice(seeds))
        start = time.perf_counter()
        try:
            for tensor in parse(mutant).values():
                if tensor.nbytes <= limit:  # a network's shapes bound this in real life
                    assert tensor.load().nbytes == tensor.nbytes
            accepted += 1
        except SsdconvError:
            pass
        except Exception as error:
            raise AssertionError(f"mutant {index} of seed {seed}: {mutant.hex()}") from error
        assert time.perf_counter() - start < 2, f"mutant {index} of seed {seed}: {mutant.hex()}"
    return accepted


CHILD = """
import importlib, random, resource, sys
sys.path.insert(0, sys.argv[1])
from conftest import mutate
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
read = getattr(importlib.import_module(sys.argv[2]), sys.argv[3])
from pathlib import Path
from ssdconv.errors import SsdconvError
rng, path, seen = random.Random(int(sys.argv[6])), Path(sys.argv[4]) / "mutant", [0, 0]
seeds = [p.read_bytes() for p in sorted(Path(sys.argv[4]).glob("seed-*"))]
for index in range(int(sys.argv[5])):
    path.write_bytes(mutate(rng, rng.choice(seeds)))
    try:
        with read(path) as table:
            for tensor in table.values():
                if tensor.nbytes < 1 << 26:
                    tensor.load()
        seen[0] += 1
    except SsdconvError:
        seen[1] += 1
print(*seen)
"""


@pytest.fixture(scope="session")
def fuzz() -> Callable[..., int]:
    """See ``_fuzz``."""
    return _fuzz


@pytest.fixture
def fuzz_child(tmp_path: Path) -> Callable[..., tuple[int, int]]:
    """Fuzz a reader of files in a child process that may use 1 GiB: (accepted, refused); a signal or MemoryError fails."""

    def run(module: str, function: str, seeds: list[bytes], mutants: int, seed: int) -> tuple[int, int]:
        for index, data in enumerate(seeds):
            (tmp_path / f"seed-{index}").write_bytes(data)
        arguments = [str(Path(__file__).parent), module, function, str(tmp_path), str(mutants), str(seed)]
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        accepted, refused = map(int, done.stdout.split())
        return accepted, refused

    return run
