"""What every oracle offers: the source framework (or its recorded outputs), run on given pixels, read by layer name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ssdconv.errors import FormatError, MissingError
from ssdconv.parity.layers.detections import Rows
from ssdconv.parity.layers.results import Gap

Array = npt.NDArray[Any]


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
