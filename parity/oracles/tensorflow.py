"""TensorFlow 2.15, running TensorFlow 1 operations, as the oracle of checkpoints and frozen graphs, in an interpreter of its own.

It restores the source file itself, by TensorFlow's own reader, never the converted checkpoint. The network is built in
``workers/tf_hikapok.py`` from what is known of HiKapok/SSD.TensorFlow: the original code needs TensorFlow 1.6 and cannot run here, so this
oracle proves reading, layers and arithmetic, not that the description of the original is complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.convert import Opened
from ssdconv.converters.tensorflow.names import SCOPE, YX_TO_XY, scope_of
from ssdconv.converters.tensors import Array
from ssdconv.errors import UsageError
from ssdconv.parity.detections_match import Rows
from ssdconv.parity.oracles import aizoo
from ssdconv.parity.oracles.base import Availability, OracleRun, Outputs
from ssdconv.parity.oracles.column import (
    Prepared,
    Worker,
    always_tells,
    as_opened,
    check_choice,
    in_reference_order,
    layers_under,
    plan_probes,
    refuse_settings,
    runs,
)
from ssdconv.parity.oracles.process import Answer
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.aizoo import NAME as AIZOO

ORACLES = ("tensorflow",)
WORKER = Worker("tensorflow", "tf_worker", "TensorFlow 2.15.1 (TensorFlow 1 operations)", "2.15.1")
ask_jobs = WORKER.ask
adopt = as_opened
tells_pixels = always_tells
INPUT = "input"

ANCHORS = {4: (1, 0, 2, 3), 6: (1, 0, 2, 4, 3, 5)}
"""Place in SSD.TensorFlow's cell of each of the reference's anchors."""


class TensorFlowOracle:
    """SSD.TensorFlow's network with the variables of a checkpoint or frozen graph.

    Args:
        path: a checkpoint's prefix or index, a V1 checkpoint, or a ``.pb``.
        config: the network: its class count and width.
        scope: the network's variable scope in the file.
        timeout: seconds for one run.
    """

    def __init__(self, path: Path, config: SSDConfig, scope: str = SCOPE, *, timeout: float = 600.0) -> None:
        self.path = Path(path)
        self.config = config
        self.scope = scope
        self.timeout = timeout

    @property
    def name(self) -> str:
        return WORKER.title

    def available(self) -> Availability:
        return WORKER.available()

    def run(self, pixels: Array) -> OracleRun:
        """Restore the file and run the network.

        Raises:
            MissingError: TensorFlow is not installed, or cannot restore the file.
        """
        answer = WORKER.activations(self.job(), pixels, timeout=self.timeout)
        return oracle_run(answer, 0, self.config, len(pixels))

    def job(self) -> dict[str, Any]:
        """The worker's job that runs this network."""
        staged = self.config.staged
        path = str(self.path.resolve())
        return {
            "do": "activations",
            "path": path.removesuffix(".index"),
            "width": staged.backbone.options.get("width", 64) if staged else 64,
            "classes": self.config.num_classes,
            "scope": self.scope.rstrip("/"),
        }


def oracle_run(answer: Answer, index: int, config: SSDConfig, images: int) -> OracleRun:
    """The activations and detections of one job."""
    outputs = layers_under(answer, f"{index}/probes/")
    outputs["@loc"] = np.ascontiguousarray(in_reference_order(outputs["@loc"], config, ANCHORS)[..., YX_TO_XY])
    outputs["@conf"] = in_reference_order(outputs["@conf"], config, ANCHORS)
    found = [answer.arrays[f"{index}/{image}/detections"] for image in range(images)]
    return OracleRun(Outputs(outputs), tuple(Rows(r[:, 0].astype(np.int64), r[:, 1], r[:, 2:]) for r in found))


def prepare(opened: Opened, prototxt: Path | None = None, oracle: str = "tensorflow") -> Prepared:
    """Set up TensorFlow for an opened checkpoint.

    Raises:
        UsageError: no such oracle for TensorFlow networks, or a frozen graph, whose nodes have other names in every file.
    """
    check_choice(oracle, ORACLES, "TensorFlow")
    if opened.plan.config.name == AIZOO and opened.table.meta["flavour"] == "graph":
        return aizoo.prepare(opened, WORKER)
    if opened.table.meta["flavour"] == "graph" or opened.plan.config.name == AIZOO:
        raise UsageError(
            "a frozen graph is not verified layer by layer: its nodes have other names in every file"
            if opened.plan.config.name != AIZOO
            else "this network is verified with its frozen graph (.pb), which holds its layers",
            where=str(opened.table.path),
            hint="write a checkpoint with `ssdconv pt2tf` from the converted file, and verify against that"
            if opened.plan.config.name != AIZOO
            else None,
        )
    refuse_settings(opened, WORKER.title)
    scope = scope_of(list(opened.table)) or SCOPE
    runner = TensorFlowOracle(opened.table.path, opened.plan.config, scope)
    evidence = runs(
        "rebuilt", "built again in TensorFlow 2.15 from what is known of SSD.TensorFlow, whose code cannot run here"
    )
    return Prepared(runner, plan_probes(opened.plan.probes, INPUT, loc="@loc", conf="@conf"), INPUT, evidence)


def why_not(kind: str) -> str:
    """Why an output has no probe of its own."""
    return "regroups values that are compared elsewhere"
