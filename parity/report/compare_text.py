"""A comparison as text for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from ssdconv.parity.accuracy.bootstrap import Interval
from ssdconv.parity.accuracy.compare import Compared, Comparison
from ssdconv.parity.accuracy.published import DATASET_TITLES
from ssdconv.parity.report.map_text import percent, points, spread

HEAD = ("class", "objects", "A", "B", "B − A", "95 % interval")


def headline(result: Comparison) -> str:
    """One sentence: both numbers, the difference, its interval."""
    m = result.mean
    return (
        f"{m.name}: A {percent(m.a)}, B {percent(m.b)}; B − A = {_gap(m.difference)} points"
        f" (95 % interval {_range(m.interval)}): {m.outcome}"
    )


def lines(result: Comparison) -> list[str]:
    """What is compared, on what, by which rule."""
    title = DATASET_TITLES.get(result.dataset, result.dataset)
    part = f"{result.images:,}" + (f" of {result.of_images:,}" if result.images != result.of_images else "")
    resamples = f"{result.resamples:,} paired resamples of the images" if result.resamples else "no resamples"
    return [f"A = {result.a}", f"B = {result.b}", f"{title}, {part} images; {result.protocol}; {resamples}"]


def rows(result: Comparison) -> list[Sequence[str]]:
    """One row per class in ``HEAD``'s columns, the mean last."""
    return [_row(entry) for entry in (*result.classes, result.mean)]


def markdown(result: Comparison) -> str:
    """The whole comparison."""
    body = ["| " + " | ".join(row) + " |" for row in rows(result)]
    rule = "|---|" + "---:|" * (len(HEAD) - 1)
    share = result.mean.share_better
    sure = [] if share is None else [f"B is better in {100 * share:.1f} % of the resamples.", ""]
    head = ["# Comparison", "", *(f"- {line}" for line in lines(result)), "", f"**{headline(result)}**", "", *sure]
    return "\n".join([*head, "| " + " | ".join(HEAD) + " |", rule, *body]) + "\n"


def _row(entry: Compared) -> Sequence[str]:
    numbers = (percent(entry.a), percent(entry.b), _gap(entry.difference), _range(entry.interval))
    return (entry.name, str(entry.objects), *numbers)


def _gap(value: float | None) -> str:
    return points(None if value is None else 100 * value)


def _range(interval: Interval | None) -> str:
    if interval is None:
        return spread(None)
    return f"{_gap(interval.low)} … {_gap(interval.high)}"
