"""ChainerCV as the oracle of .npz files, in an interpreter of its own (``workers/chainer_worker.py``).

It is given the source file itself, never the converted checkpoint, and loads it strictly: a tensor too few or too many fails.
Loc heads are compared after ChainerCV has put them together, with (dy, dx, dh, dw) read as the reference's (dx, dy, dw, dh).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
from ssdconv.parity.oracles.base import RUN, Column, OracleRun, Outputs, Prepared, plan_probes, refuse_settings, runs
from ssdconv.parity.oracles.worker import Arrays, OracleWorker, Worker
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.chainer import PRESETS

WORKER = Worker("chainer", "chainer_worker", "Chainer 7.8.1, ChainerCV 0.13.1", "7.8.1")
INPUT = "input"


@dataclass(frozen=True)
class ChainerOracle(OracleWorker):
    """ChainerCV's SSD300 or SSD512 with the weights of a .npz file.

    Attributes:
        npz: the file, as ``chainer.serializers.load_npz`` reads it.
        config: the network: its size, class count, width and threshold preset.
    """

    npz: Path
    config: SSDConfig
    worker = WORKER

    def job(self, do: str = "activations") -> dict[str, Any]:
        """A job of the worker on this network."""
        threshold = self.config.detect.score_threshold
        return {
            "do": do,
            "size": self.config.pixels.size[0],
            "classes": self.config.num_classes,
            "width": self.config.layers.options.get("width", 64),
            "npz": str(self.npz.resolve()),
            "preset": next((name for name, value in PRESETS.items() if value == threshold), "evaluate"),
        }

    def read(self, arrays: Arrays, images: int) -> OracleRun:
        outputs = arrays.under("links").later()
        kinds = {name: "loc" for name in outputs if name.startswith("/multibox/loc/")}
        outputs["mb_locs"] = np.ascontiguousarray(arrays["locs"][..., YX_TO_XY])
        outputs["mb_confs"] = arrays["confs"]
        rows = tuple(detection_rows(arrays.under(f"{image}/"), self.config) for image in range(images))
        return OracleRun(Outputs(outputs), rows, kinds)


def detection_rows(found: Mapping[str, Array], config: SSDConfig, size: tuple[int, int] | None = None) -> Rows:
    """ChainerCV's detections with labels that count background, boxes xyxy as fractions of an image of ``size``."""
    height, width = size or config.pixels.size
    scale = np.array([width, height, width, height], np.float32)
    boxes = found["boxes"].reshape(-1, 4)[:, YX_TO_XY] / scale
    return Rows(found["labels"].astype(np.int64) + 1, found["scores"], boxes)


class ChainerColumn(Column):
    """ChainerCV's."""

    title = "ChainerCV"
    oracles = ("chainer",)

    def made(self, opened: Opened, prototxt: Path | None, oracle: str, symbol: Path | None) -> Prepared:
        if opened.table.found(NpzFile).prefix:
            raise UsageError(
                "ChainerCV's networks load a model's own file, not a trainer's snapshot",
                where=str(opened.table.path),
                hint="write one with `ssdconv pt2chainer` from the converted checkpoint, and verify against that",
            )
        refuse_settings(opened, self.title)
        runner = ChainerOracle(opened.table.path, opened.plan.config)
        return Prepared(
            runner,
            plan_probes(opened.plan.probes, INPUT, loc="mb_locs", conf="mb_confs"),
            INPUT,
            runs("original code", "ChainerCV's own SSD classes", *RUN, "pixels"),
            partial(WORKER.prepared, runner.job("prepare")),
        )

    def why_not(self, kind: str) -> str:
        if kind == "loc":
            return "compared in mb_locs, with (dy, dx, dh, dw) read as (dx, dy, dw, dh)"
        return super().why_not(kind)


COLUMN = ChainerColumn()
