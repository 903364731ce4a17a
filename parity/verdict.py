"""Is a measured number the published one? reproduced, differs, or not comparable, and why.

The tolerance is nobody's choice: the measured number is uncertain by the 95 % bootstrap interval over the data set's
images, the published one by half a unit of its last printed digit. The two agree when these ranges touch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ssdconv.parity.bootstrap import Interval
from ssdconv.parity.published import PublishedRow

Outcome = Literal["reproduced", "differs", "not comparable"]

DATASET_TITLES = {
    "voc07": "VOC2007 test",
    "voc12": "VOC2012 val",
    "voc12-test": "VOC2012 test",
    "coco-val2017": "COCO val2017",
    "coco-minival": "COCO minival2014",
    "coco-test-dev2015": "COCO test-dev2015",
    "coco-test-dev": "COCO test-dev",
}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A measured number with its protocol.

    Attributes:
        dataset: its name.
        images, of_images: how many were evaluated, and how many the data set has.
        metric: "mAP", "AP:<class>", "AP", "AP50", "AP75".
        value: 0..1, None when nothing was to be found.
        interval: 95 % bootstrap interval, None when it was not computed.
        ap: "11point", "area", or None for COCO.
        convention: preset name; None for COCO.
        score_floor: floor that was applied, 0.0 for none.
    """

    dataset: str
    images: int
    of_images: int
    metric: str
    value: float | None
    interval: Interval | None
    ap: str | None = None
    convention: str | None = None
    score_floor: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What one comparison concluded; true when reproduced.

    Attributes:
        outcome: see the module's text.
        why: one sentence.
        row: the published row.
        metric: which number.
        measured: 0..1 or None.
        difference: measured minus published in points (percent), None where there is nothing to subtract; for a
            published range the distance to its nearer end, 0 inside.
        counts: whether the overall outcome rests on it (a primary row for the weights at hand).
    """

    outcome: Outcome
    why: str
    row: PublishedRow
    metric: str
    measured: float | None
    difference: float | None
    counts: bool

    def __bool__(self) -> bool:
        return self.outcome == "reproduced"


def _title(dataset: str) -> str:
    return DATASET_TITLES.get(dataset, dataset)


def _obstacle(row: PublishedRow, m: Measurement) -> str | None:
    """Why the two numbers cannot be compared, None if they can."""
    if row.dataset != m.dataset:
        return f"published on {_title(row.dataset)}, measured on {_title(m.dataset)}"
    if m.images != m.of_images:
        return f"measured on {m.images} of {m.of_images} images"
    if row.ap is not None and m.ap is not None and row.ap != m.ap:
        return f"published {row.ap} AP, measured {m.ap} AP"
    if row.convention is not None and row.convention != m.convention:
        return f"published under the convention {row.convention}, measured under {m.convention}"
    if row.score_floor is not None and row.score_floor != m.score_floor:
        return f"published without detections under {row.score_floor:g}, measured with the floor {m.score_floor:g}"
    if m.value is None:
        return "nothing was to be found, so nothing was measured"
    if m.interval is None:
        return "the uncertainty was not measured (no bootstrap resamples)"
    return None


def judge(row: PublishedRow, measurement: Measurement, *, counts: bool = True) -> Verdict:
    """Compare one measured with one published number."""
    low, high = row.bounds
    value, gap = measurement.value, None
    if value is not None:
        ends = (row.value / 100.0, (row.value if row.high is None else row.high) / 100.0)
        gap = 100.0 * (value - min(max(value, ends[0]), ends[1]))
    obstacle = _obstacle(row, measurement)
    interval = measurement.interval
    if obstacle is not None or interval is None or value is None:
        return Verdict("not comparable", obstacle or "not measured", row, measurement.metric, value, gap, counts)
    reaches = f"measured {100 * interval.low:.2f}-{100 * interval.high:.2f} % (95 % of resamples)"
    printed = f"published {100 * low:.{row.digits + 1}f}-{100 * high:.{row.digits + 1}f} %"
    inside = interval.low <= high and low <= interval.high
    caveat = "" if row.convention or row.ap is None else "; the publisher's box convention is unknown"
    why = f"{reaches} and {printed} {'meet' if inside else 'do not meet'}{caveat}"
    return Verdict("reproduced" if inside else "differs", why, row, measurement.metric, value, gap, counts)


def judge_all(
    rows: tuple[PublishedRow, ...], measurements: tuple[Measurement, ...], train_data: str | None = None
) -> tuple[Verdict, ...]:
    """Compare every published row of a network with the measurement of its metric.

    Args:
        rows: of one network; ``quoted`` and ``context`` rows are passed over.
        measurements: one per metric.
        train_data: what the weights at hand were trained on. None: the released weights, so ``primary`` rows count and
            ``alternative`` rows (other weights) are not comparable. Given: rows with this training data count.
    """
    by_metric = {m.metric: m for m in measurements}
    verdicts = []
    for row in rows:
        m = by_metric.get(row.metric)
        if m is None or row.role in ("quoted", "context"):
            continue
        mine = row.role == "primary" if train_data is None else row.train_data == train_data and row.role != "port"
        verdict = judge(row, m, counts=mine)
        if not mine and row.role != "port":
            why = f"other weights: {row.weights}, trained on {row.train_data}"
            verdict = Verdict("not comparable", why, row, m.metric, m.value, verdict.difference, False)
        verdicts.append(verdict)
    return tuple(verdicts)
