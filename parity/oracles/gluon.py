"""GluonCV on MXNet as the oracle of .params files, in an interpreter of its own (``environments``, ``workers/gluon_worker.py``).

It is given the source file itself, never the converted checkpoint, and the network's name in GluonCV's model zoo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.convert import Opened
from ssdconv.converters.tensors import Array
from ssdconv.parity.detections_match import Rows
from ssdconv.parity.inputs import Image
from ssdconv.parity.oracles import aizoo
from ssdconv.parity.oracles.base import Availability, OracleRun, Outputs
from ssdconv.parity.oracles.column import Prepared, Worker, always_tells, check_choice, layers_under, plan_probes, runs
from ssdconv.parity.oracles.process import Answer
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.aizoo import NAME as AIZOO

ORACLES = ("mxnet",)
WORKER = Worker("gluon", "gluon_worker", "MXNet 1.9.1, GluonCV 0.10.5.post0", "1.9.1")
MXNET = Worker("gluon", "gluon_worker", "MXNet 1.9.1", "1.9.1")
ask_jobs = WORKER.ask
tells_pixels = always_tells
INPUT = "data"


class GluonOracle:
    """A GluonCV network with the weights of a .params file.

    Args:
        params: the file, in any dialect.
        config: the network; its name is GluonCV's.
        nodes: nodes of MXNet's graph to read; None for all.
        timeout: seconds for one run.
    """

    def __init__(
        self, params: Path, config: SSDConfig, *, nodes: Sequence[str] | None = None, timeout: float = 600.0
    ) -> None:
        self.params = Path(params)
        self.config = config
        self.nodes = nodes
        self.timeout = timeout

    @property
    def name(self) -> str:
        return WORKER.title

    def available(self) -> Availability:
        return WORKER.available()

    def run(self, pixels: Array) -> OracleRun:
        """Run the network and read the wanted nodes of its graph.

        Raises:
            MissingError: MXNet is not installed, or failed.
        """
        answer = WORKER.activations(self.job(), pixels, timeout=self.timeout)
        return oracle_run(answer, 0, self.config)

    def job(self) -> dict[str, Any]:
        """The worker's job that computes this network's activations."""
        return {
            "do": "activations",
            "network": self.config.name,
            "classes": class_names(self.config),
            "params": str(self.params.resolve()),
            **({} if self.nodes is None else {"nodes": list(self.nodes)}),
        }


def class_names(config: SSDConfig) -> list[str] | None:
    """Object class names to build GluonCV's network with; None where its own count is right."""
    standard = 81 if config.name.endswith("coco") else 21
    return None if config.num_classes == standard else [f"class{i}" for i in range(1, config.num_classes)]


def oracle_run(answer: Answer, index: int, config: SSDConfig) -> OracleRun:
    """The activations and detections of one job."""
    nodes = layers_under(answer, f"{index}/nodes/")
    return OracleRun(Outputs(nodes), detection_rows(answer, index, config))


def detection_rows(answer: Answer, index: int, config: SSDConfig) -> tuple[Rows, ...]:
    """Final detections per image: labels with background 0, boxes as fractions of the input."""
    ids, scores, boxes = (answer.arrays[f"{index}/detections/{key}"] for key in ("ids", "scores", "bboxes"))
    height, width = config.pixels.size
    scale = np.array([width, height, width, height], np.float32)
    rows = []
    for one_ids, one_scores, one_boxes in zip(ids[..., 0], scores[..., 0], boxes, strict=True):
        kept = one_ids >= 0
        rows.append(Rows(one_ids[kept].astype(np.int64) + 1, one_scores[kept], one_boxes[kept] / scale))
    return tuple(rows)


def prepare(opened: Opened, prototxt: Path | None = None, oracle: str = "mxnet") -> Prepared:
    """Set up MXNet for an opened .params file.

    Raises:
        UsageError: no such oracle for GluonCV networks.
    """
    check_choice(oracle, ORACLES, "GluonCV")
    if opened.plan.config.name == AIZOO:
        return aizoo.prepare(opened, MXNET)
    probes = plan_probes(opened.plan.probes, INPUT)
    nodes = [probe.source for probe in probes if probe.source != INPUT]
    evidence = runs("original code", f"GluonCV's own network {opened.plan.config.name} of its model zoo")
    evidence += runs("original code", "GluonCV's own SSDDefaultValTransform", "pixels")
    runner = GluonOracle(opened.table.path, opened.plan.config, nodes=nodes)
    return Prepared(runner, probes, INPUT, evidence, partial(prepared_pixels, opened.plan.config))


def prepared_pixels(config: SSDConfig, images: Sequence[Image]) -> list[Array]:
    """Images as GluonCV's validation prepares them."""
    return WORKER.prepared({"do": "preprocess", "size": config.pixels.size[0]}, images)


def adopt(opened: Opened, config: SSDConfig) -> Opened:
    """The same source file with tensors and probes paired to a checkpoint's config instead of the one recognised.

    Raises:
        MappingError: the checkpoint's network does not have the file's tensors.
    """
    from ssdconv.converters.gluon.source import plan_for

    return replace(opened, plan=plan_for(opened.table, config))


def why_not(kind: str) -> str:
    """Why a node of MXNet's graph has no probe."""
    return "moves or regroups values that are compared elsewhere"
