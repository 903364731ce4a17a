"""Conversion of a whole GluonCV network and back, bit for bit, from a file that our writer made with random tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssdconv.converters.convert import convert, reverse
from ssdconv.converters.gluon.mapping import anchor_names, anchors, rows_of
from ssdconv.converters.gluon.params import ParamsFile, read_params, write_params
from ssdconv.converters.gluon.recognise import reference_shapes
from ssdconv.converters.plan import Request
from ssdconv.converters.registry import recognise
from ssdconv.errors import UsageError
from ssdconv.ssd_ref.checkpoint import load
from ssdconv.ssd_ref.networks.gluon import gluon

NETWORK = "ssd_300_mobilenet0.25_coco"


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network's file in structural names; batch normalisation gammas are not 1."""
    config, rng = gluon(NETWORK), np.random.default_rng(2)
    shapes = reference_shapes(config)
    tensors = {
        row.name.structural: (rng.standard_normal(shapes[row.target]) ** 2 + 0.1).astype("f4")
        for row in rows_of(config)
        if row.target in shapes
    }
    tensors |= {n.structural: a for n, a in zip(anchor_names(config), anchors(config), strict=True)}
    path = tmp_path_factory.mktemp("gluon") / "net.params"
    write_params(path, tensors)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_there_and_back(params: Path, tmp_path: Path, suffix: str) -> None:
    assert recognise(params).name == "gluon"
    report = convert(params, tmp_path / f"out{suffix}")
    assert replace(report.config, class_names=gluon(NETWORK).class_names) == gluon(NETWORK)
    assert len(report.drops) == 6 and all("to the last bit" in drop.reason for drop in report.drops)
    reverse(tmp_path / f"out{suffix}", tmp_path / "back.params", "gluon")
    assert (tmp_path / "back.params").read_bytes() == params.read_bytes()


def test_fixed_gammas_are_kept_and_do_not_count(params: Path, tmp_path: Path) -> None:
    """The extra layers' gammas travel unchanged, and the network computes as if they were 1."""
    import torch

    convert(params, tmp_path / "out.pth")
    model = load(tmp_path / "out.pth")
    gamma = model.extras.get_submodule("extra1_1.norm").weight
    with read_params(params) as table:
        np.testing.assert_array_equal(gamma.detach().numpy(), table["features.expand_trans_bn0_gamma"].load())
    assert not torch.allclose(gamma, torch.ones_like(gamma))
    x = torch.randn(1, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = model(x)[1]
        gamma.data.mul_(7)
        assert torch.equal(model(x)[1], before)


@pytest.mark.parametrize("dialect", ["structural", "legacy", "export"])
def test_dialects_come_back(params: Path, tmp_path: Path, dialect: str) -> None:
    convert(params, tmp_path / "out.pth")
    reverse(tmp_path / "out.pth", tmp_path / "d.params", "gluon", Request(options={"dialect": dialect}))
    with read_params(tmp_path / "d.params") as table:
        assert table.found(ParamsFile).dialect == dialect
    convert(tmp_path / "d.params", tmp_path / "again.pth")
    reverse(tmp_path / "again.pth", tmp_path / "back.params", "gluon")
    assert (tmp_path / "back.params").read_bytes() == params.read_bytes()


def test_refused(params: Path, tmp_path: Path) -> None:
    convert(params, tmp_path / "out.pth")
    with pytest.raises(UsageError, match=r"\.params"):
        reverse(tmp_path / "out.pth", tmp_path / "x.mxnet", "gluon")
    with pytest.raises(UsageError, match="no dialect 'old'"):
        reverse(tmp_path / "out.pth", tmp_path / "x.params", "gluon", Request(options={"dialect": "old"}))
