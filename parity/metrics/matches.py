"""What matching leaves: per class the detections in order of score, each true, false or ignored; and curves from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssdconv.parity.metrics.detections import Floats, Ints

TRUE, FALSE, IGNORED = 1, 0, -1
RECALLS_11: Floats = np.arange(0.0, 1.1, 0.1)
"""0, 0.1, ... 1 as numpy's arange has them (0.30000000000000004 is the fourth), like the Python evaluators."""


@dataclass(frozen=True, eq=False)
class MatchTable:
    """One class (at one overlap threshold).

    Attributes:
        scores: (n,) float64, descending.
        image: (n,) int64, index of the image.
        status: (n,) int8: TRUE, FALSE or IGNORED.
        positives: (images,) int64, objects to be found per image.
    """

    scores: Floats
    image: Ints
    status: NDArray[np.int8]
    positives: Ints

    @property
    def npos(self) -> int:
        """Objects to be found."""
        return int(self.positives.sum())

    @property
    def true_positives(self) -> int:
        """Objects found, at the lowest score."""
        return int((self.status == TRUE).sum())


def curve(table: MatchTable) -> tuple[Floats, Floats]:
    """(recall, precision), each (n,), after every detection; precision is 0 until the first that counts."""
    true = np.cumsum(table.status == TRUE, dtype=np.float64)
    false = np.cumsum(table.status == FALSE, dtype=np.float64)
    recall = true / table.npos if table.npos else np.full(len(true), np.nan)
    return recall, true / np.maximum(true + false, 1.0)


def ap_11point(recall: Floats, precision: Floats) -> float:
    """VOC2007: sum over recalls 0, 0.1, ... 1 of the best precision at that recall or beyond, each divided by 11."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    total = 0.0
    for start in np.searchsorted(recall, RECALLS_11, side="left").tolist():
        total += (float(best[start]) if start < len(best) else 0.0) / 11.0
    return total


def ap_area(recall: Floats, precision: Floats) -> float:
    """VOC2010 and later: area under the monotonically decreasing envelope of the curve."""
    steps = np.concatenate([[0.0], recall, [1.0]])
    envelope = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    where = np.flatnonzero(steps[1:] != steps[:-1])
    return float(np.sum((steps[where + 1] - steps[where]) * envelope[where + 1]))


def average_precision(table: MatchTable, kind: str) -> float:
    """AP of one class, 0..1, by ``kind`` "11point" or "area"; NaN where there is nothing to be found."""
    if not table.npos:
        return float("nan")
    recall, precision = curve(table)
    return ap_11point(recall, precision) if kind == "11point" else ap_area(recall, precision)


def mean_ap(values: Sequence[float]) -> float:
    """Mean over the classes that have objects; NaN if none has."""
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else float("nan")
