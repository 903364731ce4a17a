"""ChainerCV as the oracle of .npz files, in an interpreter of its own (``environments``, ``workers/chainer_worker.py``).

It is given the source file itself, never the converted checkpoint, and loads it strictly: a tensor too few or too many fails.
Loc heads are compared after ChainerCV has put them together, with (dy, dx, dh, dw) read as the reference's (dx, dy, dw, dh).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.chainer.names import YX_TO_XY
from ssdconv.converters.convert import Opened
from ssdconv.converters.tensors import Array
from ssdconv.errors import UsageError
from ssdconv.parity.activations import Probe
from ssdconv.parity.detections_match import Rows
from ssdconv.parity.oracles.base import Availability, Oracle, OracleRun, Outputs
from ssdconv.parity.oracles.environments import state
from ssdconv.parity.oracles.process import Answer, ask
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.networks.chainer import PRESETS

ORACLES = ("chainer",)
ENVIRONMENT = "chainer"
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
        return "Chainer 7.8.1, ChainerCV 0.13.1"

    def available(self) -> Availability:
        found = state(ENVIRONMENT)
        return Availability(found.installed, found.reason, found.next_step, "7.8.1" if found.installed else "")

    def run(self, pixels: Array) -> OracleRun:
        """Run the network and read every link.

        Raises:
            MissingError: Chainer is not installed, or cannot load the file.
        """
        answer = ask_jobs([self.job()], {"0/input": np.ascontiguousarray(pixels, np.float32)}, timeout=self.timeout)
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


def ask_jobs(
    jobs: Sequence[Mapping[str, Any]], arrays: Mapping[str, Array] | None = None, *, timeout: float = 600.0
) -> Answer:
    """Run several jobs of the ChainerCV worker in one process; arrays are named ``<job>/<name>`` both ways."""
    return ask(ENVIRONMENT, "chainer_worker", {"jobs": [dict(job) for job in jobs]}, arrays, timeout=timeout)


def oracle_run(answer: Answer, index: int, config: SSDConfig, images: int) -> OracleRun:
    """The activations and detections of one job."""
    head = f"{index}/links"
    outputs = {name[len(head) :]: array for name, array in answer.arrays.items() if name.startswith(head)}
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


@dataclass(frozen=True)
class Prepared:
    """An oracle with its network, and what to compare; see ``parity.oracles.caffe.Prepared``."""

    oracle: Oracle
    probes: tuple[Probe, ...]
    input: str


def prepare(opened: Opened, prototxt: Path | None = None, oracle: str = "chainer") -> Prepared:
    """Set up ChainerCV for an opened .npz file.

    Raises:
        UsageError: no such oracle for ChainerCV networks, or the file is a trainer's snapshot.
    """
    if oracle not in (*ORACLES, "opencv"):
        raise UsageError(f"no oracle {oracle!r} for ChainerCV networks", expected=f"one of {', '.join(ORACLES)}")
    if opened.table.meta.get("prefix"):
        raise UsageError(
            "ChainerCV's networks load a model's own file, not a trainer's snapshot",
            where=str(opened.table.path),
            hint="write one with `ssdconv pt2chainer` from the converted checkpoint, and verify against that",
        )
    return Prepared(ChainerOracle(opened.table.path, opened.plan.config), tuple(all_probes(opened.plan.probes)), INPUT)


def all_probes(layers: Iterable[tuple[str, str]]) -> Iterable[Probe]:
    """The input, every layer of a plan, and the raw heads."""
    yield Probe(INPUT, "@input")
    for link, module in layers:
        yield Probe(link, module)
    yield Probe("mb_locs", "@loc")
    yield Probe("mb_confs", "@conf")


def adopt(opened: Opened, config: SSDConfig) -> Opened:
    """The opened file as it is: what it holds follows from its tensors alone."""
    return opened


def tells_pixels(opened: Opened) -> bool:
    """Whether the source tells how it prepares pixels: ChainerCV's code does, for every file."""
    return True


def why_not(kind: str) -> str:
    """Why a link's output has no probe of its own."""
    if kind == "loc":
        return "compared in mb_locs, with (dy, dx, dh, dw) read as (dx, dy, dw, dh)"
    return "regroups values that are compared elsewhere"
