"""Two networks, or two sets of detections, on the same images: which one finds more, and is that more than chance?

Both are matched once; the interval of the difference comes from resampling the images, both sides with the same draws
(``bootstrap``). Numbers are 0..1; a difference is b minus a.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssdconv.data.coco import CocoDataset
from ssdconv.data.records import Dataset
from ssdconv.errors import UsageError
from ssdconv.parity.accuracy.bootstrap import Interval, Kind, draw, interval, means, resampled
from ssdconv.parity.accuracy.coco import COCO_RULES, evaluate_coco, match_coco, prepared
from ssdconv.parity.accuracy.detections import Detections, Floats, Truth, gather
from ssdconv.parity.accuracy.files import read_detections, read_stream
from ssdconv.parity.accuracy.matching import MatchTable
from ssdconv.parity.accuracy.run import RunOptions, run_detector, work_folder
from ssdconv.parity.accuracy.voc import Convention, convention, evaluate_voc, written
from ssdconv.ssd_ref.files import CHECKPOINTS

Outcome = Literal["B is better", "A is better", "no difference shown"]


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        name: for reports.
        detections: over the data set.
        input_size: (height, width) of the network's input, for conventions in resized pixels.
    """

    name: str
    detections: Detections
    input_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Compared:
    """A number of both sides; None where there is nothing to be found.

    Attributes:
        name: class, or "mAP" or "AP" for the mean.
        objects: that count.
        difference, interval: b minus a, and its interval over images.
        share_better: share of resamples in which b is better; ties count half.
    """

    name: str
    objects: int
    a: float | None
    b: float | None
    a_interval: Interval | None
    b_interval: Interval | None
    difference: float | None
    interval: Interval | None
    share_better: float | None

    @property
    def outcome(self) -> Outcome:
        """What the interval of the difference says."""
        if self.interval is not None and self.interval.low > 0:
            return "B is better"
        if self.interval is not None and self.interval.high < 0:
            return "A is better"
        return "no difference shown"


@dataclass(frozen=True)
class Comparison:
    """The whole comparison.

    Attributes:
        a, b: names of the sides.
        dataset, images, of_images: what on.
        protocol: metric and convention, one for both.
        resamples, seed: of the intervals.
        mean: of the classes; ``classes``: each.
    """

    a: str
    b: str
    dataset: str
    images: int
    of_images: int
    protocol: str
    resamples: int
    seed: int
    mean: Compared
    classes: tuple[Compared, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "outcome": self.mean.outcome}


def compare(
    dataset: Dataset,
    a: Side,
    b: Side,
    *,
    convention_name: str | Convention | None = None,
    coco_rule: str = "coco",
    resamples: int = 1000,
    seed: int = 0,
    of_images: int | None = None,
) -> Comparison:
    """Score both sides by one rule and compare them.

    Args:
        dataset: decides the metric: COCO's for sets in COCO's form, else VOC's.
        a, b: the sides.
        convention_name: of VOC; default the devkit's.
        coco_rule: of COCO.
        resamples: for the intervals; 0 for none.
        seed: of the resamples.
        of_images: images of the whole data set, where ``dataset`` is a part of it.

    Raises:
        UsageError: unknown convention or rule, a negative count.
        DetectionsError: detections that are not about this data set.
    """
    if resamples < 0:
        raise UsageError("the number of resamples cannot be negative", got=resamples)
    truth = gather(dataset)
    kind: Kind
    if isinstance(dataset, CocoDataset):
        if coco_rule not in COCO_RULES:
            raise UsageError(f"unknown COCO rule {coco_rule!r}", expected=f"one of {', '.join(COCO_RULES)}")
        kind, metric, protocol = "coco", "AP", f"COCO boxes, IoU .50 to .95, rule {coco_rule}"
        scored = [_coco(dataset, truth, side, coco_rule) for side in (a, b)]
    else:
        chosen = convention_name or "devkit"
        rule = convention(chosen) if isinstance(chosen, str) else chosen
        kind, metric = rule.ap, "mAP"
        protocol = f"{'11-point' if rule.ap == '11point' else 'area'} AP, convention {rule.name}"
        scored = [_voc(truth, side, rule) for side in (a, b)]
    tables = [t for t, _, _ in scored]
    each, means_of = [ap for _, ap, _ in scored], [mean for _, _, mean in scored]
    weights = draw(len(truth.image_ids), resamples, seed) if resamples else None
    drawn = [_values(t, kind, weights) for t in tables] if weights is not None else None
    rows = []
    for place, name in enumerate(truth.classes):
        column = None if drawn is None else (drawn[0][:, place], drawn[1][:, place])
        objects = tables[0][place][0].npos
        rows.append(_compared(name, objects, each[0][place], each[1][place], column, seed))
    ends = None if drawn is None else (means(drawn[0]), means(drawn[1]))
    total = sum(row.objects for row in rows)
    mean = _compared(metric, total, means_of[0], means_of[1], ends, seed)
    images = len(truth.image_ids)
    return Comparison(
        a.name, b.name, dataset.name, images, of_images or images, protocol, resamples, seed, mean, tuple(rows)
    )


_Scored = tuple[list[tuple[MatchTable, ...]], Sequence[float], float]
"""Per class its match tables, one per IoU threshold; AP per class; their mean."""


def _voc(truth: Truth, side: Side, rule: Convention) -> _Scored:
    found = side.detections.aligned(truth.image_ids, truth.classes, None)
    scores = evaluate_voc(truth, written(found, rule, truth.sizes, truth.origin), rule, side.input_size)
    return [(table,) for table in scores.tables], scores.ap, scores.mean


def _coco(dataset: CocoDataset, truth: Truth, side: Side, name: str) -> _Scored:
    rule = COCO_RULES[name]
    found = prepared(side.detections.aligned(truth.image_ids, truth.classes, None), rule)
    scores = evaluate_coco(dataset.coco_form(), found, rule)
    return list(zip(*match_coco(truth, found)[0], strict=True)), scores.ap, scores.numbers["AP"]


def _values(tables: Sequence[tuple[MatchTable, ...]], kind: Kind, weights: np.ndarray[Any, Any]) -> Floats:
    """(rows of weights, classes): AP, the mean over IoU thresholds where there are several."""
    columns = [resampled(levels, kind, weights).mean(axis=1) for levels in tables]
    return np.stack(columns, axis=1)


def _compared(name: str, objects: int, a: float, b: float, drawn: tuple[Floats, Floats] | None, seed: int) -> Compared:
    spreads: list[Interval | None] = [None, None, None]
    share = None
    if drawn is not None:
        gap = drawn[1] - drawn[0]
        spreads = [interval(values, own, seed) for values, own in ((drawn[0], a), (drawn[1], b), (gap, b - a))]
        known = gap[~np.isnan(gap)]
        share = float(np.mean((known > 0) + 0.5 * (known == 0))) if len(known) else None
    values = [None if math.isnan(v) else v for v in (a, b, b - a)]
    return Compared(name, objects, values[0], values[1], spreads[0], spreads[1], values[2], spreads[2], share)


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a network rather than detections."""
    return path.suffix in CHECKPOINTS or (path / "model.safetensors").is_file()


def side_of(
    path: Path,
    whole: Dataset,
    dataset: Dataset,
    wish: RunOptions,
    progress: Callable[[str, int, int], None] | None = None,
) -> Side:
    """A side from a checkpoint, which is run over ``dataset``, or from stored detections.

    Args:
        path: .pth or .safetensors of ssdconv; or a comp4 folder, COCO results, or our stream.
        whole, dataset: the set that stored detections are about, and the part of it that counts.
        wish: how the network runs; its detections are kept and found again as those of ``verify --dataset``.
        progress: told about images done.

    Raises:
        As ``run_detector`` and ``read_detections``.
    """
    if not is_checkpoint(path):
        found = read_detections(path, whole, None)
        out = set(whole.image_ids) - set(dataset.image_ids)
        keep = np.asarray([name not in out for name in found.image_ids], np.bool_)
        return Side(str(path), found.select(keep[found.image]) if len(found) else found)
    import torch

    from ssdconv.ssd_ref.checkpoint import load

    name = str(path)
    if path.is_dir():
        path = path / "model.safetensors"
    model = load(path, wish.device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    folder = work_folder(path, dataset, wish)

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(f"{path.name} on {dataset.name}", done, total)

    run_detector(
        model, dataset, folder, batch_size=wish.images_per_pass, workers=wish.workers, progress=tell, place=(0, 1)
    )
    _, detections = read_stream(sorted(folder.glob("*.jsonl")))
    return Side(name, detections, model.config.pixels.size)
