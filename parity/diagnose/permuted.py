"""Which order of a head's channels, if any, turns one tensor into another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssdconv.parity.diagnose.net import Array

Order = tuple[int, ...]


class HeadOrder(NamedTuple):
    """New anchor i is old anchor ``anchors[i]``, new value k old value ``inner[k]``; None for the order as it is."""

    anchors: Order | None
    inner: Order | None


def slice_order(mine: Array, truth: Array) -> Order | None:
    """``order`` with ``mine[i] == truth[order[i]]`` bit for bit along the first axis, None where there is none or several."""
    if mine.shape != truth.shape or mine.dtype != truth.dtype:
        return None
    places: dict[bytes, int] = {}
    for index, part in enumerate(truth):
        if places.setdefault(np.ascontiguousarray(part).tobytes(), index) != index:
            return None
    found = [places.get(np.ascontiguousarray(part).tobytes(), -1) for part in mine]
    return tuple(found) if sorted(found) == list(range(len(found))) else None


def head_order(mine: Array, truth: Array, values: int) -> HeadOrder | None:
    """The order of anchors and of the values within an anchor that makes ``mine`` of ``truth``; None where there is none."""
    order = slice_order(mine, truth)
    if order is None:
        return None
    table = np.asarray(order).reshape(-1, values)
    anchor, inner = table // values, table % values
    if not (anchor == anchor[:, :1]).all() or not (inner == inner[:1]).all():
        return None
    anchors, within = tuple(anchor[:, 0].tolist()), tuple(inner[0].tolist())
    return HeadOrder(
        None if anchors == tuple(range(len(anchors))) else anchors,
        None if within == tuple(range(values)) else within,
    )


def listed(order: Sequence[int]) -> str:
    """An order for people; long ones are cut."""
    text = ", ".join(map(str, order[:8]))
    return f"({text}, …)" if len(order) > 8 else f"({text})"
