"""Timing by turns: what the benchmarks share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def best_of(roads: Mapping[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Milliseconds of each road, the best of ``repeat`` rounds in which all take turns."""
    best = dict.fromkeys(roads, float("inf"))
    for _ in range(repeat):
        for name, road in roads.items():
            start = time.perf_counter()
            road()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best
