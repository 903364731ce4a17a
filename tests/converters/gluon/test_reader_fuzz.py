"""Mutated .params files: nothing but SsdconvError escapes the reader, and what it accepts can be loaded."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssdconv.converters.gluon.params import parse
from ssdconv.errors import SsdconvError

EDGES = [0, 1, 2, 7, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xF993FAC8, 0xF993FAC9, 0xF993FACA, 1 << 62]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One to four edits: flipped bits, edge values in aligned words, cuts, insertions, moved blocks."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        kind, at = rng.randrange(6), rng.randrange(len(out) or 1)
        if kind == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + 4] = struct.pack("<I", rng.choice(EDGES) & 0xFFFFFFFF)
        elif kind == 2:
            out[at & ~3 : (at & ~3) + 8] = struct.pack("<Q", rng.choice(EDGES))
        elif kind == 3:
            del out[at : at + rng.randint(1, 16)]
        elif kind == 4:
            out[at:at] = rng.randbytes(rng.randint(1, 16))
        else:
            block = out[at : at + rng.randint(1, 40)]
            to = rng.randrange(len(out) or 1)
            out[to : to + len(block)] = block
    return bytes(out)


def run(packing: SimpleNamespace, mutants: int, seed: int) -> int:
    rng, data, accepted = random.Random(seed), packing.small(), 0
    for index in range(mutants):
        mutant = mutate(rng, data)
        start = time.perf_counter()
        try:
            table = parse(memoryview(mutant), Path("x.params"))
            for tensor in table.values():
                assert tensor.load().nbytes == tensor.nbytes <= len(mutant)
            accepted += 1
        except SsdconvError:
            pass
        except Exception as error:
            raise AssertionError(f"mutant {index} of seed {seed}: {mutant.hex()}") from error
        assert time.perf_counter() - start < 2
    return accepted


def test_ten_thousand_mutants(packing: SimpleNamespace) -> None:
    accepted = run(packing, 10_000, 1)
    assert 100 < accepted < 9_000, "mutants should mostly be refused, and reach the data now and then"


@pytest.mark.slow
def test_hundred_thousand_mutants(packing: SimpleNamespace) -> None:
    assert run(packing, 100_000, 2) > 1_000
