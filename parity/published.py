"""The published accuracy tables that concern our networks, as rows with protocol and source (``published.json``).

A row's ``role`` says how it relates to its network:

- ``primary``: the source's own number for the weights it released; a verdict rests on these;
- ``alternative``: the same network with other weights (other training data or recipe);
- ``port``: the source's weights measured by other code;
- ``quoted``: a number that another document repeats;
- ``context``: not a network of ours.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from ssdconv.errors import FormatError, UsageError

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
        convention: preset of ``metrics.conventions`` that the number was computed under, None where unknown.
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
