"""Oracles of AIZOO's face-mask detector: MXNet with its published .params, TensorFlow with its frozen graph as it is.

Both run in the interpreters of their sources' other networks. Boxes come from ``workers/aizoo_boxes.py``, NumPy written from the
facts of the project's scripts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.convert import Opened
from ssdconv.converters.tensors import Array
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.oracles.base import (
    Availability,
    OracleRun,
    Outputs,
    Prepared,
    Worker,
    layers_under,
    plan_probes,
    runs,
)

INPUT = "data"


class AizooOracle:
    """The network in one of its frameworks.

    Args:
        worker: the framework.
        job: what the worker is asked to do.
        timeout: seconds for one run.
    """

    def __init__(self, worker: Worker, job: dict[str, Any], *, timeout: float = 600.0) -> None:
        self.worker = worker
        self.job = job
        self.timeout = timeout

    @property
    def name(self) -> str:
        return self.worker.title

    def available(self) -> Availability:
        return self.worker.available()

    def run(self, pixels: Array) -> OracleRun:
        """Run the network.

        Raises:
            MissingError: the framework is not installed, or failed.
        """
        answer = self.worker.activations(self.job, pixels, timeout=self.timeout)
        found = [answer.arrays[f"0/{image}/detections"].astype(np.float32) for image in range(len(pixels))]
        rows = tuple(Rows(r[:, 0].astype(np.int64), r[:, 1], r[:, 2:]) for r in found)
        return OracleRun(Outputs(layers_under(answer, "0/nodes/")), rows)


def prepare(opened: Opened, worker: Worker) -> Prepared:
    """The oracle for an opened .params file or frozen graph."""
    path = str(Path(opened.table.path).resolve())
    probes = plan_probes(opened.plan.probes, INPUT)
    job: dict[str, Any] = {"do": "aizoo", "params": path}
    if worker.environment == "tensorflow":
        job = {"do": "graph", "path": path, "nodes": [p.source for p in probes if p.source != INPUT]}
        layers = runs("source framework", "TensorFlow, given the frozen graph as it is", "architecture")
    else:
        layers = runs("rebuilt", "built again as an MXNet symbol from what is known of the project", "architecture")
    boxes = runs("rebuilt", "NumPy written from the project's scripts", "priors", "detection rule")
    return Prepared(AizooOracle(worker, job), probes, INPUT, layers + boxes)
