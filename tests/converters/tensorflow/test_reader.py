"""Checkpoints and graphs through any of their names; damage is named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ssdconv.converters.registry import located, recognise
from ssdconv.converters.tensorflow.bundle import check_tiling, place_of
from ssdconv.converters.tensorflow.reader import read_checkpoint
from ssdconv.errors import FormatError, MissingError


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(
    "name", ["small.ckpt", "small.ckpt.index", "small.ckpt.meta", "small.ckpt.data-00000-of-00001"]
)
def test_small_checkpoint(packing: SimpleNamespace, tmp_path: Path, kind: int, name: str) -> None:
    _, arrays = packing.small(tmp_path, kind)
    with read_checkpoint(tmp_path / name) as table:
        assert table.format == "checkpoint V2"
        assert {n: t.shape for n, t in table.items()} == {n: a.shape for n, a in arrays.items()}
        for key, array in arrays.items():
            assert table[key].load().tobytes() == array.tobytes()
    assert located(tmp_path / name) == tmp_path / "small.ckpt.index"
    assert recognise(tmp_path / "small.ckpt.index").name == "tensorflow"


def test_a_damaged_tensor_is_named(packing: SimpleNamespace, tmp_path: Path) -> None:
    index, _ = packing.small(tmp_path)
    data = tmp_path / "small.ckpt.data-00000-of-00001"
    raw = bytearray(data.read_bytes())
    raw[14] ^= 1
    data.write_bytes(raw)
    with read_checkpoint(index) as table:
        table["ssd300/conv1/bias"].load()
        with pytest.raises(FormatError, match=r"tensor 'ssd300/conv1/kernel', shard 0, offset 12: .*CRC-32C is wrong"):
            table["ssd300/conv1/kernel"].load()


def test_missing_and_short_data(packing: SimpleNamespace, tmp_path: Path) -> None:
    index, _ = packing.small(tmp_path)
    data = tmp_path / "small.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"'ssd300/scalar': the tensor reaches past the end of shard 0"):
        read_checkpoint(index)
    data.unlink()
    with pytest.raises(MissingError, match=r"data-00000-of-00001: the checkpoint's data file is missing"):
        read_checkpoint(index)
    index.unlink()
    (tmp_path / "small.ckpt.meta").write_bytes(b"\x0a\x02x")
    with pytest.raises(MissingError, match="graph of a checkpoint"):
        read_checkpoint(tmp_path / "small.ckpt.meta")


def made(packing: SimpleNamespace, folder: Path, entries: list[tuple[bytes, bytes]], data: bytes = bytes(64)) -> Path:
    index = packing.table([packing.block(entries)], [entries[-1][0]])
    (folder / "x.index").write_bytes(index)
    (folder / "x.data-00000-of-00001").write_bytes(data)
    return folder / "x.index"


HEAD = (b"", b"\x08\x01\x1a\x02\x08\x01")


def test_hostile_entries(packing: SimpleNamespace, tmp_path: Path) -> None:
    four = np.zeros(4, "f4")
    good = packing.entry(four, 0)
    huge = packing.varint(1 << 39)
    dims = b"\x12" + packing.varint(len(huge) + 1) + b"\x08" + huge
    bomb = b"\x08\x01\x12" + packing.varint(2 * len(dims)) + dims * 2 + b"\x28\x10"
    for entries, text in (
        ([HEAD, (b"a", good), (b"a\xff", good)], "not text"),
        ([HEAD, (b"a", packing.entry(four, 60))], "past the end of shard"),
        ([HEAD, (b"a", packing.entry(four, 0, shard=3))], "no such shard"),
        ([HEAD, (b"a", packing.entry(four, 0, code=2))], "another size than its shape"),
        ([HEAD, (b"a", bomb)], "another size than its shape"),
        ([HEAD, (b"a", b"\x08\x01\x12\x02\x18\x01\x28\x10")], "unknown rank"),
        ([HEAD, (b"a", b"\x08\x01\x12\x04\x12\x02\x08\x05\x3a\x00")], "slice of|outside its tensor"),
        ([(b"", b"\x08\x01\x10\x01"), (b"a", good)], "big-endian"),
        ([(b"", b"\x08\x00"), (b"a", good)], "number of shards"),
        ([(b"a", good), (b"b", good)], "no header"),
    ):
        with pytest.raises(FormatError, match=text):
            read_checkpoint(made(packing, tmp_path, entries))


def test_many_slices_are_judged_quickly() -> None:
    places = [(slice(i, i + 1), slice(0, 2)) for i in range(6000)]
    check_tiling(places, 12_000, (6000, 2), "x")
    with pytest.raises(FormatError):
        check_tiling([*places[:-1], places[0]], 12_000, (6000, 2), "x")


def test_slices_must_make_up_their_tensor() -> None:
    shape = (4, 6)
    left, right = ((0, -1), (0, 3)), ((0, -1), (3, 3))
    places = [place_of(one, shape, "x") for one in (left, right)]
    assert places == [(slice(0, 4), slice(0, 3)), (slice(0, 4), slice(3, 6))]
    check_tiling(places, 24, shape, "x")
    for bad, covered in (([places[0]], 12), ([places[0], places[0]], 24), ([*places, places[1]], 36)):
        with pytest.raises(FormatError, match="do not make it up"):
            check_tiling(bad, covered, shape, "x")
    for one in (((0, 5), (0, -1)), ((0, -1),), ((3, 2), (0, -1)), ((-1, 2), (0, -1)), ((0, 0), (0, -1))):
        with pytest.raises(FormatError, match="outside its tensor"):
            place_of(one, shape, "x")


def test_text_tensors_are_listed_and_never_loaded(packing: SimpleNamespace, tmp_path: Path) -> None:
    entry = packing.entry(np.zeros(1, "f4"), 0, code=7)
    with read_checkpoint(made(packing, tmp_path, [HEAD, (b"_CHECKPOINTABLE_OBJECT_GRAPH", entry)])) as table:
        assert table["_CHECKPOINTABLE_OBJECT_GRAPH"].dtype == object
        with pytest.raises(FormatError, match="type that is not read"):
            table["_CHECKPOINTABLE_OBJECT_GRAPH"].load()


def test_not_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.pb"
    for content in (b"no such thing at all", b"\x0a\x03abc", b"\x50\x01", b"\x0a\x02\x0a\x00", b"\x22\x00"):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"neither a checkpoint nor a frozen graph|without nodes"):
            read_checkpoint(path)
    with pytest.raises(MissingError):
        read_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.shared
def test_a_real_frozen_graph(shared: Path) -> None:
    """AIZOO's net: the .pb holds what the Caffe file holds, before its batch normalisation was folded away."""
    from ssdconv.converters.caffe.reader import read_caffemodel

    folder = shared / "weights" / "aizoo_facemask"
    assert recognise(folder / "face_mask_detection.pb").name == "tensorflow"
    assert recognise(folder / "face_mask_detection.caffemodel").name == "caffe"
    with (
        read_checkpoint(folder / "face_mask_detection.pb") as table,
        read_caffemodel(folder / "face_mask_detection.caffemodel") as caffe,
    ):
        assert table.format == "frozen graph" and sum(n.endswith("/kernel") for n in table) == 28
        kernels = [t.load() for n, t in table.items() if n.endswith("/kernel")]
        same = 0
        for name, blob in caffe.items():
            if len(blob.shape) == 4:
                held = blob.load()
                assert any(k.shape == held.transpose(2, 3, 1, 0).shape for k in kernels), name
                same += any(np.array_equal(k, held.transpose(2, 3, 1, 0)) for k in kernels)
        assert same >= 10  # the heads have no batch normalisation that could be folded into them
        for tensor in table.values():
            if tensor.dtype.kind == "f":
                assert np.isfinite(tensor.load()).all()
