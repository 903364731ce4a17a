"""The report of a conversion: one row per tensor, with the proof of what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssdconv.converters.mapping import Drop, Entry
from ssdconv.converters.ops import apply_all
from ssdconv.converters.tensors import LazyTensor
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.evidence import Claim, to_plain


@dataclass(frozen=True)
class TensorRow:
    """One tensor's way.

    ``sha256`` is over the reference tensor's C-order bytes; min, max and mean are NaN where the tensor holds NaN. They are
    left out ("" and None) when the report was made without digests.
    """

    source: str
    target: str
    ops: tuple[str, ...]
    source_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    dtype: str
    sha256: str = ""
    min: float | None = None
    max: float | None = None
    mean: float | None = None


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """What became of one source file's tensors.

    Attributes:
        rows: one per tensor written.
        drops: source tensors left out, each with its reason.
        outputs: files written.
        source, source_sha256, source_format: the file converted.
        warnings: what the user should know.
        seconds: wall time.
    """

    rows: tuple[TensorRow, ...]
    drops: tuple[Drop, ...]
    outputs: tuple[Path, ...]
    source: Path
    source_format: str
    source_sha256: str
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The whole report as JSON-ready data."""
        return {
            "file": str(self.source),
            "format": self.source_format,
            "sha256": self.source_sha256,
            "outputs": [str(p) for p in self.outputs],
            "tensors": [asdict(row) for row in self.rows],
            "dropped": [asdict(drop) for drop in self.drops],
            "warnings": list(self.warnings),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, kw_only=True)
class ConversionReport(FileReport):
    """A detector's conversion.

    Attributes:
        config: the network written.
        evidence: who says what about it.
    """

    config: SSDConfig
    evidence: tuple[Claim, ...] = ()
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
            "class_names": list(self.config.class_names),
            "evidence": to_plain(self.evidence),
            **super().to_json(),
            **self.extra,
        }


def describe(entry: Entry, table: Mapping[str, LazyTensor], *, digests: bool = True) -> TensorRow:
    """The report row of one tensor; with ``digests`` its bytes are read for the hash and the statistics."""
    row = TensorRow(
        entry.source,
        entry.target,
        tuple(str(op) for op in entry.ops),
        entry.source_shape,
        entry.target_shape,
        str(table[entry.source].dtype),
    )
    if not digests:
        return row
    flat = np.ascontiguousarray(apply_all(entry.ops, table[entry.source].load())).reshape(-1)
    digest = hashlib.sha256(flat.data.cast("B")).hexdigest()
    if not flat.size:
        return replace(row, sha256=digest)
    with np.errstate(all="ignore"):
        mean = float(flat.mean())
    return replace(row, sha256=digest, min=float(flat.min()), max=float(flat.max()), mean=mean)
