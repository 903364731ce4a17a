"""Reading .pth files of every format: equal to torch's own loader, and nothing in them is ever run."""

from __future__ import annotations

import argparse
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.converters.pytorch.reader import PthFile, read_pth
from ssdconv.errors import FormatError, UnsafeFileError

SAVES: dict[str, dict[str, Any]] = {
    "zip": {},
    "zip4": {"pickle_protocol": 4},
    "legacy": {"_use_new_zipfile_serialization": False},
    "legacy5": {"_use_new_zipfile_serialization": False, "pickle_protocol": 5},
}


def mixed() -> OrderedDict[str, Any]:
    """Tensors of many kinds: views, transposed, half, integers, scalars, parameters, empty ones."""
    torch.manual_seed(0)
    big = torch.randn(100)
    return OrderedDict(
        plain=torch.randn(3, 4, 2, 2),
        view=big[10:20],
        same_storage=big[15:40].view(5, 5),
        transposed=torch.randn(4, 5).t(),
        channels_last=torch.randn(1, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        expanded=torch.randn(1, 3).expand(4, 3),
        parameter=torch.nn.Parameter(torch.randn(2)),
        half=torch.randn(3).half(),
        double=torch.randn(3).double(),
        steps=torch.tensor(120_000),
        flags=torch.tensor([True, False]),
        empty=torch.zeros(0, 3),
    )


@pytest.mark.parametrize("wrong", [-4, 4])
def test_a_storage_of_another_size_than_declared_is_refused(wrong: int, tmp_path: Path) -> None:
    """Too large is as wrong as too small: then the member is another tensor's."""
    torch.save({"w": torch.arange(6.0)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "y.pth", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, (data + bytes(4))[: 24 + wrong] if name.endswith("data/0") else data)
    with pytest.raises(FormatError, match=f"another size.*expected 24 bytes.*got {24 + wrong}"):
        read_pth(tmp_path / "y.pth")


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_legacy_storage_of_another_size_than_declared_is_refused(wrong: int, tmp_path: Path) -> None:
    torch.save({"w": torch.arange(6.0)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "x.pth").read_bytes()
    at = data.rindex(struct.pack("<q", 6))
    assert len(data) - at == 8 + 24
    changed = data[:at] + struct.pack("<q", 6 + wrong) + (data[at + 8 :] + bytes(4))[: 24 + 4 * wrong]
    (tmp_path / "y.pth").write_bytes(changed)
    with pytest.raises(FormatError, match=f"another size.*expected 6 elements.*got {6 + wrong} elements"):
        read_pth(tmp_path / "y.pth")


@pytest.mark.parametrize("form", SAVES)
def test_equal_to_torch(tmp_path: Path, form: str) -> None:
    torch.save(mixed(), tmp_path / "x.pth", **SAVES[form])
    # torch's own safe unpickler knows protocols up to 3 only; the file is our own, so the other one may read it here
    theirs = torch.load(tmp_path / "x.pth", weights_only="pickle_protocol" not in SAVES[form])
    with read_pth(tmp_path / "x.pth") as table:
        assert list(table) == list(theirs)
        assert table.format == ("torch zip" if form.startswith("zip") else "torch legacy")
        for name, tensor in theirs.items():
            array = tensor.detach().numpy()
            assert (table[name].shape, table[name].dtype) == (array.shape, array.dtype)
            np.testing.assert_array_equal(table[name].load(), array, strict=True)


@pytest.mark.parametrize("shared", [False, True])
def test_the_tar_format_equals_torch(shared: bool, tmp_path: Path, tar: Callable[..., bytes]) -> None:
    state = OrderedDict(a=torch.randn(3, 4), b=torch.randn(5))
    (tmp_path / "x.pth").write_bytes(tar(state, shared))
    # torch reads this format only without its safeguards; the file is our own
    theirs = torch.load(tmp_path / "x.pth", weights_only=False)
    with read_pth(tmp_path / "x.pth") as table:
        assert table.format == "torch tar" and list(table) == list(theirs) == ["a", "b"]
        for name, tensor in theirs.items():
            np.testing.assert_array_equal(tensor.numpy(), state[name].numpy())
            np.testing.assert_array_equal(table[name].load(), tensor.numpy(), strict=True)


def test_bfloat16_becomes_float32_exactly(tmp_path: Path) -> None:
    tensor = torch.randn(50).bfloat16()
    torch.save({"w": tensor}, tmp_path / "x.pth")
    with read_pth(tmp_path / "x.pth") as table:
        np.testing.assert_array_equal(table["w"].load(), tensor.float().numpy(), strict=True)


def test_tensors_stay_in_the_file_until_used(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(1000.0)}, tmp_path / "x.pth")
    with read_pth(tmp_path / "x.pth") as table:
        array = table["w"].load()
    assert not array.flags.owndata and array[999] == 999


@pytest.mark.parametrize(
    ("wrap", "wrappers"),
    [
        (lambda s: {"state_dict": s, "epoch": 3, "best": 0.5}, ("state_dict",)),
        (lambda s: {"model": s, "optimizer": {"state": {0: {"m": torch.ones(3)}}, "param_groups": [{}]}}, ("model",)),
        (lambda s: {"model": {"state_dict": s}}, ("model", "state_dict")),
        (lambda s: {"epoch": np.float64(3.5), "net": s}, ("net",)),
    ],
)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_wrappers_of_training_scripts(tmp_path: Path, wrap: Any, wrappers: tuple[str, ...], form: str) -> None:
    torch.save(wrap(mixed()), tmp_path / "x.pth", **SAVES[form])
    with read_pth(tmp_path / "x.pth") as table:
        assert table.found(PthFile).wrappers == wrappers
        assert list(table) == list(mixed())
        assert (len(table.warnings) == 1) == (wrappers != ("model", "state_dict"))


def test_python_2_state_dict(tmp_path: Path) -> None:
    # Python 2 pickled an OrderedDict as a call with a list of pairs.
    class Old:
        def __reduce__(self) -> Any:
            return OrderedDict, ([["a", torch.ones(2)], ["b", torch.zeros(3)]],)

    torch.save(Old(), tmp_path / "x.pth")
    with read_pth(tmp_path / "x.pth") as table:
        assert {n: t.shape for n, t in table.items()} == {"a": (2,), "b": (3,)}


class Boom:
    """Would end this process if it were ever unpickled."""

    def __reduce__(self) -> Any:
        return os._exit, (13,)


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_named_and_never_run(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"a": Boom()}, protocol))
    with pytest.raises(UnsafeFileError, match=r"(posix|nt|os)\._exit.*") as caught:
        read_pth(tmp_path / "x.pth")
    assert "state_dict()" in str(caught.value.hint)


@pytest.mark.parametrize("form", SAVES)
def test_code_in_a_torch_file(tmp_path: Path, form: str) -> None:
    torch.save({"state_dict": mixed(), "extra": Boom()}, tmp_path / "x.pth", **SAVES[form])
    with pytest.raises(UnsafeFileError, match=r"_exit"):
        read_pth(tmp_path / "x.pth")


def test_code_in_a_tar_file(tmp_path: Path, tar: Callable[..., bytes]) -> None:
    data = tar(OrderedDict(a=torch.ones(2))).replace(b"OrderedDict", b"OrderedDixt")
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(UnsafeFileError, match=r"collections\.OrderedDixt"):
        read_pth(tmp_path / "x.pth")


def test_a_whole_module_lists_its_classes(tmp_path: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.ReLU()), tmp_path / "x.pth")
    with pytest.raises(UnsafeFileError) as caught:
        read_pth(tmp_path / "x.pth")
    for name in ("container.Sequential", "conv.Conv2d", "activation.ReLU"):
        assert name in str(caught.value)


def test_other_objects_are_refused_as_torch_does(tmp_path: Path) -> None:
    torch.save({"state_dict": mixed(), "args": argparse.Namespace(lr=1)}, tmp_path / "x.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.pth", weights_only=True)
    with pytest.raises(UnsafeFileError, match=r"argparse\.Namespace"):
        read_pth(tmp_path / "x.pth")


@pytest.mark.shared
def test_the_whole_module_of_aizoo(shared: Path) -> None:
    with pytest.raises(UnsafeFileError) as caught:
        read_pth(shared / "weights/aizoo_facemask/face_mask_detection.pth")
    text = str(caught.value)
    assert "3 things" in text
    for name in ("MainModel.KitModel", "torch.nn.modules.batchnorm.BatchNorm2d", "torch.nn.modules.conv.Conv2d"):
        assert name in text


def bad_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Name -> (file, part of the message)."""
    torch.save(mixed(), folder / "zip.pth")
    torch.save(mixed(), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    zipped, legacy = (folder / "zip.pth").read_bytes(), (folder / "legacy.pth").read_bytes()
    torch.save({"epoch": 3, "names": ["a"]}, folder / "none.pth")
    with zipfile.ZipFile(folder / "script.pth", "w") as archive:  # TorchScript's pickle names classes of its own
        archive.writestr("net/data.pkl", b"\x80\x02c__torch__.net\nNet\n.")
    return {
        "empty": (b"", "empty"),
        "text": (b"hello world", "not a file of torch.save"),
        "pickle": (pickle.dumps({"a": 1}), "a plain pickle"),
        "cut_zip": (zipped[:-30], "cut short"),
        "cut_legacy": (legacy[:-30], "cut short"),
        "longer_legacy": (legacy + b"\0", "bytes too many"),
        "no_tensors": ((folder / "none.pth").read_bytes(), "no tensors by name"),
        "script": ((folder / "script.pth").read_bytes(), "__torch__"),
        "damaged": (zipped.replace(b"storage", b"stor\0ge", 1), "CRC-32"),
    }


@pytest.mark.parametrize(
    "name", ["empty", "text", "pickle", "cut_zip", "cut_legacy", "longer_legacy", "no_tensors", "script", "damaged"]
)
def test_damaged_and_other_files(tmp_path: Path, name: str) -> None:
    data, message = bad_files(tmp_path)[name]
    (tmp_path / "bad.pth").write_bytes(data)
    with pytest.raises(FormatError, match=message) as caught:
        read_pth(tmp_path / "bad.pth")
    assert "bad.pth" in str(caught.value)


def test_a_tensor_may_not_reach_beyond_its_storage(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(6.0).view(2, 3)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "x.pth").read_bytes()
    at = data.index(b"K\x02K\x03\x86")  # the size, (2, 3)
    (tmp_path / "x.pth").write_bytes(data[:at] + struct.pack("<5B", 0x4B, 200, 0x4B, 3, 0x86) + data[at + 5 :])
    with pytest.raises(FormatError, match="beyond its storage"):
        read_pth(tmp_path / "x.pth")


def test_an_empty_tensor_may_not_have_endless_sides(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(0, 3, 2)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "x.pth").read_bytes()
    at = data.index(b"K\x00K\x03K\x02\x87")  # the size, (0, 3, 2)
    huge = b"\x8a\x08" + struct.pack("<q", 1 << 61)
    (tmp_path / "x.pth").write_bytes(data[: at + 2] + huge + data[at + 4 :])
    with pytest.raises(FormatError, match="beyond any network"):
        read_pth(tmp_path / "x.pth")


@pytest.mark.parametrize("at", [100, 108, 116, 136, 146, 300])
def test_a_damaged_head_of_the_tar_format_is_noticed(at: int, tar: Callable[..., bytes], tmp_path: Path) -> None:
    """Mode, owner, time and padding matter to nobody, so only the head's checksum tells."""
    data = bytearray(tar(OrderedDict(a=torch.ones(2))))
    data[at] ^= 1
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(FormatError, match="the tar archive is damaged"):
        read_pth(tmp_path / "x.pth")
