"""Known mistakes behind the heads: scores, prior boxes, variances and the detection rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

from ssdconv.parity.diagnose.edits import Change
from ssdconv.parity.diagnose.net import Net
from ssdconv.parity.diagnose.undo import ANCHOR_ORDERS
from ssdconv.ssd_ref.cells import caffe_cells
from ssdconv.ssd_ref.config import PriorMap, SSDConfig
from ssdconv.ssd_ref.networks.registry import builders
from ssdconv.ssd_ref.networks.registry import networks as all_networks

Changes = Iterator[tuple[str, Change]]
Maps = tuple[PriorMap, ...]
Four = tuple[float, float, float, float]

STANDARD: Four = (0.1, 0.1, 0.2, 0.2)


def _priors(change: Callable[[PriorMap], PriorMap]) -> Change:
    return lambda net: replace(net, config=replace(net.config, priors=tuple(change(m) for m in net.config.priors)))


def _table(maps: Maps) -> Change:
    return lambda net: replace(net, config=replace(net.config, priors=maps))


def _rule(**values: Any) -> Change:
    return lambda net: replace(net, config=replace(net.config, detect=replace(net.config.detect, **values)))


def activation(net: Net, truth: SSDConfig | None) -> Changes:
    """Softmax, sigmoid or nothing."""
    own = net.config.detect.activation
    for value in ("softmax", "sigmoid", "none"):
        if value != own:
            yield f"{own} instead of {value}", _rule(activation=value)


def sizes(net: Net, truth: SSDConfig | None) -> Changes:
    """Cells of the truth, or of any named network with as many priors per cell; differences of less than a pixel are truncation's."""
    for name, cells in _tables(net, truth):
        if _gap(net.config.priors, cells) >= 1.0 and not _reordered(net.config.priors, cells):
            firsts = ", ".join(f"{c[0][0]:g}" for c in cells[:3])
            own = ", ".join(f"{m.cells[0][0]:g}" for m in net.config.priors[:3])
            yield f"sizes {own} … instead of {firsts} … ({name})", _cells(cells)


def truncation(net: Net, truth: SSDConfig | None) -> Changes:
    """Sizes cut to whole pixels, or not: the same table with differences below one pixel, then this table cut."""
    for name, cells in _tables(net, truth):
        if 0 < _gap(net.config.priors, cells) < 1.0:
            kept = net.config.priors[0].cells[0][0]
            yield f"first size {kept:g} instead of {cells[0][0][0]:g} ({name})", _cells(cells)
    cut = [_cut(m) for m in net.config.priors]
    if all(c is not None for c in cut) and 0 < _gap(net.config.priors, [c for c in cut if c is not None]) < 4:
        yield "sizes are not cut to whole pixels", _cells([c for c in cut if c is not None])


Cells = tuple[tuple[float, float], ...]


def _cells(table: Sequence[Cells]) -> Change:
    def change(net: Net) -> Net:
        maps = tuple(replace(m, cells=c) for m, c in zip(net.config.priors, table, strict=True))
        return _table(maps)(net)

    return change


def _tables(net: Net, truth: SSDConfig | None) -> Iterator[tuple[str, list[Cells]]]:
    """(network, cells per map) of the truth and of every named network that could be meant, each once."""
    counts = [len(m.cells) for m in net.config.priors]
    seen = [[m.cells for m in net.config.priors]]
    configs = [truth] if truth is not None else []
    configs += [builders(row.source)[row.name](row.name, None) for row in all_networks()]
    for config in configs:
        cells = [m.cells for m in config.priors]
        if [len(c) for c in cells] == counts and cells not in seen:
            seen.append(cells)
            yield f"{config.name} of {config.source}", cells


def _gap(maps: Sequence[PriorMap], cells: Sequence[Cells]) -> float:
    """Largest difference of a cell's side in pixels."""
    pairs = zip([m.cells for m in maps], cells, strict=True)
    return max((abs(a - b) for mine, theirs in pairs for p, q in zip(mine, theirs, strict=True) for a, b in zip(p, q, strict=True)), default=0.0)  # fmt: skip


def _reordered(maps: Sequence[PriorMap], cells: Sequence[Cells]) -> bool:
    pairs = zip([m.cells for m in maps], cells, strict=True)
    return all(sorted(mine) == sorted(theirs) for mine, theirs in pairs)


def _cut(entry: PriorMap) -> Cells | None:
    """The cells that Caffe makes of a map with these sizes; None where they are not Caffe's."""
    if len(entry.cells) not in (4, 6):
        return None
    low, middle = entry.cells[0][0], entry.cells[1][0]
    high = middle * middle / low if low > 0 else 0.0
    if not 1 <= low < high < math.inf:
        return None
    return caffe_cells((low,), (round(high, 3),), (2, 3) if len(entry.cells) == 6 else (2,))


def clip(net: Net, truth: SSDConfig | None) -> Changes:
    """Priors clipped to the image in one of two ways, or not."""
    own = {m.clip for m in net.config.priors}
    for value in ("none", "corners", "centers"):
        if own != {value}:
            text = f"clip {', '.join(sorted(own))!r} instead of {value!r}"
            yield text, _priors(lambda m, v=value: replace(m, clip=v))  # type: ignore[misc]


def order(net: Net, truth: SSDConfig | None) -> Changes:
    """The cells' own priors in another order: the truth's where it has the same ones, then known orders, then width for height."""
    if truth is not None and len(truth.priors) == len(net.config.priors):
        cells = [m.cells for m in truth.priors]
        held = [m.cells for m in net.config.priors]
        if held != cells and [len(c) for c in held] == [len(c) for c in cells] and _reordered(net.config.priors, cells):
            index = next(i for i, (a, b) in enumerate(zip(held, cells, strict=True)) if a != b)
            found = tuple(held[index].index(c) for c in cells[index])
            yield f"priors of a cell stand as {found} in map {index}", _cells(cells)
    for one in ANCHOR_ORDERS:
        if any(len(m.cells) == len(one) for m in net.config.priors):
            for to in dict.fromkeys((one, tuple(one.index(i) for i in range(len(one))))):
                yield f"priors of a cell stand as {to}", _priors(lambda m, o=to: _ordered(m, o))  # type: ignore[misc]
    for shift in (1, -1):
        text = f"priors of a cell are shifted by {-shift:+d}"
        yield text, _priors(lambda m, s=shift: replace(m, cells=(*m.cells[-s:], *m.cells[:-s])))  # type: ignore[misc]
    yield "width and height are exchanged", _priors(lambda m: replace(m, cells=tuple((h, w) for w, h in m.cells)))


def _ordered(entry: PriorMap, to: tuple[int, ...]) -> PriorMap:
    return replace(entry, cells=tuple(entry.cells[i] for i in to)) if len(entry.cells) == len(to) else entry


def steps(net: Net, truth: SSDConfig | None) -> Changes:
    """Centres: the truth's steps, image over grid, or centres at the corner of a cell."""
    height, width = net.config.pixels.size
    if truth is not None and len(truth.priors) == len(net.config.priors):
        told = [m.step for m in truth.priors]
        if told != [m.step for m in net.config.priors]:
            maps = tuple(replace(m, step=s) for m, s in zip(net.config.priors, told, strict=True))
            yield f"steps {_first(net.config.priors)} instead of {_first(truth.priors)}", _table(maps)
    even = tuple(replace(m, step=(height / m.grid[0], width / m.grid[1])) for m in net.config.priors)
    if even != net.config.priors:
        yield "steps given instead of image over grid", _table(even)
    for value in (0.5, 0.0):
        if any(m.offsets != (value, value) for m in net.config.priors):
            yield f"centres not at {value:g} of a cell", _priors(lambda m, v=value: replace(m, offset=v))  # type: ignore[misc]


def _first(maps: Sequence[PriorMap]) -> str:
    return ", ".join(f"{m.step[0]:g}" for m in maps[:4]) + " …"


def variances(net: Net, truth: SSDConfig | None) -> Changes:
    """Variances applied twice, not at all, doubled or halved."""
    told = list(dict.fromkeys(m.variances for m in truth.priors)) if truth is not None else []
    known: list[Four] = [*told, STANDARD, (1.0, 1.0, 1.0, 1.0), (0.01, 0.01, 0.04, 0.04)]
    own = {m.variances for m in net.config.priors}
    for value in dict.fromkeys(known):
        if own != {value}:
            text = f"{_text(next(iter(own), value))} instead of {_text(value)}"
            yield text, _priors(lambda m, v=value: replace(m, variances=v))  # type: ignore[misc]
    encoded = net.config.detect.variance_encoded
    text = "taken as part of loc already" if encoded else "applied though they are part of loc already"
    yield text, _rule(variance_encoded=not encoded)


def _text(values: Four) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"


def background(net: Net, truth: SSDConfig | None) -> Changes:
    """Another class, or none, is background."""
    own = net.config.detect.background
    told = [truth.detect.background] if truth is not None else []
    for value in dict.fromkeys([*told, 0, net.config.num_classes - 1, None]):
        if value != own:
            yield f"class {own} instead of {value}", _rule(background=value)


OF_OTHERS = {"activation", "background", "variance_encoded"}
KNOWN: dict[str, tuple[Any, ...]] = {
    "score_threshold": (0.01, 0.25, 0.6, 0.05),
    "nms_threshold": (0.45, 0.5),
    "top_k": (400, 200, 100, -1),
    "top_k_scope": ("class", "image"),
    "keep_top_k": (200, 100, -1),
    "clip": ("none", "before_nms", "after"),
    "min_size": (0.0, 0.03),
    "code": ("center_size", "corner"),
}


def rule(net: Net, truth: SSDConfig | None) -> Changes:
    """One number of the detection rule: the truth's where it is known, then what other sources have."""
    own = net.config.detect
    for field in fields(own):
        if field.name in OF_OTHERS:
            continue
        held = getattr(own, field.name)
        told = [getattr(truth.detect, field.name)] if truth is not None else list(KNOWN.get(field.name, ()))
        for value in dict.fromkeys(told):
            if value != held:
                yield f"{field.name} {held} instead of {value}", _rule(**{field.name: value})
