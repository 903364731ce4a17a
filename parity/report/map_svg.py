"""The pictures of an evaluation's page as inline SVG: no script, no font, no file from elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from ssdconv.parity.accuracy.result import ClassScore, Curve, EvaluationResult, Histogram
from ssdconv.parity.report.map_text import headline, percent


def curve_svg(curve: Curve, score: ClassScore) -> str:
    """One class: precision over recall, its envelope filled, AP in the corner. 160 x 132 units."""
    left, top, side_x, side_y = 22.0, 8.0, 132.0, 104.0

    def at(recall: float, precision: float) -> str:
        return f"{left + side_x * recall:.1f},{top + side_y * (1 - precision):.1f}"

    grid = "".join(
        f'<path class="grid" d="M{at(v, 0)} L{at(v, 1)} M{at(0, v)} L{at(1, v)}"/>' for v in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    ticks = "".join(
        f'<text class="tick" x="{left + side_x * v:.1f}" y="124" text-anchor="middle">{v:g}</text>'
        f'<text class="tick" x="18" y="{top + side_y * (1 - v) + 3:.1f}" text-anchor="end">{v:g}</text>'
        for v in (0.0, 0.5, 1.0)
    )
    shape = ""
    if curve.recall:
        best, envelope = 0.0, []
        for precision in reversed(curve.precision):
            best = max(best, precision)
            envelope.append(best)
        envelope.reverse()
        steps = [at(0, envelope[0])]
        for i, recall in enumerate(curve.recall):
            steps.append(at(recall, envelope[i]))
            if i + 1 < len(envelope):
                steps.append(at(recall, envelope[i + 1]))
        shape = (
            f'<path class="fill" d="M{at(0, 0)} L{" ".join(steps)} L{at(curve.recall[-1], 0)} Z"/>'
            f'<polyline class="line" points="{" ".join(map(at, curve.recall, curve.precision))}"/>'
        )
    label = f"{escape(score.name)}: AP {percent(score.ap)} %"
    return (
        f'<figure class="curve"><figcaption><span>{escape(score.name)}</span><b>{percent(score.ap, 1)}</b></figcaption>'
        f'<svg viewBox="0 0 160 128" role="img" aria-label="{label}">{grid}{ticks}{shape}</svg></figure>'
    )


def _rect(kind: str, x: float, y: float, width: float, height: float, inside: str = "") -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1.5">{inside}</rect>'


def _text(kind: str, x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _picture(kind: str, width: int, height: int, label: str, parts: list[str]) -> str:
    opening = f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return f"{opening}{''.join(parts)}</svg>"


@dataclass(frozen=True)
class _Bar:
    name: str
    text: str
    value: float
    high: float
    kind: str


def _bars(result: EvaluationResult) -> list[_Bar]:
    value = result.numbers[result.main]
    bars = [] if value is None else [_Bar("measured here", percent(value), value, value, "measured")]
    for v in headline(result):
        place = "" if v.row.dataset == result.dataset else f", {v.row.dataset}"
        name = f"{v.row.system}: {v.row.weights}{place}"
        low = v.row.value / 100
        high = low if v.row.high is None else v.row.high / 100
        bars.append(_Bar(name, v.row.text, low, high, v.outcome.replace(" ", "-")))
    return bars


def bars_svg(result: EvaluationResult) -> str:
    """The measured number, then every published one, as horizontal bars; the measured interval as a band behind them."""
    bars = _bars(result)
    step, left, width = 26, 300.0, 360.0
    top = max([0.01, *(b.high for b in bars)])
    scale = width / min(1.0, math.ceil(top * 10 + 0.5) / 10)
    height = step * len(bars) + 22
    parts = []
    interval = result.intervals.get(result.main)
    if interval is not None:
        low, high = left + scale * interval.low, left + scale * interval.high
        parts.append(_rect("band", low, 0, high - low, height - 18))
        middle = min((low + high) / 2, 600.0)  # the label stays inside the picture
        parts.append(_text("tick", middle, height - 6, "middle", "95 % interval of the measured number"))
    for i, bar in enumerate(bars):
        y, end = step * i + 4, left + scale * bar.high
        short = bar.name if len(bar.name) <= 44 else bar.name[:43] + "…"
        parts.append(_text("name", left - 8, y + 12, "end", f"<title>{escape(bar.name)}</title>{escape(short)}"))
        parts.append(_rect(f"bar {bar.kind}", left, y, scale * bar.value, 16))
        if bar.high > bar.value:
            parts.append(_rect("range", left + scale * bar.value, y, scale * (bar.high - bar.value), 16))
        parts.append(_text("value", end + 6, y + 12, "start", escape(bar.text)))
    return _picture("bars", 720, height, f"published and measured {result.main}", parts)


def histogram_svg(data: Histogram) -> str:
    """True and false detections by score, counts on a logarithmic axis, side by side in each bin."""
    left, top, width, height = 52.0, 10.0, 640.0, 180.0
    decades = max(1, math.ceil(math.log10(max([1, *data.true, *data.false]) + 1)))
    bins = len(data.true)
    slot = width / max(bins, 1)
    parts = []
    for d in range(decades + 1):
        y = top + height * (1 - d / decades)
        parts.append(f'<path class="grid" d="M{left},{y:.1f} H{left + width}"/>')
        parts.append(_text("tick", left - 6, y + 4, "end", f"{10**d:,}"))
    for i in range(bins):
        for offset, (kind, count) in enumerate((("true", data.true[i]), ("false", data.false[i]))):
            tall = max(height * math.log10(count) / decades, 1.5) if count else 0.0
            title = f"<title>{kind}: {count:,} with score {data.edges[i]:.2f} to {data.edges[i + 1]:.2f}</title>"
            x = left + slot * (i + 0.1 + 0.4 * offset)
            parts.append(_rect(kind, x, top + height - tall, slot * 0.38, tall, title))
    for i in range(0, bins + 1, max(1, bins // 10)):
        parts.append(_text("tick", left + slot * i, top + height + 16, "middle", f"{data.edges[i]:.1f}"))
    return _picture("histogram", 700, 212, "detections by score", parts)
