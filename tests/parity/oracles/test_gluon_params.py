"""Our .params reader and writer against MXNet's own: files that MXNet wrote, and ours read by MXNet."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from ssdconv.converters.gluon.params import ParamsFile, read_params, write_params
from ssdconv.errors import FormatError
from ssdconv.parity.oracles.worker import Worker

MAKER = Worker("gluon", str(Path(__file__).parent / "workers" / "gluon_maker"))

pytestmark = pytest.mark.oracle

DTYPES = ("float32", "float64", "float16", "uint8", "int8", "int32", "int64", "bool")
MAGICS = {"V1": 0xF993FAC8, "V2": 0xF993FAC9, "V3": 0xF993FACA}


def some_arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    arrays = [
        rng.integers(0, 2 if d == "bool" else 100, (3, 2, 1, 4)[: i % 4 + 1]).astype(d) for i, d in enumerate(DTYPES)
    ]
    arrays.append(np.array([np.nan, np.inf, -0.0, 1e-42], "f4"))
    return arrays


def same(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()


def test_files_that_mxnet_writes(mxnet: str, tmp_path: Path) -> None:
    arrays = some_arrays()
    names = [f"{'aux' if i % 3 == 2 else 'arg'}:t{i}" for i in range(len(arrays))]
    jobs = [
        {"do": "save", "path": str(tmp_path / "named.params"), "names": names},
        {"do": "save", "path": str(tmp_path / "list.params")},
        {"do": "save", "path": str(tmp_path / "v3.params"), "names": names, "np_shape": True},
    ]
    given = {f"{j}/{i}": a for j in range(3) for i, a in enumerate(arrays)}
    given[f"2/{len(arrays)}"] = np.array(2.5, "f4")
    jobs[2]["names"] = [*names, "scalar"]
    MAKER.ask(jobs, given)
    for file, expected in (("named", names), ("list", [str(i) for i in range(len(arrays))])):
        with read_params(tmp_path / f"{file}.params") as table:
            assert list(table) == expected
            assert all(same(t.load(), a) for t, a in zip(table.values(), arrays, strict=True))
    with read_params(tmp_path / "v3.params") as table:
        assert table.found(ParamsFile).versions == {"V3": len(arrays) + 1}
        assert all(same(table[n].load(), a) for n, a in zip(names, arrays, strict=True))
        assert table["scalar"].shape == () and float(table["scalar"].load()) == 2.5


def test_files_that_we_write(mxnet: str, tmp_path: Path) -> None:
    arrays = {f"arg:t{i}": a for i, a in enumerate(some_arrays())}
    write_params(tmp_path / "ours.params", arrays)
    jobs = [
        {"do": "load", "path": str(tmp_path / "ours.params")},
        {"do": "save", "path": str(tmp_path / "theirs.params"), "names": list(arrays)},
    ]
    answer = MAKER.ask(jobs, {f"1/{i}": a for i, a in enumerate(arrays.values())})
    assert answer.jobs[0]["names"] == list(arrays)
    for index, array in enumerate(arrays.values()):
        assert same(array, answer.arrays[f"0/{index}"])
    assert (tmp_path / "ours.params").read_bytes() == (tmp_path / "theirs.params").read_bytes()


@pytest.mark.parametrize("version", ["V0", "V1", "V2", "V3"])
def test_old_and_new_forms_as_mxnet_reads_them(mxnet: str, tmp_path: Path, version: str) -> None:
    """Forms that MXNet 1.9.1 no longer writes, put together by hand and read by both."""
    array = np.arange(6, dtype="f4").reshape(2, 3)
    head = {
        "V0": struct.pack("<3I", 2, 2, 3),
        "V1": struct.pack("<2I2q", MAGICS["V1"], 2, 2, 3),
        "V2": struct.pack("<I2i2q", MAGICS["V2"], 0, 2, 2, 3),
        "V3": struct.pack("<I2i2q", MAGICS["V3"], 0, 2, 2, 3),
    }[version]
    body = head + struct.pack("<3i", 2, 1, 0) + array.tobytes()  # stored from the second GPU
    path = tmp_path / "x.params"
    path.write_bytes(struct.pack("<3Q", 0x112, 0, 1) + body + struct.pack("<2Q", 1, 1) + b"w")
    answer = MAKER.ask([{"do": "load", "path": str(path), "np_shape": version == "V3"}])
    with read_params(path) as table:
        assert same(table["w"].load(), array) and same(answer.arrays["0/0"], array)


@pytest.mark.parametrize("kind", ["row_sparse", "csr"])
def test_sparse_files_of_mxnet_are_refused_by_name(mxnet: str, tmp_path: Path, kind: str) -> None:
    dense = np.zeros((4, 3), "f4")
    dense[2] = 1
    path = tmp_path / "x.params"
    MAKER.ask([{"do": "save_sparse", "kind": kind, "path": str(path)}], {"0/dense": dense})
    with pytest.raises(FormatError, match=f"array 1 is stored as {kind}"):
        read_params(path)
