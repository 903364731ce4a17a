"""Keras 2.15 on TensorFlow as the oracle of Keras weight files, in an interpreter of its own.

It loads the source file itself, by Keras' own ``load_weights``, never the converted checkpoint, and every weight must come from there.
The networks are built in ``workers/keras_nets.py`` from what is known of the two projects: their own code needs Keras 2.0 on TensorFlow 1
and cannot run here, so this oracle proves reading, layers and arithmetic, not that the description of the originals is complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.convert import Opened
from ssdconv.converters.tensors import Array
from ssdconv.errors import UsageError
from ssdconv.parity.activations import Probe
from ssdconv.parity.detections_match import Rows
from ssdconv.parity.oracles.base import Availability, Oracle, OracleRun, Outputs
from ssdconv.parity.oracles.environments import state
from ssdconv.parity.oracles.process import Answer, ask
from ssdconv.ssd_ref.config import SSDConfig

ORACLES = ("keras",)
ENVIRONMENT = "tensorflow"
INPUT = "input"
PUBLISHED_WIDTH = {"ssd7": 32}


class KerasOracle:
    """A Keras project's network with the weights of a file.

    Args:
        path: ``.h5``, ``.weights.h5`` or ``.keras``.
        config: the network: its name, class count and width.
        timeout: seconds for one run.
    """

    def __init__(self, path: Path, config: SSDConfig, *, timeout: float = 600.0) -> None:
        self.path = Path(path)
        self.config = config
        self.timeout = timeout

    @property
    def name(self) -> str:
        return "Keras 2.15.0, TensorFlow 2.15.1"

    def available(self) -> Availability:
        found = state(ENVIRONMENT)
        return Availability(found.installed, found.reason, found.next_step, "2.15.0" if found.installed else "")

    def run(self, pixels: Array) -> OracleRun:
        """Load the file and read every layer.

        Raises:
            MissingError: Keras is not installed, or cannot load the file.
        """
        answer = ask_jobs([self.job()], {"0/input": np.ascontiguousarray(pixels, np.float32)}, timeout=self.timeout)
        return oracle_run(answer, 0, self.config, len(pixels))

    def job(self, do: str = "activations") -> dict[str, Any]:
        """A job of the worker on this network."""
        staged = self.config.staged
        published = PUBLISHED_WIDTH.get(self.config.name, 64)
        return {
            "do": do,
            "network": self.config.name,
            "width": staged.backbone.options.get("width", published) if staged else published,
            "classes": self.config.num_classes,
            "path": str(self.path.resolve()),
        }


def ask_jobs(
    jobs: Sequence[Mapping[str, Any]], arrays: Mapping[str, Array] | None = None, *, timeout: float = 600.0
) -> Answer:
    """Run several jobs of the Keras worker in one process; arrays are named ``<job>/<name>`` both ways."""
    return ask(ENVIRONMENT, "keras_worker", {"jobs": [dict(job) for job in jobs]}, arrays, timeout=timeout)


def reorder(array: Array, config: SSDConfig) -> Array:
    """Rows (N, P, k) of the project's anchors in the reference's order within each cell."""
    orders: dict[int, tuple[int, ...]] = {}
    if config.name.startswith("jedol"):
        orders = {6: (0, 1, 2, 4, 3, 5)}
    elif config.name == "ssd7":
        orders = {4: (1, 2, 3, 0)}
    index, start = [], 0
    for prior_map in config.priors:
        cells = len(prior_map.cells)
        order = orders.get(cells, tuple(range(cells)))
        for cell in range(prior_map.grid[0] * prior_map.grid[1]):
            index += [start + cell * cells + place for place in order]
        start += prior_map.count
    return np.ascontiguousarray(array[:, index])


def oracle_run(answer: Answer, index: int, config: SSDConfig, images: int) -> OracleRun:
    """The activations and detections of one job."""
    head = f"{index}/layers/"
    outputs = {name[len(head) :]: array for name, array in answer.arrays.items() if name.startswith(head)}
    kinds = {name: "head" for name in outputs if "_mbox_" in name or name.startswith(("classes", "boxes"))}
    outputs["@loc"] = reorder(answer.arrays[f"{index}/loc"], config)
    outputs["@conf"] = reorder(answer.arrays[f"{index}/conf"], config)
    found = [answer.arrays[f"{index}/{image}/detections"] for image in range(images)]
    rows = tuple(Rows(r[:, 0].astype(np.int64), r[:, 1], r[:, 2:]) for r in found)
    return OracleRun(Outputs(outputs), rows, kinds)


@dataclass(frozen=True)
class Prepared:
    """An oracle with its network, and what to compare; see ``parity.oracles.caffe.Prepared``."""

    oracle: Oracle
    probes: tuple[Probe, ...]
    input: str


def prepare(opened: Opened, prototxt: Path | None = None, oracle: str = "keras") -> Prepared:
    """Set up Keras for an opened file.

    Raises:
        UsageError: no such oracle for Keras networks.
    """
    if oracle not in (*ORACLES, "opencv"):
        raise UsageError(f"no oracle {oracle!r} for Keras networks", expected=f"one of {', '.join(ORACLES)}")
    return Prepared(KerasOracle(opened.table.path, opened.plan.config), tuple(all_probes(opened.plan.probes)), INPUT)


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
    """Whether the source tells how it prepares pixels: the projects' code does, for every file."""
    return True


def why_not(kind: str) -> str:
    """Why a layer's output has no probe of its own."""
    if kind == "head":
        return "compared in @loc and @conf, in the reference's order of anchors"
    return "an activation or sum inside a block, or a pooling: its input and output are compared"
