"""ssd_keras' AnchorBoxes layers as prior maps: what the file states, and the readings of what it does not.

``get_config`` of the layer never wrote ``this_steps`` and ``this_offsets``. A model that is loaded from its file therefore has a step of
image over map and centres in the middle (``file``), whatever it was trained with. Before 30 January 2018 the layer divided as Python
does, so that under Python 2 the step was a whole number (``integer``). Boxes are scaled by the shorter side; clipping is done in pixels,
to the number of the last one. All in float64, as the project's NumPy code does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssdconv.converters.keras.model_config import LayerCall
from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.config import PriorMap
from ssdconv.ssd_ref.evidence import Claim
from ssdconv.ssd_ref.graph.params import Params

COORDS = ("centroids", "corners", "minmax")
PROJECT_STEPS = {
    ("conv4_3_norm_mbox_priorbox", 6): (8.0, 16.0, 32.0, 64.0, 100.0, 300.0),
    ("conv4_3_norm_mbox_priorbox", 7): (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0),
}
"""First AnchorBoxes layer and their number -> the steps that ``ssd_300`` and ``ssd_512`` take unless told otherwise."""
Pair = tuple[float, float]


@dataclass(frozen=True)
class AnchorLayer:
    """One AnchorBoxes layer as the file states it.

    Attributes:
        name: the layer's.
        image: input height and width in pixels, as the layer has them.
        grid: rows and columns of the map that it reads.
        cells: (width, height) in pixels of each box of a cell.
        clip: coordinates are clipped to the image, in pixels.
        variances: in the order of ``coords``.
        coords: how the boxes are written: centroids, corners or minmax (xmin, xmax, ymin, ymax).
        normalized: coordinates are fractions of the image.
    """

    name: str
    image: tuple[int, int]
    grid: tuple[int, int]
    cells: tuple[Pair, ...]
    clip: bool
    variances: tuple[float, float, float, float]
    coords: str
    normalized: bool

    def map(self, step: Pair, offset: Pair) -> PriorMap:
        """The prior map with these steps and offsets, (y, x)."""
        order = (0, 2, 1, 3) if self.coords == "minmax" else (0, 1, 2, 3)
        a, b, c, d = (self.variances[k] for k in order)
        return PriorMap(
            self.grid, step, self.cells, offset, "pixels" if self.clip else "none", (a, b, c, d), arithmetic="double"
        )


def read(call: LayerCall, shape: tuple[int, ...]) -> AnchorLayer:
    """One layer's parameters; ``shape`` is that of the map that it reads.

    Raises:
        FormatError: parameters are missing or out of range, or the map has channels for another number of boxes.
    """
    p = Params({k: v for k, v in call.config.items() if v is not None}, call.where)
    for name in ("img_height", "img_width", "this_scale", "next_scale", "aspect_ratios", "variances"):
        if name not in p:
            raise call.fail(f"{name} is missing")
    if len(shape) != 3:
        raise call.fail("reads no map", got=shape)
    height, width = p.integer("img_height", 0, low=1, high=1 << 20), p.integer("img_width", 0, low=1, high=1 << 20)
    scale, larger = p.number("this_scale", 0.0), p.number("next_scale", 0.0)
    ratios, variances = p.numbers("aspect_ratios"), p.numbers("variances")
    if not 0 < scale <= 1e3 or not 0 <= larger <= 1e3 or not ratios or any(not 0 < r < 1e6 for r in ratios):
        raise call.fail("scales and ratios must be positive", got=f"{scale}, {larger}, {ratios}")
    if len(variances) != 4 or min(variances) <= 0:
        raise call.fail("variances must be four positive numbers", got=variances)
    for name in ("this_steps", "this_offsets"):
        if p.data.get(name) is not None:
            raise call.fail(f"{name} in the file is not known of any version of the layer", got=p.data[name])
    side = min(height, width)
    cells: list[Pair] = []
    for ratio in ratios:
        cells.append((scale * side * math.sqrt(ratio), scale * side / math.sqrt(ratio)))
        if ratio == 1 and p.flag("two_boxes_for_ar1", True):
            middle = math.sqrt(scale * larger) * side
            cells.append((middle, middle))
    if shape[2] != 4 * len(cells):
        raise call.fail("the map has channels for another number of boxes", expected=4 * len(cells), got=shape[2])
    a, b, c, d = variances
    return AnchorLayer(
        call.name,
        (height, width),
        (shape[0], shape[1]),
        tuple(cells),
        p.flag("clip_boxes", p.flag("limit_boxes", False)),
        (a, b, c, d),
        p.choice("coords", "centroids", COORDS),
        p.flag("normalize_coords", False),
    )


def prior_maps(
    anchors: Sequence[AnchorLayer], settings: Mapping[str, str], python: int, edges: bool
) -> tuple[tuple[PriorMap, ...], tuple[Claim, ...]]:
    """The prior maps, and the claims about steps and offsets.

    Args:
        anchors: in the order in which they are joined.
        settings: of the user, "steps" and "offsets".
        python: the Python that wrote the file's byte code (2 or 3), 0 where it does not tell.
        edges: the layer is that of before January 2018, whose centres are spread between half a cell from both edges; with whole
            numbers for cells that is not the same.

    Raises:
        UsageError: a setting that cannot be read, or has another number of entries than there are maps.
    """
    usual = PROJECT_STEPS.get((anchors[0].name, len(anchors)))
    file, integer = _from_file(anchors), _integer(anchors, edges)
    taken = settings.get("steps")
    if taken is not None:
        why = "given"
    elif usual is not None:
        taken, why = ",".join(f"{s:g}" for s in usual), "the project's model builders take them unless told otherwise"
    elif python == 2 and file != integer:
        taken, why = (
            "integer",
            "the file's byte code is Python 2's, whose division gave whole numbers until January 2018",
        )
    else:
        taken, why = "file", "image over map, as the layer does when it is told no steps"
    readings = {"file": file, "integer": integer}
    grid = readings[taken] if taken in readings else _listed(taken, anchors)
    offsets = [offset for _, offset in grid]
    given = settings.get("offsets")
    if given is not None:
        offsets = pairs("offsets", given, len(anchors))
    maps = tuple(a.map(step, offset) for a, (step, _), offset in zip(anchors, grid, offsets, strict=True))
    others = {name: _maps(anchors, reading) for name, reading in readings.items() if name != taken}
    if usual is not None and taken in readings:
        text = ",".join(f"{s:g}" for s in usual)
        others[text] = _maps(anchors, _listed(text, anchors))
    effect = "; ".join(f"{name} would move priors by up to {_apart(maps, other, anchors[0].image):.4g} of the image" for name, other in others.items())  # fmt: skip
    outside = sum(_outside(m, a.image) for m, a in zip(maps, anchors, strict=True))
    if outside:
        effect += f"; {outside} cells have their centres outside the image"
    return maps, (
        Claim(
            "priors",
            "user" if "steps" in settings else "assumed",
            f"the file does not store steps: taken {taken} ({why})",
            "steps",
            taken,
            (*others, "8,16,…"),
            effect,
        ),
        Claim(
            "priors",
            "user" if given is not None else "assumed",
            f"the file does not store offsets: centres at {given or '0.5'} of a cell",
            "offsets",
            given or "0.5",
            ("0.5,0.4x0.6,…",),
            "a tenth more moves every centre by a tenth of a cell",
        ),
    )


Grid = list[tuple[Pair, Pair]]


def _from_file(anchors: Sequence[AnchorLayer]) -> Grid:
    return [((a.image[0] / a.grid[0], a.image[1] / a.grid[1]), (0.5, 0.5)) for a in anchors]


def _integer(anchors: Sequence[AnchorLayer], edges: bool) -> Grid:
    rows: Grid = []
    for a in anchors:
        axes = []
        for image, count in zip(a.image, a.grid, strict=True):
            cell = image // count
            if not edges:
                axes.append((float(cell), 0.5))
            elif count > 1:
                step = (image - 2 * (cell // 2)) / (count - 1)
                axes.append((step, (cell // 2) / step))
            else:
                axes.append((float(image), (cell // 2) / image))
        rows.append(((axes[0][0], axes[1][0]), (axes[0][1], axes[1][1])))
    return rows


def _maps(anchors: Sequence[AnchorLayer], grid: Grid) -> tuple[PriorMap, ...]:
    return tuple(a.map(step, offset) for a, (step, offset) in zip(anchors, grid, strict=True))


def _listed(text: str, anchors: Sequence[AnchorLayer]) -> Grid:
    return [(step, (0.5, 0.5)) for step in pairs("steps", text, len(anchors))]


def pairs(key: str, text: str, count: int) -> list[Pair]:
    """``8,17x15,32`` as pairs (8, 8), (17, 15), (32, 32); one entry counts for all maps."""
    parts = text.split(",")
    if len(parts) == 1:
        parts *= count
    try:
        pairs = [tuple(float(v) for v in part.split("x")) for part in parts]
    except ValueError:
        pairs = []
    if len(pairs) != count or any(len(p) > 2 or not all(-1e6 < v < 1e6 for v in p) for p in pairs):
        raise UsageError(
            f"--set {key}={text}: not {key} of {count} maps",
            expected=f"{'file, integer, or ' if key == 'steps' else ''}{count} numbers such as 8,16,32; HEIGHTxWIDTH where they differ",
        )
    return [(p[0], p[-1]) for p in pairs]


def _apart(one: Sequence[PriorMap], two: Sequence[PriorMap], image: tuple[int, int]) -> float:
    """Largest distance of two centres as a fraction of the image (clipping left aside): the first and last ones tell."""
    return max(
        abs((p.offsets[axis] + k) * p.step[axis] - (q.offsets[axis] + k) * q.step[axis]) / image[axis]
        for p, q in zip(one, two, strict=True)
        for axis in (0, 1)
        for k in (0, p.grid[axis] - 1)
    )


def _outside(entry: PriorMap, image: tuple[int, int]) -> int:
    inside = 1
    for step, offset, count, size in zip(entry.step, entry.offsets, entry.grid, image, strict=True):
        inside *= sum(0 <= (offset + k) * step <= size for k in range(count))
    return entry.grid[0] * entry.grid[1] - inside


def same_kind(anchors: Sequence[AnchorLayer]) -> tuple[str, bool, tuple[int, int]]:
    """(coords, normalized, image size), which all layers of a network must share.

    Raises:
        FormatError: they differ.
    """
    kinds: set[Any] = {(a.coords, a.normalized, a.image) for a in anchors}
    if len(kinds) != 1:
        raise FormatError("AnchorBoxes layers of one network differ in coords or image size", got=sorted(kinds))
    coords, normalized, image = kinds.pop()
    return coords, normalized, image
