"""Both metrics brought to one form: numbers, intervals, AP per class and the match tables behind them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from ssdconv.data.coco import CocoDataset
from ssdconv.parity.bootstrap import Interval, bootstrap, draw, interval, means, resampled
from ssdconv.parity.metrics.coco import CocoRule, evaluate_coco
from ssdconv.parity.metrics.coco_match import match_coco
from ssdconv.parity.metrics.conventions import Convention
from ssdconv.parity.metrics.detections import Detections, Ints
from ssdconv.parity.metrics.matches import MatchTable
from ssdconv.parity.metrics.truth import Truth
from ssdconv.parity.metrics.voc import evaluate_voc


@dataclass(frozen=True)
class Scored:
    """What both metrics hand on; ``ap`` has NaN for classes without objects, ``tables`` are those at IoU .50 for
    COCO.
    """

    numbers: dict[str, float | None]
    intervals: dict[str, Interval]
    per_class: tuple[Interval | None, ...]
    ap: tuple[float, ...]
    tables: tuple[MatchTable, ...]
    order: Ints
    evaluator: str
    seconds: float


def known_or_none(value: float) -> float | None:
    """None for NaN."""
    return None if math.isnan(value) else value


def score_voc(
    truth: Truth, detections: Detections, rule: Convention, size: tuple[int, int] | None, resamples: int, seed: int
) -> Scored:
    """VOC; arguments as for ``voc.evaluate_voc`` and ``bootstrap``; 0 resamples for no interval."""
    start = time.perf_counter()
    scores = evaluate_voc(truth, detections, rule, size)
    seconds = time.perf_counter() - start
    spread: Interval | None = None
    per_class: tuple[Interval | None, ...] = (None,) * len(truth.classes)
    if resamples:
        spread, per_class = bootstrap(scores.tables, rule.ap, resamples, seed)
    intervals = {} if spread is None else {"mAP": spread}
    return Scored(
        {"mAP": known_or_none(scores.mean)},
        intervals,
        per_class,
        scores.ap,
        scores.tables,
        scores.order,
        "ssdconv",
        seconds,
    )


def score_coco(
    dataset: CocoDataset,
    truth: Truth,
    detections: Detections,
    rule: CocoRule,
    evaluator: str,
    resamples: int,
    seed: int,
) -> Scored:
    """COCO; ``truth`` is ``dataset``'s, the detections have the rule behind them; intervals of AP, AP50 and AP75."""
    start = time.perf_counter()
    scores = evaluate_coco(dataset.coco_form(), detections, rule, evaluator)
    seconds = time.perf_counter() - start
    by_level, order = match_coco(truth, detections)
    intervals: dict[str, Interval] = {}
    per_class: tuple[Interval | None, ...] = (None,) * len(truth.classes)
    if resamples:
        weights = draw(len(truth.image_ids), resamples, seed)
        cells = np.stack([resampled(tables, "coco", weights) for tables in by_level])  # levels, resamples, classes
        for name, part in (("AP", cells), ("AP50", cells[:1]), ("AP75", cells[5:6])):
            spread = interval(means(part.mean(axis=0)), scores.numbers[name], seed)
            intervals |= {} if spread is None else {name: spread}
        columns = cells.mean(axis=0).T
        per_class = tuple(interval(column, ap, seed) for column, ap in zip(columns, scores.ap, strict=True))
    numbers = {name: known_or_none(value) for name, value in scores.numbers.items()}
    return Scored(numbers, intervals, per_class, scores.ap, by_level[0], order, scores.evaluator, seconds)
