"""Random legal SSD nets against what the original Caffe computed: every blob, the priors, the detections; and the way back."""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.converters.caffe.prototxt import read_prototxt
from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.converters.convert import convert, reverse
from ssdconv.converters.inspect import inspect
from ssdconv.export.hub import write_hub
from ssdconv.export.onnx_detect import differences
from ssdconv.export.onnx_file import onnx_model
from ssdconv.parity.diagnose.diff import diff
from ssdconv.parity.layers.activations import derived
from ssdconv.parity.layers.detections import compare_detections
from ssdconv.parity.layers.results import DetectionResult
from ssdconv.parity.layers.tolerance import MAX_RATIO, Floor, Measurement, floors, measure
from ssdconv.parity.onnx_check import check_onnx
from ssdconv.parity.oracles.base import detection_rows
from ssdconv.ssd_ref.checkpoint import load, read
from ssdconv.ssd_ref.config import Graph
from ssdconv.ssd_ref.model import SSD

pytestmark = [pytest.mark.shared, pytest.mark.usefixtures("one_thread")]

SHARED = Path(os.environ.get("SSDCONV_SHARED", Path(__file__).parents[3] / "shared"))
FOLDER = SHARED / "golden" / "caffe_random"
NETS = sorted(path.stem for path in FOLDER.glob("*.npz")) or ["none"]
NOT_TRACED = {"PriorBox", "Concat", "DetectionOutput", "Split"}
"""Types that have no module of their own, or join priors: these are compared as priors and detections, a Split's top is its bottom."""
ONNX = ("0008", "0024", "0032", "0274")
"""Exported in every run, some with and some without tensors that have no axes; the others where slow tests run."""


@dataclass(frozen=True)
class Judged:
    """One net against Caffe's recording.

    Attributes:
        blobs: number of blobs compared.
        worst: the largest error over its limit (above 1: wrong), and whose.
        left: recorded blobs that nothing was compared with, but for layers that detection does not need.
        priors_equal: bit for bit.
        detections: as sets.
    """

    blobs: int
    worst: tuple[float, str]
    left: tuple[str, ...]
    priors_equal: bool
    detections: DetectionResult


def recorded(name: str) -> dict[str, Any]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def judge(model: SSD, golden: dict[str, Any]) -> Judged:
    """Compare by layer and top: the reference in float32 and float64 with the recorded values."""
    pixels = torch.from_numpy(golden["__x"])
    runs, heads = [], []
    with torch.inference_mode():
        for net, x in ((model, pixels), (deepcopy(model).double(), pixels.double())):
            runs.append({f"{spec.name}|{i}": v.numpy() for spec, vs in net.layers.trace(x) for i, v in enumerate(vs)})
            heads.append(derived(net.config, net(x)))
    names = [n for n in golden if n in runs[1]]
    found = [(n, measure(golden[n], runs[1][n], runs[0][n])) for n in names]
    for name, head in (("__loc", "@loc"), ("__conf", "@scores")):
        exact, rounded = (h[head].numpy().reshape(golden[name].shape) for h in (heads[1], heads[0]))
        found.append((name, measure(golden[name], exact, rounded)))
    limits = floors([m for _, m in found])
    worst = max((excess(m, f), n) for (n, m), f in zip(found, limits, strict=True))
    result = compare_detections(model.config, detection_rows(golden["__det"], len(pixels)), heads[1], heads[0])
    assert result is not None and isinstance(model.config.layers, Graph)
    dropped = model.config.layers.dropped
    left = tuple(n for n in golden if "|" in n and n not in names and n.split("|")[0] not in dropped)
    priors = np.array_equal(golden["__pri"].reshape(-1), heads[0]["@priors"].numpy().reshape(-1))
    return Judged(len(found), worst, left, priors, result)


def excess(m: Measurement, floor: Floor) -> float:
    if m.problem:
        return float("inf")
    return max(m.error / floor.max / MAX_RATIO, m.error_rms / floor.rms / m.rms_limit)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """name -> its checkpoint, made with the prototxt; every net once."""
    folder, made = tmp_path_factory.mktemp("caffe_random"), {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = folder / f"{name}.pth"
            convert(FOLDER / f"{name}.caffemodel", made[name], prototxt=FOLDER / f"{name}.prototxt")
        return made[name]

    return of


def test_all_of_them_are_there() -> None:
    assert len(NETS) == 92


@pytest.mark.parametrize("name", NETS)
def test_everything_equals_the_original_caffe(name: str, converted: Any, tmp_path: Path) -> None:
    convert(FOLDER / f"{name}.caffemodel", tmp_path / "alone.pth")
    alone, told = read(tmp_path / "alone.pth"), read(converted(name))
    assert isinstance(alone.config.layers, Graph) and isinstance(told.config.layers, Graph)
    assert (alone.config.layers.layers, alone.config.layers.tail) == (
        told.config.layers.layers,
        told.config.layers.tail,
    )
    assert (alone.config.priors, alone.config.detect) == (told.config.priors, told.config.detect)
    assert all(torch.equal(alone.state_dict[n], t) for n, t in told.state_dict.items())

    result = judge(load(converted(name)), recorded(name))
    assert result.worst[0] <= 0.5, result.worst
    kinds = {layer.name: layer.type for layer in read_prototxt(FOLDER / f"{name}.prototxt").layers}
    assert {kinds[n.split("|")[0]] for n in result.left} <= NOT_TRACED, result.left
    assert result.priors_equal
    found = result.detections
    assert found and found.oracle == found.matched == found.reference


@pytest.mark.parametrize("name", NETS)
def test_the_way_back_is_bit_identical(name: str, converted: Any, tmp_path: Path) -> None:
    reverse(converted(name), tmp_path / "back.caffemodel", "caffe")
    kept = {layer for layer, *_ in (k.split(".") for k in read(converted(name)).state_dict if k)}
    assert kept == {"layers"}
    with read_caffemodel(FOLDER / f"{name}.caffemodel") as was, read_caffemodel(tmp_path / "back.caffemodel") as now:
        config = read(converted(name)).config
        assert set(was) - set(now) == {n for n in was if n.rsplit("/", 1)[0] in config.graph.dropped}
        for blob in now.values():
            assert blob.shape == was[blob.name].shape and blob.load().tobytes() == was[blob.name].load().tobytes()
    convert(tmp_path / "back.caffemodel", tmp_path / "again.pth", prototxt=tmp_path / "back.prototxt")
    again, before = read(tmp_path / "again.pth"), read(converted(name))
    assert isinstance(again.config.layers, Graph) and isinstance(before.config.layers, Graph)
    assert (again.config.layers.layers, again.config.priors) == (before.config.layers.layers, before.config.priors)
    assert again.config.detect == before.config.detect


def test_tensors_without_axes_travel_everywhere(converted: Any, tmp_path: Path) -> None:
    name = next(n for n in NETS if any(t.dim() == 0 for t in read(converted(n)).state_dict.values()))
    checkpoint = read(converted(name))
    empty = {n for n, t in checkpoint.state_dict.items() if t.dim() == 0}
    convert(FOLDER / f"{name}.caffemodel", tmp_path / "x.safetensors")
    write_hub(checkpoint, tmp_path / "hub")
    for path in (tmp_path / "x.safetensors", tmp_path / "hub"):
        state = read(path).state_dict
        assert {n for n, t in state.items() if t.dim() == 0} == empty
        assert all(torch.equal(state[n], t) for n, t in checkpoint.state_dict.items())
        if path.is_file():
            assert diff(path, converted(name))
            assert diff(FOLDER / f"{name}.caffemodel", path)
    for path in (FOLDER / f"{name}.caffemodel", converted(name), tmp_path / "x.safetensors"):
        assert sum(t.shape == () for t in inspect(path).tensors) == len(empty)


@pytest.mark.parametrize("name", [n if n in ONNX else pytest.param(n, marks=pytest.mark.slow) for n in NETS])
def test_exported_models_compute_the_same(name: str, converted: Any) -> None:
    model = load(converted(name))
    report = check_onnx(onnx_model(model, nms=not differences(model.config)), model)
    assert report, report.reason
