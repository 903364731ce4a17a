"""The error of every layer beside the rounding floor, as inline SVG on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from ssdconv.parity.layers.results import InputResult, ProbeResult
from ssdconv.parity.layers.tolerance import MAX_RATIO

LEFT, TOP, WIDTH, HEIGHT, BELOW = 58.0, 38.0, 940.0, 220.0, 96.0
LOWEST, HIGHEST = -10, 2
"""Decades of the axis at most; errors of 0 stand at its lower end."""


def relative(value: float, probe: ProbeResult) -> float:
    """An absolute error in units of the probe's largest value."""
    return value / probe.measured.magnitude if probe.measured.magnitude > 0 else value


def error_svg(result: InputResult, marks: Sequence[str] = ()) -> str:
    """One input: the band from the floor to its limit, and a dot per layer at the oracle's error.

    Args:
        result: probes in order of execution.
        marks: names of probes to write below the axis.
    """
    probes = result.probes
    if not probes:
        return ""
    errors = [relative(p.measured.error, p) for p in probes]
    lows = [relative(p.floor.max, p) for p in probes]
    highs = [low * MAX_RATIO for low in lows]
    decades = _decades([*errors, *lows, *highs])
    first = next((i for i, p in enumerate(probes) if not p), None)

    def x(index: float) -> float:
        return LEFT + WIDTH * (index + 0.5) / len(probes)

    def y(value: float) -> float:
        exponent = math.log10(value) if 0 < value < math.inf else (decades[1] if value else decades[0])
        place = (min(max(exponent, decades[0]), decades[1]) - decades[0]) / (decades[1] - decades[0])
        return TOP + HEIGHT * (1 - place)

    def path(values: Sequence[float], order: Sequence[int]) -> str:
        return " ".join(f"{x(i):.1f},{y(values[i]):.1f}" for i in order)

    every = range(len(probes))
    parts = [_axis(*decades)]
    parts.append(f'<polygon class="band" points="{path(highs, every)} {path(lows, every[::-1])}"/>')
    parts.append(f'<polyline class="floor" points="{path(lows, every)}"/>')
    parts.append(_names(probes, marks))
    if first is not None:
        parts.append(_divergence(probes[first], x(first), first > len(probes) / 2))
    radius = 3.2 if len(probes) <= 160 else 2.2
    for index, probe in enumerate(probes):
        told = probe.problem or f"error {probe.ratio:.3g} x the floor, rms {probe.rms_ratio:.3g} x"
        kind = "ok" if probe else ("bad first" if index == first else "bad")
        place = f'cx="{x(index):.1f}" cy="{y(errors[index]):.1f}"'
        title = f"<title>{escape(probe.source)}: {escape(told)}</title>"
        parts.append(
            f'<circle class="{kind}" {place} r="{radius * (1.7 if index == first else 1):.1f}">{title}</circle>'
        )
    label = f"error of {len(probes)} layers on {result.name}"
    size = f"{LEFT + WIDTH + 14:.0f} {TOP + HEIGHT + BELOW:.0f}"
    return f'<svg class="errors" viewBox="0 0 {size}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _decades(values: Sequence[float]) -> tuple[int, int]:
    exponents = [math.log10(v) for v in values if 0 < v < math.inf]
    low = max(LOWEST, math.floor(min(exponents, default=-8.0)))
    return low, max(low + 1, min(HIGHEST, math.ceil(max(exponents, default=0.0))))


def _axis(low: int, high: int) -> str:
    parts = []
    for exponent in range(low, high + 1):
        y = TOP + HEIGHT * (high - exponent) / (high - low)
        parts.append(f'<path class="grid" d="M{LEFT},{y:.1f} H{LEFT + WIDTH}"/>')
        text = f'10<tspan dy="-4" font-size="8">{str(exponent).replace("-", "−")}</tspan>'
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    parts.append(f'<text class="tick" x="{LEFT}" y="12">largest error, in units of the layer’s largest value</text>')
    return "".join(parts)


def _names(probes: Sequence[ProbeResult], marks: Sequence[str]) -> str:
    parts = []
    places = {probe.source: index for index, probe in enumerate(probes)}
    last = -1e9
    for name in marks:
        if name not in places:
            continue
        at = LEFT + WIDTH * (places[name] + 0.5) / len(probes)
        if at - last < 13:
            continue
        last = at
        short = name if len(name) <= 20 else "…" + name[-19:]
        bottom = TOP + HEIGHT
        parts.append(f'<path class="grid" d="M{at:.1f},{bottom} v5"/>')
        turned = f'transform="translate({at + 3:.1f},{bottom + 10}) rotate(-48)"'
        parts.append(f'<text class="tick" {turned} text-anchor="end">{escape(short)}</text>')
    return "".join(parts)


def _divergence(probe: ProbeResult, at: float, left: bool) -> str:
    line = f'<path class="divergence" d="M{at:.1f},{TOP - 16} V{TOP + HEIGHT}"/>'
    anchor, x = ("end", at - 7) if left else ("start", at + 7)
    text = f"first difference: {probe.source}"
    return f'{line}<text class="divergence" x="{x:.1f}" y="{TOP - 7}" text-anchor="{anchor}">{escape(text)}</text>'
