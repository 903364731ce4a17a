"""Diagnosis of real files against live oracles: a Caffe layer graph in OpenCV, GluonCV on MXNet, Keras on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdconv.converters.convert import convert
from ssdconv.converters.gluon.source import write as write_gluon
from ssdconv.converters.keras.source import write as write_keras
from ssdconv.converters.plan import Request
from ssdconv.errors import MissingError
from ssdconv.parity.diagnose.result import Diagnosis
from ssdconv.parity.diagnose.search import diagnose
from ssdconv.parity.oracles.environments import install
from ssdconv.ssd_ref.checkpoint import read, save
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.registry import network

Change = Callable[[SSDConfig, dict[str, Any]], tuple[SSDConfig, dict[str, Any]]]


def installed(name: str) -> None:
    try:
        install(name, print)
    except MissingError as error:
        pytest.skip(f"no {name}: {error}")


def suspect(good: Path, folder: Path, change: Change) -> Path:
    checkpoint = read(good)
    config, tensors = change(checkpoint.config, {k: v.numpy().copy() for k, v in checkpoint.state_dict.items()})
    save(folder / "bad.pth", config, {k: np.ascontiguousarray(v) for k, v in tensors.items()})
    return folder / "bad.pth"


def names(found: Diagnosis) -> list[str]:
    assert found.verdict == "explained", (found.verdict, found.causes, found.after)
    return sorted(c.name for c in found.causes)


GRAPH: dict[str, tuple[Change, list[str]]] = {
    "nothing": (lambda c, t: (c, t), []),
    "factors left out": (
        lambda c, t: (c, t | {n: np.ones_like(a) for n, a in t.items() if n.endswith(".factor")}), ["bn-unscaled"]),
    "first layer turned": (
        lambda c, t: (c, t | {"layers.conv1_h.weight": t["layers.conv1_h.weight"][:, ::-1]}), ["channel-order"]),
    "biases lost": (lambda c, t: (c, t | {"layers.conv6_1_h.bias": t["layers.conv6_1_h.bias"] * 0}), ["biases-dropped"]),
}  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize("fault", GRAPH)
def test_a_caffe_graph_with_real_weights(shared: Path, tmp_path: Path, fault: str) -> None:
    folder = shared / "weights" / "res10_face_ssd"
    source, prototxt = folder / "res10_300x300_ssd_iter_140000.caffemodel", folder / "deploy.prototxt"
    convert(source, tmp_path / "good.pth", prototxt=prototxt)
    change, causes = GRAPH[fault]
    bad = suspect(tmp_path / "good.pth", tmp_path, change)
    found = diagnose(bad, source=source, prototxt=prototxt)
    if causes:
        assert names(found) == causes
    else:
        assert found.passed and not found.causes


@pytest.mark.shared
def test_a_caffe_file_that_tells_its_mean(shared: Path, tmp_path: Path) -> None:
    stem = shared / "weights" / "libfacedetection_v1" / "yufacedetectnet-open-v1"
    source, prototxt = stem.with_suffix(".caffemodel"), stem.with_suffix(".train.prototxt")
    convert(source, tmp_path / "good.pth", prototxt=prototxt)
    bad = suspect(
        tmp_path / "good.pth",
        tmp_path,
        lambda c, t: (replace(c, pixels=replace(c.pixels, mean=c.pixels.mean[::-1])), t),
    )
    assert names(diagnose(bad, source=source, prototxt=prototxt)) == ["mean-order"]


def eps_and_loc(config: SSDConfig, tensors: dict[str, Any]) -> tuple[SSDConfig, dict[str, Any]]:
    stages = tuple(
        tuple(replace(s, norm=replace(s.norm, eps=1e-5)) if s.norm else s for s in stage)
        for stage in config.staged.extras.stages
    )
    for name in [n for n in tensors if n.startswith("heads.loc.")]:
        by_anchor = tensors[name].reshape(-1, 4, *tensors[name].shape[1:])
        tensors[name] = by_anchor[:, [1, 0, 3, 2]].reshape(tensors[name].shape)
    return replace(config, layers=replace(config.staged, extras=replace(config.staged.extras, stages=stages))), tensors


@pytest.mark.slow
@pytest.mark.oracle
def test_gluoncv_live(tmp_path: Path) -> None:
    installed("gluon")
    name = "ssd_300_mobilenet0.25_voc"
    config = network(name, "gluon")
    (source,) = write_gluon(config, seeded_tensors(config, 21), tmp_path / "x.params", Request())
    convert(source, tmp_path / "good.pth", network=name)
    assert diagnose(tmp_path / "good.pth", source=source).passed
    assert names(diagnose(suspect(tmp_path / "good.pth", tmp_path, eps_and_loc), source=source)) == [
        "bn-eps",
        "loc-order",
    ]


@pytest.mark.slow
@pytest.mark.oracle
def test_keras_live(tmp_path: Path) -> None:
    installed("tensorflow")
    config = network("jedol_ssd300_vgg16_voc", "keras")
    (source,) = write_keras(config, seeded_tensors(config, 22), tmp_path / "x.h5", Request())
    convert(source, tmp_path / "good.pth")

    def symmetric(config: SSDConfig, tensors: dict[str, Any]) -> tuple[SSDConfig, dict[str, Any]]:
        stages = tuple(
            tuple(replace(s, padding=1) if s.padding == "same" else s for s in stage)
            for stage in config.staged.extras.stages
        )
        tensors["heads.l2norm.0.weight"][:] = 20
        return replace(
            config, layers=replace(config.staged, extras=replace(config.staged.extras, stages=stages))
        ), tensors

    found = diagnose(suspect(tmp_path / "good.pth", tmp_path, symmetric), source=source, seconds=500)
    assert names(found) == ["l2norm-init", "same-padding"]
