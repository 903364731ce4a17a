"""Oracles of AIZOO's face-mask detector: MXNet with its published .params, TensorFlow with its frozen graph as it is.

Both run in the interpreters of their sources' other networks. Boxes come from ``workers/aizoo.py``, NumPy written from the facts of the
project's scripts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdconv.converters.convert import Opened
from ssdconv.parity.oracles.base import OracleRun, Outputs, Prepared, plan_probes, runs
from ssdconv.parity.oracles.worker import Arrays, OracleWorker, Worker, detections_in

INPUT = "data"


@dataclass(frozen=True)
class AizooOracle(OracleWorker):
    """The network in one of its frameworks, which does ``asked``."""

    worker: Worker
    asked: dict[str, Any]

    def job(self) -> dict[str, Any]:
        return self.asked

    def read(self, arrays: Arrays, images: int) -> OracleRun:
        return OracleRun(Outputs(arrays.under("nodes/").later()), detections_in(arrays, images))


def prepare(opened: Opened, worker: Worker) -> Prepared:
    """The oracle for an opened .params file or frozen graph."""
    path = str(Path(opened.table.path).resolve())
    probes = plan_probes(opened.plan.probes, INPUT)
    job: dict[str, Any] = {"do": "run_aizoo", "params": path}
    if worker.environment == "tensorflow":
        job = {"do": "graph", "path": path, "nodes": [p.source for p in probes if p.source != INPUT]}
        layers = runs("source framework", "TensorFlow, given the frozen graph as it is", "architecture")
    else:
        layers = runs("rebuilt", "built again as an MXNet symbol from what is known of the project", "architecture")
    boxes = runs("rebuilt", "NumPy written from the project's scripts", "priors", "detection rule")
    return Prepared(AizooOracle(worker, job), probes, INPUT, layers + boxes)
