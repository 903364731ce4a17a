"""Classification networks to backbone files: names against GluonCV's own listings, every tensor to its place, nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ssdconv import cli
from ssdconv.converters.gluon.backbone import convert_backbone
from ssdconv.converters.gluon.mapping import backbone_parts
from ssdconv.converters.gluon.params import write_params
from ssdconv.converters.inspect import inspect
from ssdconv.errors import MappingError, UsageError
from ssdconv.ssd_ref.checkpoint import backbone_shapes, load, load_backbone, read_backbone
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.gluon import BACKBONES, gluon

SMALL = "mobilenet0.25"


def classifier(name: str, *, legacy: bool = False) -> dict[str, np.ndarray]:
    """A backbone's tensors with random values under GluonCV's names, and a classifier behind them."""
    rng, shapes = np.random.default_rng(3), backbone_shapes(BACKBONES[name])
    arrays = {}
    for part in backbone_parts(BACKBONES[name]):
        for target, flat, dotted in part.tensors():
            shape = shapes.get(target.removeprefix("backbone."))
            if shape is not None:
                arrays[flat if legacy else dotted] = rng.uniform(0.1, 1, shape).astype("f4")
    head = "mobilenet0_dense0_" if legacy else "output."
    return arrays | {f"{head}weight": rng.uniform(size=(9, 4)).astype("f4"), f"{head}bias": np.zeros(9, "f4")}


def written(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    write_params(path, arrays)
    return path


@pytest.mark.shared
@pytest.mark.parametrize("name", ["resnet50_v1", "resnet50_v1s"])
@pytest.mark.parametrize("key", ["name", "legacy_name"])
def test_manifests(name: str, key: str, manifests: dict[str, dict], tmp_path: Path) -> None:
    """All tensors that GluonCV lists for a classifier are used, except its last layer."""
    listed = {p[key]: np.zeros(p["shape"], p["dtype"]) for p in manifests[name]["params"]}
    report = convert_backbone(written(tmp_path / "x.params", listed), name, tmp_path / "out.pth")
    assert len(report.rows) == len(listed) - 2
    assert {drop.source for drop in report.drops} == {n for n in listed if re.search(r"output|fc\.|dense", n)}
    assert {row.source for row in report.rows} | {drop.source for drop in report.drops} == set(listed)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_every_tensor_finds_its_place(tmp_path: Path, suffix: str) -> None:
    arrays = classifier(SMALL)
    path = written(tmp_path / "x.params", dict(reversed(arrays.items())))
    report = convert_backbone(path, SMALL, tmp_path / f"out{suffix}")
    held = read_backbone(tmp_path / f"out{suffix}")
    assert held.backbone == BACKBONES[SMALL]
    assert held.provenance["name"] == SMALL and held.provenance["sha256"] == report.source_sha256
    np.testing.assert_array_equal(held.state_dict["conv0.conv.weight"], arrays["features.0.weight"])
    np.testing.assert_array_equal(held.state_dict["conv13.norm.running_var"], arrays["features.79.running_var"])
    assert {row.target for row in report.rows} == set(held.state_dict) == set(backbone_shapes(held.backbone))
    if suffix == ".pth":
        assert set(torch.load(tmp_path / "out.pth", weights_only=True)) == {"ssdconv", "state_dict"}


def test_legacy_names_give_the_same(tmp_path: Path) -> None:
    for dialect in (False, True):
        path = written(tmp_path / "x.params", classifier(SMALL, legacy=dialect))
        convert_backbone(path, SMALL, tmp_path / f"{dialect}.pth")
    first, second = (read_backbone(tmp_path / f"{d}.pth").state_dict for d in (False, True))
    assert all(first[name].equal(second[name]) for name in first | second)


@pytest.mark.parametrize("change", ["drop", "add", "rename", "shape", "other"])
def test_what_does_not_fit_is_named(change: str, tmp_path: Path) -> None:
    arrays, name = classifier(SMALL), "features.3.weight"
    if change == "add":
        name = "features.99.weight"
        arrays[name] = np.zeros(1, "f4")
    elif change == "rename":
        arrays["features.3.wieght"] = arrays.pop(name)
    elif change == "shape":
        arrays[name] = arrays[name][:-1]
    elif change == "drop":
        del arrays[name]
    wanted = "mobilenet0.5" if change == "other" else SMALL
    match = "features" if change == "other" else re.escape(name)
    with pytest.raises(MappingError, match=match):
        convert_backbone(written(tmp_path / "x.params", arrays), wanted, tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_into_a_detector(tmp_path: Path) -> None:
    path = tmp_path / "out.pth"
    arrays = classifier(SMALL)
    convert_backbone(written(tmp_path / "x.params", arrays), SMALL, path)
    model = SSD(gluon("ssd_300_mobilenet0.25_voc"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_backbone(model, path)
    after = model.state_dict()
    np.testing.assert_array_equal(after["backbone.conv13.conv.weight"], arrays["features.78.weight"])
    assert all(after[n].equal(t) for n, t in before.items() if not n.startswith("backbone."))
    for other in ("ssd_512_mobilenet1.0_voc", "ssd_512_resnet18_v1_voc"):
        with torch.device("meta"):
            model = SSD(gluon(other))
        with pytest.raises(MappingError, match=r"expected"):
            load_backbone(model, path)


def test_a_detector_that_taps_earlier_takes_the_first_part(tmp_path: Path) -> None:
    import dataclasses

    from ssdconv.ssd_ref.checkpoint import save_backbone

    config = gluon("ssd_512_resnet101_v2_voc")
    small = dataclasses.replace(BACKBONES["resnet18_v2"])
    tensors = {name: np.full(shape, 0.5, "f4") for name, shape in backbone_shapes(small).items()}
    save_backbone(tmp_path / "b.pth", small, tensors)
    spec = dataclasses.replace(small, out_indices=("stage3", "stage4.0.act2"))
    staged = dataclasses.replace(config.staged, backbone=spec)
    model = SSD(dataclasses.replace(config, layers=staged))
    load_backbone(model, tmp_path / "b.pth")
    assert len(model.backbone.state_dict()) < len(tensors)
    assert all((t == 0.5).all() for t in model.backbone.state_dict().values())


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src, dst = str(written(tmp_path / "x.params", classifier(SMALL))), str(tmp_path / "out.pth")
    assert cli.main(["gluon2pt", "--backbone", SMALL, src, dst, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["backbone"]["name"] == SMALL and report["outputs"] == [dst] and len(report["dropped"]) == 2
    assert cli.main(["inspect", dst]) == 0
    out = capsys.readouterr().out
    assert "mobilenet_v1" in out and "for training" in out and "not recognised" not in out
    summary = inspect(dst)
    assert (summary.source, summary.backbone, len(summary.tensors)) == (
        "ssdconv",
        BACKBONES[SMALL],
        len(report["tensors"]),
    )
    assert cli.main(["detect", "a.jpg", "--weights", dst]) in (3, 4)
    with pytest.raises(Exception, match="backbone alone"):
        load(dst)
    capsys.readouterr()
    assert cli.main(["gluon2pt", "--backbone", "resnet50v1s", src, dst]) == 2
    assert "did you mean 'resnet50_v1s'" in capsys.readouterr().err
    assert cli.main(["gluon2pt", "--backbone", SMALL, "--network", "ssd_300_mobilenet0.25_voc", src, dst]) == 2


def test_from_the_model_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import hashlib

    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    path = written(tmp_path / "x.params", classifier(SMALL))
    assert cli.main(["gluon2pt", "--backbone", SMALL, str(tmp_path / "out.pth")]) == 4
    assert str(tmp_path / "models") in capsys.readouterr().err
    (tmp_path / "models").mkdir()
    path.rename(tmp_path / "models" / f"{SMALL}-{hashlib.sha1(path.read_bytes()).hexdigest()[:8]}.params")
    assert cli.main(["gluon2pt", "--backbone", SMALL, str(tmp_path / "out.pth")]) == 0
    assert read_backbone(tmp_path / "out.pth").provenance["name"] == SMALL


def test_unknown_backbone() -> None:
    with pytest.raises(UsageError, match=r"mobilenet1\.0"):
        convert_backbone("x.params", "mobilenet1", "out.pth")
