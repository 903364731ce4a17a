"""The report of a conversion: one row per tensor, with the proof of what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.mapping import Drop, Entry
from ssdconv.converters.tensors import Array
from ssdconv.ssd_ref.config import SSDConfig


@dataclass(frozen=True)
class TensorRow:
    """One tensor's way. ``sha256`` is over the reference tensor's C-order bytes; the statistics ignore nothing."""

    source: str
    target: str
    ops: tuple[str, ...]
    source_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    dtype: str
    sha256: str
    min: float
    max: float
    mean: float

    @property
    def finite(self) -> bool:
        """Whether the tensor holds only finite numbers."""
        return bool(np.isfinite((self.min, self.max, self.mean)).all())


@dataclass(frozen=True)
class ConversionReport:
    """What was converted into what.

    Attributes:
        config: the network written.
        rows: one per tensor written.
        drops: source tensors left out, each with its reason.
        outputs: files written.
        source, source_sha256, source_format: the file converted.
        warnings: what the user should know.
        seconds: wall time.
    """

    config: SSDConfig
    rows: tuple[TensorRow, ...]
    drops: tuple[Drop, ...]
    outputs: tuple[Path, ...]
    source: Path
    source_format: str
    source_sha256: str
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def groups(self) -> Iterator[tuple[str, int, int]]:
        """(part of the network, tensors, numbers) in order: backbone, extras, heads, or graph."""
        counts: dict[str, list[int]] = {}
        for row in self.rows:
            part = ".".join(row.target.split(".")[: 2 if row.target.startswith("heads.") else 1])
            entry = counts.setdefault(part, [0, 0])
            entry[0] += 1
            entry[1] += int(np.prod(row.target_shape, dtype=np.int64))
        for part, (tensors, numbers) in counts.items():
            yield part, tensors, numbers

    def to_json(self) -> dict[str, Any]:
        """The whole report as JSON-ready data."""
        return {
            "network": self.config.name,
            "source": self.config.source,
            "num_classes": self.config.num_classes,
            "input": list(self.config.pixels.size),
            "priors": self.config.num_priors,
            "file": str(self.source),
            "format": self.source_format,
            "sha256": self.source_sha256,
            "outputs": [str(p) for p in self.outputs],
            "tensors": [asdict(row) for row in self.rows],
            "dropped": [asdict(drop) for drop in self.drops],
            "warnings": list(self.warnings),
            "seconds": self.seconds,
            **self.extra,
        }


def describe(entry: Entry, array: Array) -> TensorRow:
    """The report row of one tensor; reads the whole array once for the hash and once for the statistics."""
    flat = np.ascontiguousarray(array)
    digest = hashlib.sha256(flat.data.cast("B") if flat.size else b"").hexdigest()
    low, high, mean = (float(flat.min()), float(flat.max()), float(flat.mean())) if flat.size else (0.0, 0.0, 0.0)
    return TensorRow(
        entry.source,
        entry.target,
        tuple(str(op) for op in entry.ops),
        entry.source_shape,
        entry.target_shape,
        str(array.dtype),
        digest,
        low,
        high,
        mean,
    )


class Describer:
    """Computes rows on another thread while the tensors are being written; hashing releases the interpreter lock."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "describe")
        self._rows: list[Future[TensorRow]] = []

    def add(self, entry: Entry, array: Array) -> None:
        """Queue one tensor."""
        self._rows.append(self._pool.submit(describe, entry, array))

    def rows(self) -> tuple[TensorRow, ...]:
        """All rows, in the order added; waits for them."""
        try:
            return tuple(row.result() for row in self._rows)
        finally:
            self._pool.shutdown()
