"""ChainerCV as the oracle of .npz files, in an interpreter of its own (``environments``, ``workers/chainer_worker.py``).

It is given the source file itself, never the converted checkpoint, and loads it strictly: a tensor too few or too many fails.
Loc heads are compared after ChainerCV has put them together, with (dy, dx, dh, dw) read as the reference's (dx, dy, dw, dh).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.chainer.npz import NpzFile
from ssdconv.converters.chainer.source import YX_TO_XY
from ssdconv.converters.convert import Opened
from ssdconv.converters.tensors import Array
from ssdconv.errors import UsageError
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.oracles.base import (
    RUN,
    Availability,
    OracleRun,
    Outputs,
    Prepared,
    Worker,
    always_tells,
    as_opened,
    check_choice,
    layers_under,
    plan_probes,
    refuse_settings,
    runs,
)
from ssdconv.parity.oracles.process import Answer
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.chainer import PRESETS

ORACLES = ("chainer",)
WORKER = Worker("chainer", "chainer_worker", "Chainer 7.8.1, ChainerCV 0.13.1", "7.8.1")
ask_jobs = WORKER.ask
adopt = as_opened
tells_pixels = always_tells
INPUT = "input"


class ChainerOracle:
    """ChainerCV's SSD300 or SSD512 with the weights of a .npz file.

    Args:
        npz: the file, as ``chainer.serializers.load_npz`` reads it.
        config: the network: its size, class count, width and threshold preset.
        timeout: seconds for one run.
    """

    def __init__(self, npz: Path, config: SSDConfig, *, timeout: float = 600.0) -> None:
        self.npz = Path(npz)
        self.config = config
        self.timeout = timeout

    @property
    def name(self) -> str:
        return WORKER.title

    def available(self) -> Availability:
        return WORKER.available()

    def run(self, pixels: Array) -> OracleRun:
        """Run the network and read every link.

        Raises:
            MissingError: Chainer is not installed, or cannot load the file.
        """
        answer = WORKER.activations(self.job(), pixels, timeout=self.timeout)
        return oracle_run(answer, 0, self.config, len(pixels))

    def job(self, do: str = "activations") -> dict[str, Any]:
        """A job of the worker on this network."""
        staged = self.config.staged
        threshold = self.config.detect.score_threshold
        return {
            "do": do,
            "size": self.config.pixels.size[0],
            "classes": self.config.num_classes,
            "width": staged.backbone.options.get("width", 64) if staged else 64,
            "npz": str(self.npz.resolve()),
            "preset": next((name for name, value in PRESETS.items() if value == threshold), "evaluate"),
        }


def oracle_run(answer: Answer, index: int, config: SSDConfig, images: int) -> OracleRun:
    """The activations and detections of one job."""
    outputs = layers_under(answer, f"{index}/links")
    outputs["mb_locs"] = np.ascontiguousarray(answer.arrays[f"{index}/locs"][..., YX_TO_XY])
    outputs["mb_confs"] = answer.arrays[f"{index}/confs"]
    rows = tuple(detection_rows(answer, f"{index}/{image}", config) for image in range(images))
    kinds = {name: "loc" for name in outputs if name.startswith("/multibox/loc/")}
    return OracleRun(Outputs(outputs), rows, kinds)


def detection_rows(answer: Answer, key: str, config: SSDConfig, size: tuple[int, int] | None = None) -> Rows:
    """Detections under ``key`` with labels that count background, boxes xyxy as fractions of an image of ``size``."""
    height, width = size or config.pixels.size
    boxes = answer.arrays[f"{key}/boxes"].reshape(-1, 4)[:, YX_TO_XY]
    scale = np.array([width, height, width, height], np.float32)
    return Rows(answer.arrays[f"{key}/labels"].astype(np.int64) + 1, answer.arrays[f"{key}/scores"], boxes / scale)


def prepare(opened: Opened, prototxt: Path | None = None, oracle: str = "chainer") -> Prepared:
    """Set up ChainerCV for an opened .npz file.

    Raises:
        UsageError: no such oracle for ChainerCV networks, or the file is a trainer's snapshot.
    """
    check_choice(oracle, ORACLES, "ChainerCV")
    if opened.table.found(NpzFile).prefix:
        raise UsageError(
            "ChainerCV's networks load a model's own file, not a trainer's snapshot",
            where=str(opened.table.path),
            hint="write one with `ssdconv pt2chainer` from the converted checkpoint, and verify against that",
        )
    refuse_settings(opened, "ChainerCV")
    runner = ChainerOracle(opened.table.path, opened.plan.config)
    return Prepared(
        runner,
        plan_probes(opened.plan.probes, INPUT, loc="mb_locs", conf="mb_confs"),
        INPUT,
        runs("original code", "ChainerCV's own SSD classes", *RUN, "pixels"),
        partial(WORKER.prepared, runner.job("prepare")),
    )


def why_not(kind: str) -> str:
    """Why a link's output has no probe of its own."""
    if kind == "loc":
        return "compared in mb_locs, with (dy, dx, dh, dw) read as (dx, dy, dw, dh)"
    return "regroups values that are compared elsewhere"
