"""Mutated indices, V1 tables and graphs: nothing but SsdconvError escapes, nothing is slow or large."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ssdconv.converters.protobuf_wire import Wire
from ssdconv.converters.tensorflow import table as tables
from ssdconv.converters.tensorflow.bundle import Bundle, saved_tensors
from ssdconv.converters.tensorflow.graphdef import graph_nodes
from ssdconv.converters.tensorflow.table import Table, slice_key
from ssdconv.errors import SsdconvError

EDGES = [0, 1, 5, 127, 128, 255, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


def field(number: int, body: bytes) -> bytes:
    return bytes([number << 3 | 2, len(body)]) + body


def v1_table(packing: SimpleNamespace) -> bytes:
    """Two float tensors of a V1 checkpoint, one in two slices."""
    whole, rows = b"\x0a\x00\x0a\x00", [b"\x0a\x02\x10\x01\x0a\x00", b"\x0a\x04\x08\x01\x10\x01\x0a\x00"]
    shape = b"\x12\x02\x08\x02\x12\x02\x08\x02"
    metas = [field(1, name) + field(2, shape) + b"\x18\x01" for name in (b"a", b"b")]
    metas[0] += field(4, whole)
    metas[1] += field(4, rows[0]) + field(4, rows[1])
    listed = field(1, b"".join(field(1, m) for m in metas))

    def saved(name: bytes, extent: bytes, values: list[float]) -> bytes:
        proto = field(5, struct.pack(f"<{len(values)}f", *values))
        return field(2, field(1, name) + field(2, extent) + field(3, proto))

    entries = [
        (b"", listed),
        (slice_key("a", [(0, -1), (0, -1)]), saved(b"a", whole, [1, 2, 3, 4])),
        (slice_key("b", [(0, 1), (0, -1)]), saved(b"b", rows[0], [5, 6])),
        (slice_key("b", [(1, 1), (0, -1)]), saved(b"b", rows[1], [7, 8])),
    ]
    return packing.table([packing.block(entries)], [entries[-1][0]])


def graph() -> bytes:
    """A GraphDef of a placeholder and two constants."""
    out = field(1, field(1, b"x") + field(2, b"Placeholder"))
    for name, values in ((b"w/kernel", [1.0, 2.0]), (b"b", [3.0, 3.0])):
        raw = struct.pack("<2f", *values)
        content = field(4, raw) if name != b"b" else field(5, raw[:4])
        proto = b"\x08\x01" + field(2, field(2, b"\x08\x02")) + content
        out += field(1, field(1, name) + field(2, b"Const") + field(5, field(1, b"value") + field(2, field(8, proto))))
    return out


def test_overlapping_slices_of_a_v1_file_are_refused(packing: SimpleNamespace) -> None:
    """The second slice's extent in the list is made the first's: start 1 becomes start 0."""
    listed = v1_table(packing).replace(b"\x0a\x04\x08\x01\x10\x01\x0a\x00", b"\x0a\x04\x08\x00\x10\x01\x0a\x00", 1)
    block = listed[: listed.rindex(b"\0\0\0\0\1\0\0\0\0", 0, -80) + 9]
    fixed = packing.table([block + packing.masked(packing.crc(block))], [b"\0c"])
    held = saved_tensors(Table(fixed, "x"))
    assert held["a"].load().tolist() == [[1, 2], [3, 4]]
    with pytest.raises(SsdconvError, match="do not make it up"):
        held["b"].load()


def test_the_seeds_are_good(packing: SimpleNamespace) -> None:
    held = {n: t.load().tolist() for n, t in saved_tensors(Table(v1_table(packing), "x")).items()}
    assert held == {"a": [[1, 2], [3, 4]], "b": [[5, 6], [7, 8]]}
    found, nodes = graph_nodes(Wire(graph(), "x"), len(graph()))
    assert {n: t.load().tolist() for n, t in found.items()} == {"w/kernel": [1, 2], "b": [3, 3]}
    assert nodes["x"].op == "Placeholder"


def mutate(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        kind, at = rng.randrange(5), rng.randrange(len(out) or 1)
        if kind == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + 1] = bytes([rng.choice(EDGES) & 0xFF])
        elif kind == 2:
            del out[at : at + rng.randint(1, 12)]
        elif kind == 3:
            value = rng.choice(EDGES)
            while value > 127:
                out[at:at] = bytes([value & 127 | 128])
                value >>= 7
        else:
            out[at:at] = out[rng.randrange(len(out) or 1) :][: rng.randint(1, 30)]
    return bytes(out)


class NoShard:
    """A data file of zeros."""

    data = bytes(64)

    def unchanged(self) -> None: ...
    def close(self) -> None: ...


def read_v2(data: bytes) -> list:
    bundle = Bundle(Table(data, "x"), lambda index, count: NoShard())  # type: ignore[arg-type, return-value]
    return list(bundle.tensors().values())


def read_v1(data: bytes) -> list:
    return list(saved_tensors(Table(data, "x")).values())


def read_graph(data: bytes) -> list:
    return list(graph_nodes(Wire(data, "x"), len(data))[0].values())


def run(seed_file: bytes, read: Callable[[bytes], list], mutants: int, seed: int) -> int:
    rng, accepted = random.Random(seed), 0
    for index in range(mutants):
        mutant = mutate(rng, seed_file)
        start = time.perf_counter()
        try:
            for tensor in read(mutant):
                array: np.ndarray = tensor.load()
                assert array.base is not None or array.nbytes <= 64 + 30 * len(mutant)
            accepted += 1
        except SsdconvError:
            pass
        except Exception as error:
            raise AssertionError(f"mutant {index} of seed {seed}: {mutant.hex()}") from error
        assert time.perf_counter() - start < 2
    return accepted


@pytest.fixture
def no_crc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let mutants past the checksum, so that the parsers behind it are reached."""
    real = tables.masked

    class Anything(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = int.__hash__

    monkeypatch.setattr(tables, "masked", lambda crc: Anything(real(0)))
    monkeypatch.setattr(tables, "crc32c", lambda data: 0)


def all_three(packing: SimpleNamespace, folder: Path, mutants: int, seed: int) -> list[int]:
    index, _ = packing.small(folder)
    return [
        run(index.read_bytes(), read_v2, mutants, seed),
        run(v1_table(packing), read_v1, mutants, seed + 1),
        run(graph(), read_graph, mutants, seed + 2),
    ]


def test_a_thousand_mutants_of_each(packing: SimpleNamespace, tmp_path: Path, no_crc: None) -> None:
    for accepted in all_three(packing, tmp_path, 1_000, 1):
        assert accepted < 8_500


@pytest.mark.slow
def test_hundred_thousand_mutants_of_each(packing: SimpleNamespace, tmp_path: Path, no_crc: None) -> None:
    all_three(packing, tmp_path, 100_000, 9)
