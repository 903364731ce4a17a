"""Detections on a data set -> numbers, their uncertainty, and verdicts against the published tables.

``evaluate`` works on what is in memory (a runner over images hands over its ``Detections``); ``evaluate_detections`` on
what is on disk. Both need no network and no images.

Both metrics brought to one form: numbers, intervals, AP per class and the match tables behind them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from ssdconv.data.catalog import open_dataset
from ssdconv.data.coco import CocoDataset
from ssdconv.data.records import Dataset, Problems
from ssdconv.errors import UsageError
from ssdconv.parity.accuracy.bootstrap import Interval, bootstrap, draw, interval, means, resampled
from ssdconv.parity.accuracy.coco import COCO_RULES, CocoRule, evaluate_coco, match_coco, prepared
from ssdconv.parity.accuracy.detections import Detections, Ints, Truth, gather
from ssdconv.parity.accuracy.files import read_detections
from ssdconv.parity.accuracy.matching import MatchTable
from ssdconv.parity.accuracy.published import Measurement, judge_all, protocol, rows
from ssdconv.parity.accuracy.result import ClassScore, EvaluationResult, histogram, thinned, worst_images
from ssdconv.parity.accuracy.voc import Convention, convention, evaluate_voc, written


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


SHOWN_FROM = 0.5
"""Score from which a detection counts as confident when the worst images are chosen; no number depends on it."""


def _input_size(network: str | None) -> tuple[int, int] | None:
    from ssdconv.ssd_ref.networks.registry import network as config_of

    try:
        return None if network is None else config_of(network).pixels.size
    except UsageError:
        return None


def evaluate(
    dataset: Dataset,
    detections: Detections,
    *,
    network: str | None = None,
    convention_name: str | Convention | None = None,
    metric: Literal["voc", "coco"] | None = None,
    coco_rule: str | CocoRule | None = None,
    evaluator: str = "hotcoco",
    input_size: tuple[int, int] | None = None,
    train_data: str | None = None,
    resamples: int | None = None,
    seed: int = 0,
    worst: int = 12,
    source: str = "memory",
    of_images: int | None = None,
    problems: Problems | None = None,
) -> EvaluationResult:
    """Score detections and lay the numbers beside the published ones.

    Args:
        dataset: whole, or a subset made with ``take``.
        detections: of any order of images and classes; they are aligned by name.
        network: "source/name"; its published rows give the default convention and are what verdicts speak about.
        convention_name: preset or own convention for VOC; default: the network's published one, else "devkit".
        metric: default "coco" for sets in COCO's form, else "voc".
        coco_rule: preset ("coco", "gluoncv") or own; default: "gluoncv" where the network's published row has a floor.
        evaluator: "hotcoco" or "pycocotools".
        input_size: (height, width) of the network's input, for conventions in resized pixels; default: the network's.
        train_data: of the weights at hand, see ``verdict.judge_all``.
        resamples: bootstrap resamples, 0 for none; default 1000 (voc), 200 (coco).
        worst: how many worst images to list.
        source: where the detections came from, for the report.
        of_images: images of the whole data set; default its length, so give it with a subset.
        problems: collector of a run that keeps going.

    Raises:
        UsageError: unknown convention, rule or evaluator; COCO's metric on a VOC set; a convention that needs an
        input size. DetectionsError and its subclasses: detections that do not fit the data set.
    """
    truth = gather(dataset)
    found = detections.aligned(truth.image_ids, truth.classes, problems)
    kind = metric or ("coco" if isinstance(dataset, CocoDataset) else "voc")
    published, floor = protocol(network, dataset.name)
    rule_voc: Convention | None = None
    rule_coco: CocoRule | None = None
    if kind == "voc":
        chosen = convention_name or published or "devkit"
        rule_voc = convention(chosen) if isinstance(chosen, str) else chosen
        if rule_voc.coordinates == "resized":
            input_size = input_size or _input_size(network)
        resamples = 1000 if resamples is None else resamples
        found = written(found, rule_voc, truth.sizes, truth.origin)
        done = score_voc(truth, found, rule_voc, input_size, resamples, seed)
    else:
        if not isinstance(dataset, CocoDataset):
            raise UsageError("COCO's metric needs a data set in COCO's form", where=dataset.name)
        wanted = coco_rule or ("gluoncv" if floor else "coco")
        if isinstance(wanted, str) and wanted not in COCO_RULES:
            raise UsageError(f"unknown COCO rule {wanted!r}", expected=f"one of {', '.join(COCO_RULES)}")
        rule_coco = COCO_RULES[wanted] if isinstance(wanted, str) else wanted
        found = prepared(found, rule_coco)
        resamples = 200 if resamples is None else resamples
        done = score_coco(dataset, truth, found, rule_coco, evaluator, resamples, seed)
    frame = truth.origin + (rule_voc.gt_shift if rule_voc and truth.origin == 1 else 0.0)
    total = len(dataset) if of_images is None else of_images
    classes = tuple(
        ClassScore(name, known_or_none(ap), spread, t.npos, len(t.scores), t.true_positives)
        for name, ap, spread, t in zip(truth.classes, done.ap, done.per_class, done.tables, strict=True)
    )
    measured = _measurements(dataset, len(truth.image_ids), total, done, classes, rule_voc, rule_coco)
    return EvaluationResult(
        dataset=dataset.name,
        network=network,
        images=len(truth.image_ids),
        of_images=total,
        objects=len(truth),
        detections=len(found),
        source=source,
        metric=kind,
        numbers=done.numbers,
        intervals=done.intervals,
        convention=rule_voc,
        rule=rule_coco,
        input_size=input_size,
        evaluator=done.evaluator,
        classes=classes,
        curves=tuple(thinned(c.name, t) for c, t in zip(classes, done.tables, strict=True)),
        histogram=histogram(done.tables),
        worst=worst_images(dataset, truth, found, done.tables, done.order, worst, SHOWN_FROM, frame),
        shown_from=SHOWN_FROM,
        verdicts=() if network is None else judge_all(rows(network), measured, train_data),
        problems={} if problems is None else problems.counts,
        seconds=done.seconds,
    )


def _measurements(
    dataset: Dataset,
    images: int,
    of_images: int,
    done: Scored,
    classes: Sequence[ClassScore],
    rule_voc: Convention | None,
    rule_coco: CocoRule | None,
) -> tuple[Measurement, ...]:
    """Every number as a claim with its protocol."""
    per_class = ((f"AP:{c.name}", c.ap, c.interval) for c in classes if rule_voc is not None)
    whole = ((name, value, done.intervals.get(name)) for name, value in done.numbers.items())
    return tuple(
        Measurement(
            dataset=dataset.name,
            images=images,
            of_images=of_images,
            metric=name,
            value=value,
            interval=spread,
            ap=rule_voc.ap if rule_voc else None,
            convention=rule_voc.name if rule_voc else None,
            score_floor=rule_coco.score_floor if rule_coco else 0.0,
        )
        for name, value, spread in chain(whole, per_class)
    )


def evaluate_detections(
    dataset: str | None,
    data_root: str | Path | None,
    detections: str | Path,
    *,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    limit: int | None = None,
    keep_going: bool = False,
    report: str | Path | None = None,
    **options: object,
) -> tuple[EvaluationResult, Problems]:
    """Score detections that are on disk.

    Args:
        dataset: a name of ``DATASETS``; with ``annotations`` only a label.
        data_root: where the data set is.
        detections: see ``detections_io.read_detections``.
        annotations, images: any COCO-form set instead.
        limit: only the first so many images (then nothing is comparable with a published number).
        keep_going: count and list problems instead of stopping at the first.
        report: folder to write ``evaluation.json``, ``evaluation.md`` and ``evaluation.html`` into.
        options: of ``evaluate``.

    Returns:
        The result and the collected problems (empty without ``keep_going``).
    """
    problems = Problems()
    collector = problems if keep_going else None
    whole = open_dataset(dataset, data_root, annotations=annotations, images=images, keep_going=collector)
    found = read_detections(detections, whole, collector)
    chosen = whole
    if limit is not None:
        if limit < 1:
            raise UsageError("the limit must be at least 1", got=limit)
        chosen = whole.take(whole.image_ids[:limit])
        found = _only(found, whole, chosen)
    settings: Mapping[str, object] = {
        "source": str(detections),
        "of_images": len(whole),
        "problems": collector,
        **options,
    }
    result = evaluate(chosen, found, **settings)  # type: ignore[arg-type]
    if report is not None:
        from ssdconv.parity.report.accuracy import write_report

        write_report(result, Path(report))
    return result, problems


def _only(detections: Detections, whole: Dataset, chosen: Dataset) -> Detections:
    """Leave out what belongs to images of the whole set that were not chosen; strangers stay and are reported later."""
    out = set(whole.image_ids) - set(chosen.image_ids)
    keep = np.asarray([name not in out for name in detections.image_ids], np.bool_)
    return detections.select(keep[detections.image]) if len(detections) else detections
