"""Two weight files of different formats, tensor by tensor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv import cli
from ssdconv.converters.caffe.source import write
from ssdconv.converters.plan import Request
from ssdconv.converters.pytorch.source import write as write_torch
from ssdconv.errors import FormatError, MappingError, MissingError
from ssdconv.parity.diagnose.diff import diff
from ssdconv.ssd_ref.checkpoint import save
from ssdconv.ssd_ref.config import L2NormSpec, SSDConfig
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.networks.small import narrowed

CONV2 = "backbone.conv2_1.conv.weight"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A narrow SSD300 as checkpoint, .caffemodel and state dicts."""
    folder = tmp_path_factory.mktemp("diff")
    config = narrowed(network("caffe/ssd300_voc"))
    tensors = dict(seeded_tensors(config, 3))
    write(config, tensors, folder / "x.caffemodel", Request())
    save(folder / "x.pth", config, tensors)
    save(folder / "x.safetensors", config, tensors)
    write_torch(config, tensors, folder / "amdegroot.pth", Request(channel_order="BGR"))
    torch.save({"state_dict": {f"module.{n}": torch.from_numpy(a) for n, a in tensors.items()}}, folder / "plain.pth")
    return folder, config, tensors


def changed(files: Any, **changes: Any) -> Path:
    folder, config, tensors = files
    path: Path = folder / "changed.pth"
    save(path, config, tensors | {k.replace("__", "."): v for k, v in changes.items()})
    return path


@pytest.mark.parametrize("b", ["x.pth", "x.caffemodel"])
@pytest.mark.parametrize("a", ["x.pth", "x.safetensors", "x.caffemodel", "amdegroot.pth", "plain.pth"])
def test_the_same_network_in_any_format_is_equal(files: Any, a: str, b: str) -> None:
    if (a, b) == ("plain.pth", "x.caffemodel"):
        pytest.skip("neither side tells which layers the tensors' names are of")
    report = diff(files[0] / a, files[0] / b)
    assert report and report.equal == report.tensors == 71 and not report.rows


@pytest.mark.parametrize("b", ["x.pth", "x.caffemodel"])
def test_each_difference_is_named_with_its_figures(files: Any, b: str) -> None:
    tensors = files[2]
    scale = np.full_like(tensors["heads.l2norm.0.weight"], 20)
    odd = np.array(tensors["extras.conv6_1.conv.weight"])
    odd.flat[5] += 3
    path = changed(
        files,
        **{CONV2: np.ascontiguousarray(tensors[CONV2].transpose(0, 1, 3, 2)), "heads.l2norm.0.weight": scale,
           "extras.conv6_1.conv.weight": odd, "heads.conf.0.bias": tensors["heads.conf.0.bias"].astype(np.float16)},
    )  # fmt: skip
    report = diff(path, files[0] / b)
    assert not report and report.equal == 67
    rows = {row.name: row for row in report.rows}
    assert list(rows) == [CONV2, "extras.conv6_1.conv.weight", "heads.l2norm.0.weight", "heads.conf.0.bias"]
    assert [row.kind for row in report.rows] == ["kernel-layout", "different", "l2norm-init", "fp16-rounding"]
    assert rows["extras.conv6_1.conv.weight"].largest == pytest.approx(3, rel=1e-6)
    assert rows["extras.conv6_1.conv.weight"].fraction == pytest.approx(1 / odd.size)
    assert rows["heads.l2norm.0.weight"].largest == pytest.approx(
        float(np.abs(scale - tensors["heads.l2norm.0.weight"]).max())
    )
    assert 0 < rows["heads.conf.0.bias"].relative < 1e-3
    data = report.to_json()
    assert data["same"] is False and len(data["rows"]) == 4 and data["rows"][0]["kind"] == "kernel-layout"


def test_equal_tensors_under_another_config_are_a_difference(files: Any, tmp_path: Path, capsys: Any) -> None:
    folder, config, tensors = files
    heads = replace(config.staged.heads, l2norm={0: L2NormSpec(1e-3)})
    sizes = (replace(config.priors[0], box_sizes=config.priors[0].box_sizes[::-1]), *config.priors[1:])
    other = replace(config, layers=replace(config.staged, heads=heads), priors=sizes)
    save(tmp_path / "other.pth", other, tensors)
    report = diff(tmp_path / "other.pth", folder / "x.pth")
    assert not report and report.equal == report.tensors and not report.rows
    assert [d.field for d in report.fields] == ["heads.l2norm[0].eps", "priors[0].box_sizes"]
    assert report.to_json()["same"] is False and len(report.to_json()["fields"]) == 2
    assert cli.main(["diff", str(tmp_path / "other.pth"), str(folder / "x.pth")]) == 1
    told = capsys.readouterr().out
    assert "architecture: heads.l2norm[0].eps is 0.001 in A, 1e-10 in B" in told
    assert "71 of 71 tensors are bit-identical, but the configs differ in 2 fields" in " ".join(told.split())


def test_different_networks_are_refused(files: Any, tmp_path: Path) -> None:
    config: SSDConfig = network("keras/ssd7")
    save(tmp_path / "ssd7.pth", config, dict(seeded_tensors(config, 1)))
    with pytest.raises(MappingError, match="different networks") as caught:
        diff(tmp_path / "ssd7.pth", files[0] / "x.pth")
    assert "inspect" in str(caught.value) and "ssd7" in str(caught.value)


def test_missing_and_damaged_files_are_told(files: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        diff(tmp_path / "nothing.pth", files[0] / "x.pth")
    (tmp_path / "cut.pth").write_bytes((files[0] / "x.pth").read_bytes()[:3000])
    with pytest.raises(FormatError):
        diff(tmp_path / "cut.pth", files[0] / "x.pth")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(MappingError):
        diff(tmp_path / "other.pth", files[0] / "x.pth")
