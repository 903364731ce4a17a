"""Checkpoints: round trip in both formats, refusal of what could run code, errors that name the file."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from ssdconv.errors import FormatError, MissingError, UnsafeFileError
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.containers import check_provenance
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.caffe import vgg


@pytest.fixture(scope="module")
def config() -> SSDConfig:
    return vgg("ssd300_voc", 3, width=4)


@pytest.fixture(scope="module")
def tensors(config: SSDConfig) -> dict[str, np.ndarray]:
    return seeded_tensors(config)


@pytest.fixture(scope="module", params=[".pth", ".safetensors"])
def saved(
    request: pytest.FixtureRequest, config: SSDConfig, tensors: dict, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / f"net{request.param}"
    return checkpoint.save(path, config, tensors, {"sha256": "ab"})


def test_round_trip(saved: Path, config: SSDConfig, tensors: dict[str, np.ndarray]) -> None:
    read = checkpoint.read(saved)
    assert read.config == config
    assert read.provenance == {"sha256": "ab"}
    assert read.state_dict.keys() == tensors.keys()
    for name, tensor in read.state_dict.items():
        assert tensor.numpy().tobytes() == tensors[name].tobytes()


def test_load_gives_an_eval_network_that_runs(saved: Path) -> None:
    model = checkpoint.load(saved)
    assert not model.training
    with torch.inference_mode():
        loc, conf = model(torch.zeros(1, 3, 300, 300))
    assert loc.shape == (1, 8732, 4)
    assert conf.shape == (1, 8732, 3)
    assert torch.isfinite(loc).all()


def test_same_bytes_twice(saved: Path, config: SSDConfig, tensors: dict, tmp_path: Path) -> None:
    again = checkpoint.save(tmp_path / saved.name, config, tensors, {"sha256": "ab"})
    assert again.read_bytes() == saved.read_bytes()


def test_every_missing_extra_or_misshapen_tensor_is_named(config: SSDConfig, tensors: dict, tmp_path: Path) -> None:
    first = next(iter(tensors))
    for broken in (
        {k: v for k, v in tensors.items() if k != first},
        {**tensors, "backbone.zzz": tensors[first]},
        {**tensors, first: tensors[first][:1]},
    ):
        path = checkpoint.save(tmp_path / "broken.pth", config, broken)
        with pytest.raises(FormatError, match=f"{first}|backbone.zzz"):
            checkpoint.load(path)


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("/tmp/ssdconv-evil-ran"),))


def test_pickles_that_run_code_are_refused_unread(tmp_path: Path) -> None:
    marker = Path("/tmp/ssdconv-evil-ran")
    marker.unlink(missing_ok=True)
    for name, write in (("new.pth", torch.save), ("raw.pth", lambda o, p: p.write_bytes(pickle.dumps(o)))):
        path = tmp_path / name
        write({"state_dict": Evil()}, path)
        with pytest.raises((UnsafeFileError, FormatError)):
            checkpoint.read(path)
        assert not marker.exists()


@pytest.mark.parametrize(
    "content", [b"", b"x", b"PK\x03\x04junk", b"\x10" + b"\0" * 7 + b'{"a": 1', b"<html>quota</html>"]
)
def test_rubbish_is_a_format_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rubbish.pth"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"rubbish\.pth"):
        checkpoint.load(path)


def test_truncation_is_a_format_error(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    path = tmp_path / saved.name
    for cut in (1, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(FormatError, match="net"):
            checkpoint.load(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        checkpoint.load(tmp_path / "none.pth")


def test_plain_state_dicts_are_told_from_checkpoints(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "plain.pth")
    with pytest.raises(FormatError, match="no ssdconv config"):
        checkpoint.load(tmp_path / "plain.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_tensor_without_axes_keeps_having_none(config: SSDConfig, suffix: str, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / f"x{suffix}", config, {"one": np.array(2.5, np.float32), "many": np.ones(2)})
    state = checkpoint.read(path).state_dict
    assert (state["one"].shape, float(state["one"])) == ((), 2.5) and state["many"].shape == (2,)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_another_layout_is_refused(
    suffix: str, config: SSDConfig, tensors: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        later.setattr(checkpoint, "VERSION", 2)
        path = checkpoint.save(tmp_path / f"net{suffix}", config, tensors)
        assert checkpoint.read(path).config == config
    with pytest.raises(FormatError, match=r"another version of ssdconv.*expected layout 1, got layout 2"):
        checkpoint.read(path)


@pytest.mark.parametrize(("part", "value"), [("sha256", 3), ("training", "x"), ("evidence", {})])
def test_parts_of_a_provenance_have_their_kinds(part: str, value: object) -> None:
    with pytest.raises(FormatError, match=f"'{part}' is no"):
        check_provenance({part: value}, Path("x.pth"))
    check_provenance({part: None}, Path("x.pth"))
