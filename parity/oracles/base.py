"""What every oracle offers: the source framework (or its recorded outputs), run on given pixels, read by layer name.

What the modules of the sources' oracles share: the pair of oracle and probes, and the parts of their interface that are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ssdconv.converters.convert import Opened
from ssdconv.converters.tensors import Array
from ssdconv.errors import FormatError, MissingError, UsageError
from ssdconv.parity.layers.activations import Probe
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.layers.inputs import Image, OriginalPixels
from ssdconv.parity.layers.results import Gap
from ssdconv.parity.oracles.environments import state
from ssdconv.parity.oracles.process import Answer, ask
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.evidence import Basis, Claim, Link


@dataclass(frozen=True)
class Availability:
    """Whether an oracle can run here.

    Attributes:
        ok: it can.
        reason: why not, "" where it can.
        next_step: what the user can do about it.
        version: the framework's version, "" where it is absent.
    """

    ok: bool
    reason: str = ""
    next_step: str = ""
    version: str = ""


class Outputs:
    """An oracle's outputs for one input, by probe name; ``take`` hands an array over and forgets it."""

    def __init__(self, arrays: Mapping[str, Array | Callable[[], Array]]) -> None:
        self._arrays = dict(arrays)

    @property
    def left(self) -> tuple[str, ...]:
        """Names of the arrays that nobody took."""
        return tuple(self._arrays)

    def add(self, name: str, array: Array) -> None:
        """Put in one more array, unless there is one of that name."""
        self._arrays.setdefault(name, array)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def take(self, name: str) -> Array:
        """The array of that name; it can be taken once.

        Raises:
            KeyError: there is none, or it was taken before.
        """
        array = self._arrays.pop(name)
        return array() if callable(array) else array


@dataclass(frozen=True)
class OracleRun:
    """What an oracle computed for one input.

    Attributes:
        outputs: every layer's output that the oracle shows.
        detections: final detections per image; None where the network has no detection layer.
        kinds: layer type by name, where the oracle tells.
        gaps: what the oracle cannot tell about this network: layers, by the names of their probes, or "detections".
    """

    outputs: Outputs
    detections: tuple[Rows, ...] | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()


Lend = Callable[[Sequence[str]], Mapping[str, Mapping[int, Array]]]
"""Names of layers -> the reference's values of their outputs by number, for those layers that it has."""


@runtime_checkable
class Borrower(Protocol):
    """An oracle that cannot run some layers, and goes on behind them with the reference's values."""

    def run_with(self, pixels: Array, lend: Lend) -> OracleRun:
        """``Oracle.run``; layers for which values were lent are gaps."""


class Oracle(Protocol):
    """A source framework holding one network."""

    @property
    def name(self) -> str:
        """Name and version for reports."""

    def available(self) -> Availability:
        """Whether it can run here; never raises."""

    def run(self, pixels: Array) -> OracleRun:
        """Run the network.

        Args:
            pixels: (N, channels, H, W) float32, prepared.

        Raises:
            MissingError: the framework is absent or cannot run this network ("not run", never "passed").
        """


def require(oracle: Oracle) -> None:
    """Raise MissingError unless the oracle can run."""
    state = oracle.available()
    if not state.ok:
        raise MissingError(f"oracle {oracle.name} not run: {state.reason}", hint=state.next_step or None)


def detection_rows(rows: Array, images: int) -> tuple[Rows, ...]:
    """Caffe's DetectionOutput blob as detections per image.

    Args:
        rows: (1, 1, n, 7): image, label, score, xmin, ymin, xmax, ymax, normalised. Rows of label -1 (Caffe: "nothing
            found") and all-zero rows (OpenCV: unused room) are no detections.
        images: batch size.
    """
    flat = np.asarray(rows).reshape(-1, 7)
    flat = flat[(flat[:, 1] >= 0) & (flat[:, 2:] != 0).any(axis=1)]
    parts = (flat[flat[:, 0] == k] for k in range(images))
    return tuple(Rows(part[:, 1].astype(np.int64), part[:, 2], part[:, 3:]) for part in parts)


class NpzOracle:
    """Outputs that a framework printed earlier, stored under layer names: an oracle for one recorded input.

    Args:
        path: .npz file; key ``input`` holds the pixels that were fed.
        detections: key of the DetectionOutput blob, where there is one.
        title: who printed it, for reports.
    """

    def __init__(self, path: Path, *, detections: str = "detection_out", title: str = "recorded outputs") -> None:
        self.path = Path(path)
        self.detections = detections
        self.name = f"{title} ({self.path.name})"

    def available(self) -> Availability:
        if not self.path.is_file():
            return Availability(False, f"{self.path} does not exist", "record the outputs first")
        return Availability(True)

    @property
    def input(self) -> Array:
        """The recorded pixels, (N, 3, H, W) float32."""
        return self._read("input")

    def run(self, pixels: Array) -> OracleRun:
        """The recorded outputs.

        Raises:
            MissingError: no such file, or ``pixels`` are not the recorded ones.
        """
        require(self)
        if not np.array_equal(pixels, self.input):
            raise MissingError("the recording is of another input", where=str(self.path))
        with np.load(self.path, allow_pickle=False) as file:
            names: Sequence[str] = [n for n in file.files if n not in ("input", self.detections)]
            found = detection_rows(file[self.detections], len(pixels)) if self.detections in file.files else None
        return OracleRun(Outputs({n: _Entry(self, n) for n in names}), found)

    def _read(self, name: str) -> Array:
        with np.load(self.path, allow_pickle=False) as file:
            if name not in file.files:
                raise FormatError(f"no array {name!r}", where=str(self.path))
            array: Array = file[name]
            return array


@dataclass(frozen=True)
class _Entry:
    oracle: NpzOracle
    name: str

    def __call__(self) -> Array:
        return self.oracle._read(self.name)


@dataclass(frozen=True)
class Prepared:
    """An oracle with its network, and what to compare.

    Attributes:
        oracle: holds the source's network.
        probes: every declared probe, source names first.
        input: name of the input; its probe is among ``probes``.
        evidence: what the oracle runs, a claim per link that it has a say in: the source framework on the file's own graph,
            the project's original code, or a network that was rebuilt from facts. Links without one are not run by it.
        pixels: images as the project's own code prepares them, where that can be run; a claim about pixels belongs to it.
        alone: links that the oracle takes from the file by itself: what the plan assumes of them, or the user gave, it was not told.
    """

    oracle: Oracle
    probes: tuple[Probe, ...]
    input: str
    evidence: tuple[Claim, ...] = ()
    pixels: OriginalPixels | None = None
    alone: tuple[Link, ...] = ()


RUN: tuple[Link, ...] = ("architecture", "priors", "detection rule")
"""Links that an oracle runs as a rule."""


def runs(basis: Basis, text: str, *links: Link) -> tuple[Claim, ...]:
    """``Prepared.evidence`` of an oracle that has the same to say about several links, ``RUN`` without any."""
    return tuple(Claim(link, basis, text) for link in links or RUN)


@dataclass(frozen=True)
class Worker:
    """A source framework in an interpreter of its own.

    Attributes:
        environment: the oracle's name in ``ssdconv oracle install``.
        script: of ``workers``, without suffix.
        title: framework and versions, for reports.
        version: of the framework.
    """

    environment: str
    script: str
    title: str
    version: str

    def available(self) -> Availability:
        """Whether it is installed."""
        found = state(self.environment)
        return Availability(found.installed, found.reason, found.next_step, self.version if found.installed else "")

    def ask(
        self,
        jobs: Sequence[Mapping[str, Any]],
        arrays: Mapping[str, Array] | None = None,
        *,
        timeout: float = 600.0,
        **request: Any,
    ) -> Answer:
        """Run several jobs in one process; arrays are named ``<job>/<name>`` both ways.

        Raises:
            MissingError: the framework is not installed, or a job failed.
        """
        asked = {"jobs": [dict(job) for job in jobs], **request}
        return ask(self.environment, self.script, asked, arrays, timeout=timeout)

    def activations(self, job: Mapping[str, Any], pixels: Array, *, timeout: float = 600.0, **request: Any) -> Answer:
        """Run one job on pixels (N, 3, H, W)."""
        given = {"0/input": np.ascontiguousarray(pixels, np.float32)}
        return self.ask([job], given, timeout=timeout, **request)

    def prepared(self, job: Mapping[str, Any], images: Sequence[Image], **request: Any) -> list[Array]:
        """Images (height, width, 3) BGR uint8 as a job prepares them, which is given RGB under their numbers."""
        given = {f"0/{number}": np.ascontiguousarray(image[..., ::-1]) for number, image in enumerate(images)}
        answer = self.ask([job], given, **request)
        return [answer.arrays[f"0/{number}"] for number in range(len(images))]


def layers_under(answer: Answer, head: str) -> dict[str, Array]:
    """The arrays of an answer whose names start with ``head``, without it."""
    return {name[len(head) :]: array for name, array in answer.arrays.items() if name.startswith(head)}


def plan_probes(layers: Iterable[tuple[str, str]], input: str, **heads: str) -> tuple[Probe, ...]:
    """The input, every layer of a plan, and ``loc`` and ``conf`` under the names that the oracle gives them."""
    ends = (Probe(name, f"@{head}") for head, name in heads.items())
    return (Probe(input, "@input"), *(Probe(name, module) for name, module in layers), *ends)


def refuse_settings(opened: Opened, title: str) -> None:
    """Raise where the user said something about layers, input, priors or rule that this oracle has no ear for.

    Raises:
        MissingError: names the settings; the oracle is not run rather than compared with another network.
    """
    deaf = ("heads.", "extras.", "input.", "priors.", "detect.")
    said = [f"{c.key}={c.value}" for c in opened.plan.evidence if c.basis == "user" and c.key.startswith(deaf)]
    if said:
        raise MissingError(
            f"oracle {title} not run: it builds the project's published network, and was not told {', '.join(said)}",
            where=str(opened.table.path),
            hint="tensors are compared bit for bit by `ssdconv diff`; the original code may know: `--oracle original`",
        )


def check_choice(oracle: str, known: Sequence[str], title: str) -> None:
    """Raise UsageError unless ``oracle`` can run ``title`` networks; ``opencv``, the default of all sources, means their own."""
    if oracle not in (*known, "opencv"):
        raise UsageError(f"no oracle {oracle!r} for {title} networks", expected=f"one of {', '.join(known)}")


def as_opened(opened: Opened, config: SSDConfig) -> Opened:
    """``adopt`` of the sources where what a file holds follows from its tensors alone: the opened file as it is."""
    return opened


def always_tells(opened: Opened) -> bool:
    """``tells_pixels`` of the sources whose code tells, for every file, how pixels are prepared."""
    return True


def in_reference_order(array: Array, config: SSDConfig, orders: Mapping[int, Sequence[int]]) -> Array:
    """Rows (N, P, k) of a source's anchors in the reference's order within each cell.

    Args:
        array: one row per prior.
        config: the network, for its prior maps.
        orders: by number of anchors in a cell, the place in the source's cell of each of the reference's anchors; the
            same order where a number is missing.
    """
    return np.ascontiguousarray(array[:, list(_places(config, orders))])


def _places(config: SSDConfig, orders: Mapping[int, Sequence[int]]) -> Iterator[int]:
    start = 0
    for prior_map in config.priors:
        cells = len(prior_map.cells)
        order = orders.get(cells, range(cells))
        for cell in range(prior_map.grid[0] * prior_map.grid[1]):
            yield from (start + cell * cells + place for place in order)
        start += prior_map.count
