"""TensorFlow 2.15, running TensorFlow 1 operations, as the oracle of checkpoints and frozen graphs, in an interpreter of its own.

It restores the source file itself, by TensorFlow's own reader, never the converted checkpoint. The network is built in
``workers/tf_hikapok.py`` from what is known of HiKapok/SSD.TensorFlow: the original code needs TensorFlow 1.6 and cannot run here, so this
oracle proves reading, layers and arithmetic, not that the description of the original is complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.convert import Opened
from ssdconv.converters.tensorflow.names import SCOPE, YX_TO_XY, scope_of
from ssdconv.converters.tensors import Array
from ssdconv.errors import UsageError
from ssdconv.parity.activations import Probe
from ssdconv.parity.detections_match import Rows
from ssdconv.parity.oracles.base import Availability, Oracle, OracleRun, Outputs
from ssdconv.parity.oracles.environments import state
from ssdconv.parity.oracles.process import Answer, ask
from ssdconv.ssd_ref.config import SSDConfig

ORACLES = ("tensorflow",)
ENVIRONMENT = "tensorflow"
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
        return "TensorFlow 2.15.1 (TensorFlow 1 operations)"

    def available(self) -> Availability:
        found = state(ENVIRONMENT)
        return Availability(found.installed, found.reason, found.next_step, "2.15.1" if found.installed else "")

    def run(self, pixels: Array) -> OracleRun:
        """Restore the file and run the network.

        Raises:
            MissingError: TensorFlow is not installed, or cannot restore the file.
        """
        answer = ask_jobs([self.job()], {"0/input": np.ascontiguousarray(pixels, np.float32)}, timeout=self.timeout)
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


def ask_jobs(
    jobs: Sequence[Mapping[str, Any]], arrays: Mapping[str, Array] | None = None, *, timeout: float = 600.0
) -> Answer:
    """Run several jobs of the TensorFlow worker in one process; arrays are named ``<job>/<name>`` both ways."""
    return ask(ENVIRONMENT, "tf_worker", {"jobs": [dict(job) for job in jobs]}, arrays, timeout=timeout)


def reorder(array: Array, config: SSDConfig) -> Array:
    """Rows (N, P, k) of the source's anchors in the reference's order within each cell."""
    order, start = [], 0
    for prior_map in config.priors:
        cells = len(prior_map.cells)
        for cell in range(prior_map.grid[0] * prior_map.grid[1]):
            order += [start + cell * cells + place for place in ANCHORS[cells]]
        start += prior_map.count
    return np.ascontiguousarray(array[:, order])


def oracle_run(answer: Answer, index: int, config: SSDConfig, images: int) -> OracleRun:
    """The activations and detections of one job."""
    head = f"{index}/probes/"
    outputs = {name[len(head) :]: array for name, array in answer.arrays.items() if name.startswith(head)}
    outputs["@loc"] = np.ascontiguousarray(reorder(outputs["@loc"], config)[..., YX_TO_XY])
    outputs["@conf"] = reorder(outputs["@conf"], config)
    found = [answer.arrays[f"{index}/{image}/detections"] for image in range(images)]
    return OracleRun(Outputs(outputs), tuple(Rows(r[:, 0].astype(np.int64), r[:, 1], r[:, 2:]) for r in found))


@dataclass(frozen=True)
class Prepared:
    """An oracle with its network, and what to compare; see ``parity.oracles.caffe.Prepared``."""

    oracle: Oracle
    probes: tuple[Probe, ...]
    input: str


def prepare(opened: Opened, prototxt: Path | None = None, oracle: str = "tensorflow") -> Prepared:
    """Set up TensorFlow for an opened checkpoint.

    Raises:
        UsageError: no such oracle for TensorFlow networks, or a frozen graph, whose nodes have other names in every file.
    """
    if oracle not in (*ORACLES, "opencv"):
        raise UsageError(f"no oracle {oracle!r} for TensorFlow networks", expected=f"one of {', '.join(ORACLES)}")
    if opened.table.meta["flavour"] == "graph":
        raise UsageError(
            "a frozen graph is not verified layer by layer: its nodes have other names in every file",
            where=str(opened.table.path),
            hint="write a checkpoint with `ssdconv pt2tf` from the converted file, and verify against that",
        )
    scope = scope_of(list(opened.table)) or SCOPE
    runner = TensorFlowOracle(opened.table.path, opened.plan.config, scope)
    return Prepared(runner, tuple(all_probes(opened.plan.probes)), INPUT)


def all_probes(layers: Iterable[tuple[str, str]]) -> Iterable[Probe]:
    """The input, every layer of a plan, and the raw heads."""
    yield Probe(INPUT, "@input")
    for layer, module in layers:
        yield Probe(layer, module)
    yield Probe("@loc", "@loc")
    yield Probe("@conf", "@conf")


def adopt(opened: Opened, config: SSDConfig) -> Opened:
    """The opened file as it is: what it holds follows from its tensors alone."""
    return opened


def tells_pixels(opened: Opened) -> bool:
    """Whether the source tells how it prepares pixels: SSD.TensorFlow's code does, for every file."""
    return True


def why_not(kind: str) -> str:
    """Why an output has no probe of its own."""
    return "regroups values that are compared elsewhere"
