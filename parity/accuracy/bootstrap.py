"""How sure a mean average precision is: resampling the images of a data set with replacement.

A resample draws as many images as the set has; an image drawn twice counts twice, with its objects and its detections.
Matching does not change, since it happens within an image, so a resample is a weighting of the match tables and all
resamples are computed from one matching.

The interval is Efron's bias-corrected percentile interval (B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 14, with acceleration 0): interpolated AP takes maxima, so resamples lie somewhat above the number they are about,
and the plain percentiles would be shifted by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssdconv.errors import UsageError
from ssdconv.parity.accuracy.detections import Floats
from ssdconv.parity.accuracy.matching import IGNORED, RECALLS_11, TRUE, MatchTable

Kind = Literal["11point", "area", "coco"]
LEVEL = 0.95
_GRIDS = {"11point": RECALLS_11, "coco": np.linspace(0.0, 1.0, 101)}
_CELLS = 2_000_000  # elements per working array


@dataclass(frozen=True)
class Interval:
    """A bias-corrected percentile interval.

    Attributes:
        low, high: its ends, 0..1.
        level: the share of resamples inside.
        resamples: how many there were.
        seed: of their generator.
    """

    low: float
    high: float
    level: float = LEVEL
    resamples: int = 0
    seed: int = 0


def draw(images: int, resamples: int, seed: int) -> NDArray[np.int32]:
    """How often each image is drawn: (resamples, images) int32, each row sums to ``images``."""
    if images < 1 or resamples < 1:
        raise UsageError("nothing to resample", got=f"{images} images, {resamples} resamples")
    rng = np.random.default_rng(seed)
    weights = np.empty((resamples, images), np.int32)
    for row in weights:
        row[:] = np.bincount(rng.integers(0, images, images), minlength=images)
    return weights


def _weighted(table: MatchTable, kind: Kind, weights: NDArray[np.int32]) -> Floats:
    """AP of one table under each row of weights: (rows,), NaN where a row has no object to find."""
    npos = weights @ table.positives.astype(np.int32)
    counted = np.flatnonzero(table.status != IGNORED)
    found = np.flatnonzero(table.status[counted] == TRUE)
    if not len(found):
        nothing: Floats = np.where(npos > 0, 0.0, np.nan)
        return nothing
    image = table.image[counted[: found[-1] + 1]]  # nothing after the last true one can matter
    seen = np.cumsum(weights[:, image], axis=1, dtype=np.int32)[:, found]
    true = np.cumsum(weights[:, image[found]], axis=1, dtype=np.int32)
    best = np.maximum.accumulate((true / np.maximum(seen, 1))[:, ::-1], axis=1)[:, ::-1]
    recall = true / np.maximum(npos, 1)[:, None]
    if kind == "area":
        ap = (np.diff(recall, axis=1, prepend=0.0) * best).sum(axis=1)
    else:
        grid = _GRIDS[kind]
        padded = np.concatenate([best, np.zeros((len(best), 1))], axis=1)
        where = np.stack([np.searchsorted(row, grid, side="left") for row in recall])
        ap = np.take_along_axis(padded, where, axis=1).mean(axis=1)
    result: Floats = np.where(npos > 0, ap, np.nan)
    return result


def resampled(tables: Sequence[MatchTable], kind: Kind, weights: NDArray[np.int32]) -> Floats:
    """AP of every table under every resample: (resamples, tables), NaN where nothing is to be found."""
    result = np.empty((len(weights), len(tables)))
    for column, table in enumerate(tables):
        step = max(1, _CELLS // max(len(table.image), 1))
        for start in range(0, len(weights), step):
            result[start : start + step, column] = _weighted(table, kind, weights[start : start + step])
    return result


def means(values: Floats) -> Floats:
    """Mean over the tables of each resample, over those that have objects in it: (resamples,), NaN where none has."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    result: Floats = np.where(count > 0, np.where(known, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)
    return result


def interval(values: Floats, estimate: float, seed: int = 0) -> Interval | None:
    """The 95 % interval of a number from its resampled values (NaN left out); None where there are none.

    Args:
        estimate: the number itself, on all images.
    """
    known = values[~np.isnan(values)]
    if not len(known) or np.isnan(estimate):
        return None
    normal, edge = NormalDist(), 0.5 / len(known)
    below = float(np.mean(known < estimate) + 0.5 * np.mean(known == estimate))
    bias = normal.inv_cdf(min(max(below, edge), 1.0 - edge))
    ends = [normal.cdf(2.0 * bias + normal.inv_cdf(tail)) for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    low, high = np.quantile(known, ends)
    return Interval(float(low), float(high), LEVEL, len(values), seed)


def resample(levels: Sequence[Sequence[MatchTable]], kind: Kind, resamples: int, seed: int) -> Floats:
    """AP under every resample: (levels, 1 + resamples, classes), the first row on all images; NaN where nothing is to be found.

    Args:
        levels: per IoU threshold (VOC has one), a table per class.
        kind: "11point" and "area" as in ``Convention.ap``; "coco" for 101 recalls.
        seed: equal seeds draw equal images, so that two evaluations of one data set are resampled in pairs.
    """
    if not levels or not levels[0]:
        raise UsageError("nothing to resample", got="no match table")
    images = len(levels[0][0].positives)
    weights = np.concatenate([np.ones((1, images), np.int32), draw(images, resamples, seed)])
    return np.stack([resampled(tables, kind, weights) for tables in levels])


def spread(values: Floats, seed: int = 0) -> Interval | None:
    """The interval of a number, given first on all images, then on each resample."""
    return interval(values[1:], float(values[0]), seed)
