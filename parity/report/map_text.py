"""Wording and number formats that the terminal, Markdown and HTML reports of an evaluation share."""

from __future__ import annotations

from ssdconv.parity.accuracy.bootstrap import Interval
from ssdconv.parity.accuracy.published import DATASET_TITLES, Verdict
from ssdconv.parity.accuracy.result import EvaluationResult

NOT_MEASURED = "not measured"


def percent(value: float | None, digits: int = 2) -> str:
    """0.7213 -> "72.13"; None -> "–"."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def spread(interval: Interval | None, digits: int = 2) -> str:
    """ "70.80–73.13", or "not measured"."""
    return NOT_MEASURED if interval is None else f"{percent(interval.low, digits)}–{percent(interval.high, digits)}"


def points(value: float | None) -> str:
    """A difference in points: "+0.31", "−1.20"; None -> "–"."""
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def data_title(result: EvaluationResult) -> str:
    """ "VOC2007 test, 4,952 images"."""
    name = DATASET_TITLES.get(result.dataset, result.dataset)
    part = f"{result.images:,} of {result.of_images:,}" if result.images != result.of_images else f"{result.images:,}"
    return f"{name}, {part} images"


def headline(result: EvaluationResult) -> tuple[Verdict, ...]:
    """The verdicts on the number that matters most, those that count first."""
    mine = [v for v in result.verdicts if v.metric == result.main]
    return tuple(sorted(mine, key=lambda v: (not v.counts, v.row.dataset != result.dataset)))


def published_per_class(result: EvaluationResult) -> dict[str, Verdict]:
    """Class name -> verdict on its published AP, where there is one that counts."""
    return {v.metric[3:]: v for v in result.verdicts if v.counts and v.metric.startswith("AP:")}


def source(verdict: Verdict) -> str:
    """System and document of a published row."""
    row = verdict.row
    return f"{row.system}, {row.title}" + ("" if row.checked else " (recalled, not read again)")
