"""Reading .npz files: equal to NumPy's reader, lazily, and safe with hostile ones."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdconv.converters.chainer.npz import NpzFile, read_npz
from ssdconv.errors import FormatError, MissingError, UnsafeFileError

Make = Callable[..., Path]


@pytest.mark.parametrize("compress", [False, True])
def test_equal_to_numpy(npz: Make, arrays: dict[str, Any], compress: bool) -> None:
    with read_npz(npz(compress=compress)) as table:
        assert set(table) == set(arrays)
        for name, array in arrays.items():
            assert (table[name].shape, table[name].dtype) == (array.shape, array.dtype)
            np.testing.assert_array_equal(table[name].load(), array, strict=True)
        assert table.found(NpzFile).prefix == ""


def test_stored_tensors_stay_in_the_file_until_used(npz: Make) -> None:
    with read_npz(npz()) as table:
        array = table["extractor/conv1_2/W"].load()
    assert not array.flags.owndata and not array.flags.writeable
    assert float(np.abs(array).sum()) > 0, "arrays outlive the table"


def test_column_order_byte_order_and_scalars(tmp_path: Path) -> None:
    given = {
        "f": np.asfortranarray(np.arange(24.0, dtype="f4").reshape(2, 3, 4)),
        "b": np.arange(5, dtype=">f4"),
        "s": np.float32(3),
        "e": np.zeros((0, 2), "f4"),
    }
    np.savez(tmp_path / "x.npz", **given)
    with read_npz(tmp_path / "x.npz") as table:
        for name, array in given.items():
            np.testing.assert_array_equal(table[name].load(), array)
            assert table[name].load().dtype.isnative and table[name].dtype == table[name].load().dtype


def snapshot(arrays: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What a trainer saves: the model under a prefix, and its own state, with None as an object array."""
    beside: dict[str, Any] = {
        "updater/iteration": np.array(120_000),
        "updater/optimizer:main/extractor/conv1_1/W/v": np.zeros(3, "f4"),
        "trainer/extensions/LogReport/_log": np.array(None, dtype=object),
    }
    return {prefix + name: array for name, array in arrays.items()} | beside


@pytest.mark.parametrize("prefix", ["updater/model:main/", "updater/model:main/model/"])
def test_the_model_in_a_snapshot(tmp_path: Path, arrays: dict[str, Any], prefix: str) -> None:
    np.savez(tmp_path / "snapshot.npz", **snapshot(arrays, prefix))
    with read_npz(tmp_path / "snapshot.npz") as table:
        assert table.found(NpzFile).prefix == prefix
        np.testing.assert_array_equal(table[f"{prefix}extractor/conv6/W"].load(), arrays["extractor/conv6/W"])
        with pytest.raises(UnsafeFileError):
            table["trainer/extensions/LogReport/_log"].load()


def test_an_object_array_in_the_model_is_refused_unread(npz: Make) -> None:
    class Boom:
        def __reduce__(self) -> Any:
            return os.abort, ()

    array = np.empty(1, object)
    array[0] = Boom()
    with pytest.raises(UnsafeFileError, match=r"'extractor/conv6/b'.*object array"):
        read_npz(npz(**{"extractor/conv6/b": array}))


def raw(path: Path, name: str, data: bytes, compress: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr(name, data)
    return path


def test_declared_shape_and_stored_size_must_agree(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros((2, 3), "f4"))
    for shape in (b"(9, 9)", b"(1, 1)"):
        path = raw(tmp_path / "x.npz", "a.npy", stream.getvalue().replace(b"(2, 3)", shape))
        with pytest.raises(FormatError, match="another size than its header says"):
            read_npz(path)


def test_a_bomb_costs_nothing_to_open(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros(100_000_000, "u1"))
    path = raw(tmp_path / "x.npz", "a.npy", stream.getvalue(), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    with read_npz(path) as table:  # the size is known, nothing was unpacked; a network refuses the shape
        assert table["a"].shape == (100_000_000,)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.npy", b"no array", "not a .npy array"),
        ("data.pkl", b"x", "torch2pt"),
        ("readme.txt", b"x", "not of NumPy arrays"),
    ],
)
def test_other_archives(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_npz(raw(tmp_path / "x.npz", name, data))


def test_missing_empty_and_changed(tmp_path: Path, npz: Make) -> None:
    with pytest.raises(MissingError):
        read_npz(tmp_path / "none.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(FormatError, match="empty"):
        read_npz(tmp_path / "empty.npz")
    path = npz()
    with read_npz(path) as table:
        os.truncate(path, 1000)
        with pytest.raises(FormatError, match="changed while"):
            table["extractor/conv6/W"].load()
