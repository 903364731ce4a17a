"""The published accuracy tables that concern our networks, and whether a measured number is the published one.

``published.json`` holds rows with protocol and source. A row's ``role`` says how it relates to its network:

- ``primary``: the source's own number for the weights it released; a verdict rests on these;
- ``alternative``: the same network with other weights (other training data or recipe);
- ``port``: the source's weights measured by other code;
- ``quoted``: a number that another document repeats;
- ``context``: not a network of ours.

``judge`` says reproduced, differs, or not comparable, and why. The tolerance is nobody's choice: the measured number is uncertain by the 95 % bootstrap interval over the data set's
images, the published one by half a unit of its last printed digit. The two agree when these ranges touch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ssdconv.errors import FormatError, UsageError

if TYPE_CHECKING:
    from ssdconv.parity.accuracy.bootstrap import Interval

Role = Literal["primary", "alternative", "port", "quoted", "context"]
ROLES: tuple[Role, ...] = ("primary", "alternative", "port", "quoted", "context")
FILE = Path(__file__).with_name("published.json")


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One published number.

    Attributes:
        network: "source/name" in our naming, None for ``context`` rows.
        role: see the module's text.
        system: who measured.
        model: the document's own name of the model.
        weights: which weights were measured.
        dataset: "voc07" (VOC2007 test), "voc12-test", "coco-val2017", "coco-test-dev2015", "coco-test-dev".
        train_data: "07+12", "07++12+COCO", "COCO train2017", ...
        metric: "mAP", "AP:<class>" (VOC), "AP", "AP50", "AP75" (COCO).
        ap: for VOC: "11point" or "area".
        convention: key of ``voc.PRESETS`` that the number was computed under, None where unknown.
        score_floor: detections below it were left out, where the protocol has such a floor.
        value: the number in ``units``; ``high`` is set where the document gives a range.
        digits: decimals that the document prints.
        units: "%".
        title, url: the document.
        checked: False where the number was recalled from the document and not read again.
        notes: what else matters.
    """

    role: Role
    system: str
    model: str
    weights: str
    dataset: str
    train_data: str
    metric: str
    value: float
    digits: int
    units: str
    title: str
    checked: bool
    network: str | None = None
    ap: str | None = None
    convention: str | None = None
    score_floor: float | None = None
    high: float | None = None
    url: str | None = None
    notes: str = ""

    @property
    def text(self) -> str:
        """The number as printed: "77.2", "73-75"."""
        low = f"{self.value:.{self.digits}f}"
        return low if self.high is None else f"{low}-{self.high:.{self.digits}f}"

    @property
    def bounds(self) -> tuple[float, float]:
        """What the printed number can stand for, 0..1: half a unit of its last digit to both sides."""
        half = 0.5 * 10.0**-self.digits
        return (self.value - half) / 100.0, ((self.value if self.high is None else self.high) + half) / 100.0

    def to_json(self) -> dict[str, Any]:
        """The row as JSON-ready data, without what is not set."""
        return {key: value for key, value in asdict(self).items() if value is not None and value != ""}


@dataclass(frozen=True)
class _Table:
    version: int
    rows: tuple[PublishedRow, ...]


@cache
def table(path: Path = FILE) -> tuple[PublishedRow, ...]:
    """All rows.

    Raises:
        FormatError: the file is damaged.
    """
    try:
        content = msgspec.json.decode(path.read_bytes(), type=_Table)
    except (msgspec.DecodeError, OSError) as error:
        raise FormatError(f"the table of published numbers is damaged: {error}", where=str(path)) from None
    return content.rows


def _same_network(mine: str | None, wanted: str) -> bool:
    return mine is not None and (mine == wanted or ("/" not in wanted and mine.split("/", 1)[1] == wanted))


def rows(
    network: str | None = None, dataset: str | None = None, metric: str | None = None, role: Role | None = None
) -> tuple[PublishedRow, ...]:
    """The rows that fit; None fits all.

    Args:
        network: "gluon/ssd_512_resnet50_v1_voc", or the name alone.

    Raises:
        UsageError: no row is about such a data set.
    """
    if dataset is not None and dataset not in datasets():
        raise UsageError(
            f"nothing is published here about the data set {dataset!r}", expected=f"one of {', '.join(datasets())}"
        )
    return tuple(
        r
        for r in table()
        if (network is None or _same_network(r.network, network))
        and (dataset is None or r.dataset == dataset)
        and (metric is None or r.metric == metric)
        and (role is None or r.role == role)
    )


def networks() -> tuple[str, ...]:
    """Every network that a row is about."""
    return tuple(sorted({r.network for r in table() if r.network}))


def datasets() -> tuple[str, ...]:
    """Every data set that a row is about."""
    return tuple(sorted({r.dataset for r in table()}))


def protocol(network: str | None, dataset: str) -> tuple[str | None, float | None]:
    """(convention, score floor) of the network's primary row on a data set; None where unknown or unpublished."""
    if network is None:
        return None, None
    mine = [r for r in table() if _same_network(r.network, network) and r.role == "primary" and r.dataset == dataset]
    return (mine[0].convention, mine[0].score_floor) if mine else (None, None)


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
class MeasuredNumber:
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


def _obstacle(row: PublishedRow, m: MeasuredNumber) -> str | None:
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


def judge(row: PublishedRow, measurement: MeasuredNumber, *, counts: bool = True) -> Verdict:
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
    rows: tuple[PublishedRow, ...], measurements: tuple[MeasuredNumber, ...], train_data: str | None = None
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
