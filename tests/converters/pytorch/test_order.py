"""The channel order of a file: never guessed, decided by equal weights in a known order, and what nearness does not tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ssdconv.converters.caffe.source import write as write_caffe
from ssdconv.converters.chainer.source import write as write_npz
from ssdconv.converters.convert import convert
from ssdconv.converters.plan import Request
from ssdconv.converters.pytorch.source import write
from ssdconv.errors import UsageError
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.caffe import vgg

Save = Callable[..., Path]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One network (Caffe's, which reads BGR) as .caffemodel, .npz, and ssd.pytorch files in both orders."""
    config = vgg("ssd300_voc", width=8)
    tensors = seeded_tensors(config, 7)
    found = {"caffe": tmp_path / "x.caffemodel", "npz": tmp_path / "x.npz"}
    write_caffe(config, tensors, found["caffe"], Request())
    write_npz(config, tensors, found["npz"], Request())
    for order in ("BGR", "RGB"):
        found[order] = tmp_path / f"{order}.pth"
        write(config, tensors, found[order], Request(channel_order=order))
    return found


def test_it_must_be_told(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not tell which channel order") as caught:
        convert(files["BGR"], tmp_path / "o.pth")
    for word in ("--channel-order RGB", "Caffe", "like=FILE"):
        assert word in str(caught.value.hint)


@pytest.mark.parametrize("order", ["BGR", "RGB"])
@pytest.mark.parametrize("known", ["caffe", "npz"])
def test_equal_weights_in_a_known_order_decide(files: dict[str, Path], tmp_path: Path, order: str, known: str) -> None:
    report = convert(files[order], tmp_path / "o.pth", options={"like": files[known]})
    assert report.config.pixels.order == order
    assert report.config.pixels.mean == {"RGB": (123, 117, 104), "BGR": (104, 117, 123)}[order]
    assert any(
        c.basis == "user" and f"channel order {order}: the first layer equals" in c.text for c in report.evidence
    )


def test_a_converted_checkpoint_is_a_known_file_too(files: dict[str, Path], tmp_path: Path) -> None:
    convert(files["npz"], tmp_path / "known.pth")
    report = convert(files["BGR"], tmp_path / "o.pth", options={"like": tmp_path / "known.pth"})
    assert report.config.pixels.order == "BGR"


def test_nearness_does_not_decide(files: dict[str, Path], tmp_path: Path) -> None:
    # Training that feeds RGB may start from BGR weights and stay near them.
    state = torch.load(files["BGR"], weights_only=True)
    state["vgg.0.weight"] *= 1.0001
    torch.save(state, tmp_path / "tuned.pth")
    with pytest.raises(UsageError, match="near is not enough") as caught:
        convert(tmp_path / "tuned.pth", tmp_path / "o.pth", options={"like": files["caffe"]})
    assert "0.0001 as it is" in str(caught.value)


def test_what_is_told_wins_and_the_tensors_stay(files: dict[str, Path], tmp_path: Path) -> None:
    a = convert(files["RGB"], tmp_path / "a.pth", channel_order="BGR")
    b = convert(files["RGB"], tmp_path / "b.pth", channel_order="RGB")
    assert (a.config.pixels.order, b.config.pixels.order) == ("BGR", "RGB")
    assert [r.sha256 for r in a.rows] == [r.sha256 for r in b.rows]


def test_simple_ssd_tells_its_assumption(
    tmp_path: Path, make: Callable[..., tuple[object, dict[str, torch.Tensor]]]
) -> None:
    torch.save(make("simple_ssd_ssd300_voc")[1], tmp_path / "x.pth")
    report = convert(tmp_path / "x.pth", tmp_path / "o.pth")
    assert report.config.pixels.order == "BGR"
    assert any(c.key == "pixels.order" and c.basis == "assumed" and "simple-ssd" in c.text for c in report.evidence)
    assert convert(tmp_path / "x.pth", tmp_path / "o.pth", channel_order="RGB").config.pixels.order == "RGB"


def test_a_file_without_the_layer(files: dict[str, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(3, "f4"))
    with pytest.raises(Exception, match="no SSD of ChainerCV"):
        convert(files["RGB"], tmp_path / "o.pth", options={"like": tmp_path / "other.npz"})
