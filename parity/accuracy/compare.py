"""Two networks, or two sets of detections, on the same images: which one finds more, and is that more than chance?

Both are matched once; the interval of the difference comes from resampling the images, both sides with the same draws
(``bootstrap``). Numbers are 0..1; a difference is b minus a.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssdconv.data.records import Dataset
from ssdconv.errors import UsageError
from ssdconv.parity.accuracy.bootstrap import Interval, means, resample, spread
from ssdconv.parity.accuracy.detections import DetectionSet, Floats, gather
from ssdconv.parity.accuracy.evaluate import RunOptions, known_or_none, rule_of, score, stored_detections
from ssdconv.parity.accuracy.voc import Convention
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
    detections: DetectionSet
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
    rule = rule_of(dataset, convention_name, coco_rule)
    if isinstance(rule, Convention):
        protocol = f"{'11-point' if rule.ap == '11point' else 'area'} AP, convention {rule.name}"
    else:
        protocol = f"COCO boxes, IoU .50 to .95, rule {rule.name}"
    scored, drawn = [], []
    for side in (a, b):
        found = side.detections.aligned(truth.image_ids, truth.classes)
        scored.append(done := score(dataset, truth, found, rule, input_size=side.input_size))
        if resamples:
            drawn.append(resample(done.levels, done.kind, resamples, seed).mean(axis=0))
    rows = tuple(
        _compared(name, scored[0].levels[0][k].npos, scored[0].ap[k], scored[1].ap[k], [d[:, k] for d in drawn], seed)
        for k, name in enumerate(truth.classes)
    )
    main, images = scored[0].main, len(truth.image_ids)
    ends = [done.numbers[main] for done in scored]
    mean = _compared(main, sum(r.objects for r in rows), ends[0], ends[1], [means(d) for d in drawn], seed)
    return Comparison(a.name, b.name, dataset.name, images, of_images or images, protocol, resamples, seed, mean, rows)


def _compared(name: str, objects: int, a: float, b: float, drawn: Sequence[Floats], seed: int) -> Compared:
    """``drawn``: of both sides, on all images and then on each resample; empty without resamples."""
    spreads: list[Interval | None] = [None, None, None]
    share = None
    if drawn:
        gap = drawn[1] - drawn[0]
        spreads = [spread(values, seed) for values in (*drawn, gap)]
        known = gap[1:][~np.isnan(gap[1:])]
        share = float(np.mean((known > 0) + 0.5 * (known == 0))) if len(known) else None
    values = [known_or_none(v) for v in (a, b, b - a)]
    return Compared(name, objects, values[0], values[1], spreads[0], spreads[1], values[2], spreads[2], share)


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a network rather than detections."""
    return path.suffix in CHECKPOINTS or (path / "model.safetensors").is_file()


def side_of(
    path: Path,
    whole: Dataset,
    dataset: Dataset,
    options: RunOptions,
    progress: Callable[[str, int, int], None] | None = None,
) -> Side:
    """A side from a checkpoint, which is run over ``dataset``, or from stored detections.

    Args:
        path: .pth or .safetensors of ssdconv; or a comp4 folder, COCO results, or our stream.
        whole, dataset: the set that stored detections are about, and the part of it that counts.
        options: how the network runs; its detections are kept and found again as those of ``verify --dataset``.
        progress: told what runs, and about images done.

    Raises:
        As ``detect_dataset`` and ``read_detections``.
    """
    if not is_checkpoint(path):
        return Side(str(path), stored_detections(path, whole, dataset))
    from ssdconv.parity.accuracy.run import detect_dataset

    run = detect_dataset(
        path / "model.safetensors" if path.is_dir() else path, dataset, options, None, progress, place=(0, 1)
    )
    assert run is not None
    config, _, found = run
    return Side(str(path), found, config.pixels.size)
