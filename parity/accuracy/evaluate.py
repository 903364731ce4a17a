"""Detections on a data set -> numbers, their uncertainty, and verdicts against the published tables.

``score`` brings both metrics to one form; ``evaluate`` makes the whole result of detections in memory; ``verify_dataset`` is
``ssdconv verify --dataset``: it runs a network, or reads stored detections, and evaluates. Stored detections need no network, no
images and no torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ssdconv.data.catalog import open_dataset
from ssdconv.data.coco import CocoDataset
from ssdconv.data.records import Dataset, Problems
from ssdconv.errors import UsageError
from ssdconv.parity.accuracy.bootstrap import Interval, Kind, means, resample, spread
from ssdconv.parity.accuracy.coco import COCO_RULES, CocoRule, evaluate_coco, match_coco, prepared
from ssdconv.parity.accuracy.detections import DetectionSet, Ints, Truth, gather
from ssdconv.parity.accuracy.files import read_detections
from ssdconv.parity.accuracy.matching import MatchTable
from ssdconv.parity.accuracy.published import MeasuredNumber, judge_all, protocol, rows
from ssdconv.parity.accuracy.result import ClassScore, EvaluationResult, histogram, thinned, worst_images
from ssdconv.parity.accuracy.voc import Convention, convention, evaluate_voc, written

if TYPE_CHECKING:
    from ssdconv.parity.accuracy.run import RunStats

SHOWN_FROM = 0.5
"""Score from which a detection counts as confident when the worst images are chosen; no number depends on it."""


@dataclass(frozen=True, eq=False)
class Scored:
    """Both metrics in one form.

    Attributes:
        detections: what was scored: aligned, with the rule's floor and roundings behind them.
        kind: of AP, for ``bootstrap``.
        main: "mAP" or "AP".
        numbers: that one, or COCO's twelve; NaN where nothing is to be found.
        ap: per class, NaN for classes without objects.
        levels: per IoU threshold (VOC has one, COCO's first is .50), the match table of each class.
        order: rows of ``detections`` in the order of the first level's joined tables.
        evaluator: who computed.
        seconds: that it took.
    """

    detections: DetectionSet
    kind: Kind
    main: str
    numbers: Mapping[str, float]
    ap: tuple[float, ...]
    levels: Sequence[tuple[MatchTable, ...]]
    order: Ints
    evaluator: str
    seconds: float


def rule_of(
    dataset: Dataset,
    convention_name: str | Convention | None = None,
    coco_rule: str | CocoRule | None = None,
    metric: Literal["voc", "coco"] | None = None,
) -> Convention | CocoRule:
    """By what a data set is scored: COCO's metric for sets in COCO's form, else VOC's; "devkit" and "coco" by default.

    Raises:
        UsageError: unknown convention or rule; COCO's metric on a VOC set.
    """
    is_coco = isinstance(dataset, CocoDataset)
    if metric == "voc" or (metric is None and not is_coco):
        chosen = convention_name or "devkit"
        return convention(chosen) if isinstance(chosen, str) else chosen
    if not is_coco:
        raise UsageError("COCO's metric needs a data set in COCO's form", where=dataset.name)
    wanted = coco_rule or "coco"
    if isinstance(wanted, str) and wanted not in COCO_RULES:
        raise UsageError(f"unknown COCO rule {wanted!r}", expected=f"one of {', '.join(COCO_RULES)}")
    return COCO_RULES[wanted] if isinstance(wanted, str) else wanted


def score(
    dataset: Dataset,
    truth: Truth,
    detections: DetectionSet,
    rule: Convention | CocoRule,
    *,
    evaluator: str = "hotcoco",
    input_size: tuple[int, int] | None = None,
) -> Scored:
    """Score detections.

    Args:
        dataset: that ``truth`` was gathered from.
        detections: aligned with ``truth``.
        rule: of ``rule_of``.
        evaluator: "hotcoco" or "pycocotools", for COCO.
        input_size: (height, width) of the network's input, for conventions in resized pixels.
    """
    if isinstance(rule, Convention):
        found = written(detections, rule, truth.sizes, truth.origin)
        start = time.perf_counter()
        voc = evaluate_voc(truth, found, rule, input_size)
        seconds = time.perf_counter() - start
        numbers = {"mAP": voc.mean}
        return Scored(found, rule.ap, "mAP", numbers, voc.ap, [voc.tables], voc.order, "ssdconv", seconds)
    assert isinstance(dataset, CocoDataset)
    found = prepared(detections, rule)
    start = time.perf_counter()
    coco = evaluate_coco(dataset.coco_form(), found, rule, evaluator)
    seconds = time.perf_counter() - start
    levels, order = match_coco(truth, found)
    return Scored(found, "coco", "AP", coco.numbers, coco.ap, levels, order, coco.evaluator, seconds)


def known_or_none(value: float) -> float | None:
    """None for NaN."""
    return None if math.isnan(value) else value


def evaluate(
    dataset: Dataset,
    detections: DetectionSet,
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
        train_data: of the weights at hand, see ``published.judge_all``.
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
    published, floor = protocol(network, dataset.name)
    rule = rule_of(dataset, convention_name or published, coco_rule or ("gluoncv" if floor else None), metric)
    voc = rule if isinstance(rule, Convention) else None
    if voc is not None and voc.coordinates == "resized":
        input_size = input_size or _input_size(network)
    found = detections.aligned(truth.image_ids, truth.classes, problems)
    done = score(dataset, truth, found, rule, evaluator=evaluator, input_size=input_size)
    if resamples is None:
        resamples = 200 if voc is None else 1000
    intervals, per_class = _intervals(done, resamples, seed)
    total = len(dataset) if of_images is None else of_images
    tables = done.levels[0]
    classes = tuple(
        ClassScore(name, known_or_none(ap), interval, t.npos, len(t.scores), t.true_positives)
        for name, ap, interval, t in zip(truth.classes, done.ap, per_class, tables, strict=True)
    )
    numbers = {name: known_or_none(value) for name, value in done.numbers.items()}
    claims = chain(
        ((name, value, intervals.get(name)) for name, value in numbers.items()),
        ((f"AP:{c.name}", c.ap, c.interval) for c in classes if voc is not None),
    )
    measured = tuple(
        MeasuredNumber(
            dataset=dataset.name,
            images=len(truth.image_ids),
            of_images=total,
            metric=name,
            value=value,
            interval=interval,
            ap=None if voc is None else voc.ap,
            convention=None if voc is None else voc.name,
            score_floor=0.0 if isinstance(rule, Convention) else rule.score_floor,
        )
        for name, value, interval in claims
    )
    frame = truth.origin + (voc.gt_shift if voc is not None and truth.origin == 1 else 0.0)
    return EvaluationResult(
        dataset=dataset.name,
        network=network,
        images=len(truth.image_ids),
        of_images=total,
        objects=len(truth),
        detections=len(done.detections),
        source=source,
        metric="coco" if voc is None else "voc",
        numbers=numbers,
        intervals=intervals,
        convention=voc,
        rule=None if isinstance(rule, Convention) else rule,
        input_size=input_size,
        evaluator=done.evaluator,
        classes=classes,
        curves=tuple(thinned(c.name, t) for c, t in zip(classes, tables, strict=True)),
        histogram=histogram(tables),
        worst=worst_images(dataset, truth, done.detections, tables, done.order, worst, SHOWN_FROM, frame),
        shown_from=SHOWN_FROM,
        verdicts=() if network is None else judge_all(rows(network), measured, train_data),
        problems={} if problems is None else problems.counts,
        seconds=done.seconds,
    )


def _input_size(network: str | None) -> tuple[int, int] | None:
    from ssdconv.ssd_ref.networks.registry import network as config_of

    try:
        return None if network is None else config_of(network).pixels.size
    except UsageError:
        return None


def _intervals(done: Scored, resamples: int, seed: int) -> tuple[dict[str, Interval], Sequence[Interval | None]]:
    """Of "mAP", or of "AP", "AP50" and "AP75"; and of each class."""
    if not resamples:
        return {}, (None,) * len(done.ap)
    cells = resample(done.levels, done.kind, resamples, seed)
    parts = {done.main: cells} | ({"AP50": cells[:1], "AP75": cells[5:6]} if done.main == "AP" else {})
    wholes = {name: spread(means(part.mean(axis=0)), seed) for name, part in parts.items()}
    each = tuple(spread(column, seed) for column in cells.mean(axis=0).T)
    return {name: interval for name, interval in wholes.items() if interval is not None}, each


@dataclass(frozen=True)
class RunOptions:
    """What to score and how; the fields are the options of ``ssdconv verify --dataset``.

    Attributes:
        dataset: a name of ``data.catalog.DATASETS``; only a label with ``annotations``.
        data_root: where the data set is.
        annotations, images: any COCO-form set instead.
        split: part of a set of one's own.
        detections: stored ones instead of a run, see ``files.read_detections``.
        network: whose they are, "source/name".
        convention: preset of VOC conventions; None for the one that the network's published row was made with.
        coco_rule: preset of COCO rules, likewise.
        evaluator: "hotcoco" or "pycocotools".
        batch_size, workers, device: how the network runs; without a batch size 8 on CUDA and 1 on the CPU, where larger
            batches ran slower (bench/detect_dataset.py).
        limit: only the first so many images; the result is then not comparable with anything published.
        work: folder for the detection streams; None for one in the cache, keyed by weights, data set and version.
        resume: continue what stands there.
        keep_going: count and list bad images and annotations instead of stopping at the first.
        resamples: bootstrap resamples; None for the metric's default.
    """

    dataset: str | None = None
    data_root: Path | None = None
    annotations: Path | None = None
    images: Path | None = None
    split: str | None = None
    detections: Path | None = None
    network: str | None = None
    convention: str | None = None
    coco_rule: str | None = None
    evaluator: str = "hotcoco"
    batch_size: int | None = None
    workers: int = 1
    device: str = "cpu"
    limit: int | None = None
    work: Path | None = None
    resume: bool = True
    keep_going: bool = False
    resamples: int | None = None

    @property
    def images_per_pass(self) -> int:
        """The batch size that is used."""
        if self.batch_size is not None:
            return self.batch_size
        return 8 if self.device.startswith("cuda") else 1

    def open(self, keep_going: Problems | None = None) -> tuple[Dataset, Dataset]:
        """The whole data set, and the part of it that counts.

        Raises:
            UsageError: the limit is not positive. MissingError, FormatError: as ``open_dataset``.
        """
        if self.limit is not None and self.limit < 1:
            raise UsageError("the limit must be at least 1", got=self.limit)
        whole = open_dataset(
            self.dataset,
            self.data_root,
            annotations=self.annotations,
            images=self.images,
            split=self.split,
            keep_going=keep_going,
        )
        return whole, whole if self.limit is None else whole.take(whole.image_ids[: self.limit])


def stored_detections(path: Path, whole: Dataset, part: Dataset, keep_going: Problems | None = None) -> DetectionSet:
    """Detections on disk about ``whole``, without those of its images that are not in ``part``; strangers stay, to be
    reported when they are aligned.
    """
    found = read_detections(path, whole, keep_going)
    out = set(whole.image_ids) - set(part.image_ids)
    keep = np.asarray([name not in out for name in found.image_ids], np.bool_)
    return found.select(keep[found.image]) if out and len(found) else found


def verify_dataset(
    weights: Path | None, options: RunOptions, progress: Callable[[str, int, int], None] | None = None
) -> tuple[EvaluationResult, RunStats | None, Problems] | None:
    """Detect with ``weights`` over a data set, or read ``options.detections``, and evaluate.

    Returns:
        Result, statistics of the run (None for stored detections), and collected problems (empty without ``keep_going``);
        None in all processes of a ``torchrun`` but the first.

    Raises:
        MissingError, FormatError: weights, data set, or an image of it.
        UsageError: classes, device or options that do not fit.
    """
    problems = Problems()
    collector = problems if options.keep_going else None
    whole, part = options.open(collector)
    network, stats, input_size, source = options.network, None, None, str(options.detections)
    if weights is None:
        if options.detections is None:
            raise UsageError("neither weights nor detections were given")
        found = stored_detections(options.detections, whole, part, collector)
    else:
        from ssdconv.parity.accuracy.run import detect_dataset

        run = detect_dataset(weights, part, options, collector, progress)
        if run is None:
            return None
        config, stats, found = run
        network, input_size = f"{config.source}/{config.name}", config.pixels.size
        source = f"{weights} through {network}"
    result = evaluate(
        part,
        found,
        network=network,
        convention_name=options.convention,
        coco_rule=options.coco_rule,
        evaluator=options.evaluator,
        input_size=input_size,
        resamples=options.resamples,
        source=source,
        of_images=len(whole),
        problems=collector,
    )
    return result, stats, problems
