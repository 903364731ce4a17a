"""The verdict on 92 random Caffe nets: right ones pass, or what the oracle cannot tell is named; each planted change fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdconv.converters.convert import convert
from ssdconv.parity.layers.results import ParityReport
from ssdconv.parity.oracles.environments import state
from ssdconv.parity.oracles.worker import Session, end
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.checkpoint import Checkpoint, read, save
from ssdconv.ssd_ref.config import SSDConfig

pytestmark = [pytest.mark.shared, pytest.mark.usefixtures("one_thread")]

SHARED = Path(os.environ.get("SSDCONV_SHARED", Path(__file__).parents[3] / "shared"))
FOLDER = SHARED / "golden" / "caffe_random"
NAMES = sorted(p.stem for p in FOLDER.glob("*.caffemodel")) if FOLDER.is_dir() else []
FEW = NAMES[::13]
"""Nets of the quick run; the others are slow."""
Tensors = dict[str, Any]
Plant = Callable[[SSDConfig, Tensors], tuple[SSDConfig, Tensors]]


@dataclass(frozen=True)
class Converted:
    """A net converted with its prototxt."""

    source: Path
    prototxt: Path
    checkpoint: Checkpoint

    def verify(self, folder: Path, oracle: str, plant: Plant | None = None) -> ParityReport:
        tensors = {n: t.numpy().copy() for n, t in self.checkpoint.state_dict.items()}
        config = self.checkpoint.config
        if plant is not None:
            config, tensors = plant(config, tensors)
        save(folder / "out.pth", config, tensors, self.checkpoint.provenance)
        return verify(folder / "out.pth", self.source, prototxt=self.prototxt, oracle=oracle)


def converted(name: str, folder: Path) -> Converted:
    """The net of that number."""
    source, prototxt = FOLDER / f"{name}.caffemodel", FOLDER / f"{name}.prototxt"
    convert(source, folder / "x.pth", prototxt=prototxt, digests=False)
    return Converted(source, prototxt, read(folder / "x.pth"))


def scaled(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
    """The largest tensor times 1.0002."""
    name = max((n for n in tensors if np.any(tensors[n])), key=lambda n: tensors[n].size)
    return config, {**tensors, name: (tensors[name] * np.float32(1.0002)).astype(np.float32)}


def shifted(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
    """A padding of one pixel more, or, where a kernel reaches over one pixel only, twice the stride, in the last convolution."""
    layers = list(config.graph.layers)
    place = max(i for i, spec in enumerate(layers) if spec.type == "Convolution")
    params = dict(layers[place].params)
    if "pad_h" in params or "pad_w" in params:
        params["pad_h"] = params.get("pad_h", 0) + 1
    else:
        params["pad"] = [pad + 1 for pad in params.get("pad", [0])]
    layers[place] = replace(layers[place], params=params)
    return replace(config, layers=replace(config.graph, layers=tuple(layers))), tensors


def strided(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
    """The first convolution with one more pixel of stride."""
    layers = list(config.graph.layers)
    place = min(i for i, spec in enumerate(layers) if spec.type == "Convolution")
    params = dict(layers[place].params)
    if "stride_h" in params or "stride_w" in params:
        params["stride_h"] = params.get("stride_h", 1) + 1
    else:
        params["stride"] = [stride + 1 for stride in params.get("stride", [1])]
    layers[place] = replace(layers[place], params=params)
    return replace(config, layers=replace(config.graph, layers=tuple(layers))), tensors


def resized(config: SSDConfig, tensors: Tensors) -> tuple[SSDConfig, Tensors]:
    """One prior of the last map wider by a pixel."""
    *rest, last = config.priors
    (width, height), *cells = last.box_sizes
    return replace(config, priors=(*rest, replace(last, box_sizes=((width + 1.0, height), *cells)))), tensors


PLANTS: dict[str, Plant] = {"scaled": scaled, "padded": shifted, "strided": strided, "prior": resized}
ORACLES = [pytest.param("opencv"), pytest.param("caffe", marks=pytest.mark.oracle)]


def need(oracle: str) -> None:
    if oracle == "caffe" and not state("caffe").installed:
        pytest.skip("the original Caffe is not installed: ssdconv oracle install caffe")


def every(names: list[str]) -> list[Any]:
    return [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in names]


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("name", every(NAMES))
def test_a_right_conversion_is_never_called_wrong(name: str, oracle: str, tmp_path: Path) -> None:
    need(oracle)
    report = converted(name, tmp_path).verify(tmp_path, oracle)
    assert report.outcome != "failed", report.first_divergent
    if oracle == "caffe":
        assert report.outcome == "passed", report.gaps
    for gap in report.gaps:
        assert gap.code == "oracle departs" and gap.reason.startswith("OpenCV")


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("name", every(NAMES))
def test_every_planted_change_fails(name: str, plant: str, oracle: str, tmp_path: Path) -> None:
    need(oracle)
    report = converted(name, tmp_path).verify(tmp_path, oracle, PLANTS[plant])
    assert report.outcome == "failed" and report.first_divergent


def test_no_detections_on_either_side_are_not_compared(tmp_path: Path) -> None:
    prototxt = tmp_path / "high.prototxt"
    text = (FOLDER / "0008.prototxt").read_text()
    prototxt.write_text(text.replace("detection_output_param {", "detection_output_param { confidence_threshold: 5 "))
    source = FOLDER / "0008.caffemodel"
    convert(source, tmp_path / "x.pth", prototxt=prototxt, digests=False)
    report = verify(tmp_path / "x.pth", source, prototxt=prototxt, oracle="opencv")
    assert report.outcome == "not compared" and [g.code for g in report.gaps] == ["empty"]
    assert all(i.detections is not None and not i.detections.oracle for i in report.inputs)


def test_boxes_that_are_infinite_on_both_sides_are_not_compared_and_a_fainter_input_is(tmp_path: Path) -> None:
    report = converted("0039", tmp_path).verify(tmp_path, "opencv")
    assert [[g.code for g in i.gaps] for i in report.inputs] == [["overflow"], ["overflow"], []]
    last = report.inputs[-1].detections
    assert report.outcome == "passed" and last is not None and last.matched > 0


def test_a_crash_of_opencv_is_a_gap_and_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that ends by signal 11 as soon as DetectionOutput is among the layers, and another one afterwards."""
    real, dying = Session.ask, [sys.executable, "-c", "import os; input(); os.kill(os.getpid(), 11)"]

    def ask(self: Session, jobs: Any, arrays: Any) -> Any:
        if "DetectionOutput" not in jobs[0]["prototxt"]:
            return real(self, jobs, arrays)
        kept, self.command = self.command, dying
        if self._process is not None:
            end(self._process)
        try:
            return real(self, jobs, arrays)
        finally:
            self.command = kept

    monkeypatch.setattr(Session, "ask", ask)
    report = converted("0012", tmp_path).verify(tmp_path, "opencv")
    assert report.outcome == "not compared" and [(g.part, g.code) for g in report.gaps] == [
        ("detections", "oracle crashed")
    ]
    assert "crashed: its process ended by signal 11" in report.gaps[0].reason and report.probes > 20


@pytest.mark.parametrize("given, told", [("0012", 0), ("0274", 5)])
def test_the_command_ends_with_the_verdicts_exit_code(
    given: str, told: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ssdconv.cli import main

    made = converted(given, tmp_path)
    words = [
        str(tmp_path / "x.pth"),
        "--source",
        str(made.source),
        "--prototxt",
        str(made.prototxt),
        "--oracle",
        "opencv",
    ]
    assert main(["verify", *words]) == told
    assert ("not compared" in capsys.readouterr().out) == (told == 5)
