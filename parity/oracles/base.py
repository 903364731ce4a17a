"""What every oracle offers: the source framework, run on given pixels, read by layer name; and what every source's file of oracles offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from ssdconv.converters.convert import Opened
from ssdconv.converters.tensors import Array
from ssdconv.errors import MissingError, UsageError
from ssdconv.parity.layers.activations import Probe
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.layers.inputs import OriginalPixels
from ssdconv.parity.layers.results import Gap
from ssdconv.ssd_ref.config import Preprocess, SSDConfig
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


class Column(ABC):
    """What a source's file has to say about its oracles, as ``COLUMN``.

    Attributes:
        title: whose networks they are, for messages.
        oracles: names to choose from.
    """

    title: str
    oracles: tuple[str, ...]

    def prepare(
        self, opened: Opened, prototxt: Path | None = None, oracle: str = "", *, symbol: Path | None = None
    ) -> Prepared:
        """Set up an oracle for an opened file.

        Args:
            opened: the weight file.
            prototxt: Caffe's definition of the network, where there is one.
            oracle: one of ``oracles``; "" for the best that is there, and so for every other source is "opencv", the embedded one of Caffe.
            symbol: MXNet's graph of a .params file; None for the one beside it, where there is one.

        Raises:
            UsageError: no such oracle for these networks, or not for this file.
            MissingError: the oracle would run another network than this file's.
            FormatError: the prototxt or symbol is damaged.
        """
        if oracle not in ("", *self.oracles, "opencv"):
            expected = f"one of {', '.join(self.oracles)}"
            raise UsageError(f"no oracle {oracle!r} for {self.title} networks", expected=expected)
        return self.made(opened, prototxt, "" if oracle == "opencv" and oracle not in self.oracles else oracle, symbol)

    @abstractmethod
    def made(self, opened: Opened, prototxt: Path | None, oracle: str, symbol: Path | None) -> Prepared:
        """``prepare``, of one of ``oracles`` or "" for the best."""

    def adopt(self, opened: Opened, config: SSDConfig) -> Opened:
        """The opened file with tensors and probes paired to a checkpoint's config that names them otherwise.

        As it is, where what a file holds follows from its tensors alone.

        Raises:
            MappingError: the checkpoint's network does not have the file's tensors.
        """
        return opened

    def tells_pixels(self, opened: Opened) -> bool:
        """Whether the file, or the source's code, tells how pixels are prepared."""
        return True

    def fed(self, opened: Opened) -> Preprocess:
        """Pixels as the oracle wants them."""
        return opened.plan.config.pixels

    def contradicted(self, config: SSDConfig, theirs: SSDConfig) -> tuple[str, ...]:
        """What a file's own graph says against the layers of a checkpoint's named network."""
        return ()

    def why_not(self, kind: str) -> str:
        """Why an output of that layer type has no probe of its own."""
        return "regroups values that are compared elsewhere"


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
        cells = len(prior_map.box_sizes)
        order = orders.get(cells, range(cells))
        for cell in range(prior_map.grid[0] * prior_map.grid[1]):
            yield from (start + cell * cells + place for place in order)
        start += prior_map.count
