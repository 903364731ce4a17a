"""A GluonCV network's input and priors from the anchors that its file stores.

``get_ssd`` takes any sizes, ratios, steps and input; the file keeps one table of anchors per map, in pixels of the input, over more cells
than the map has. Sides, steps and offsets stand in the tables; a map's number of cells follows from the layers once the input is known, and
that follows from the steps: GluonCV's last map has few cells, and its step times their number is the input's side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ssdconv.converters.assumed import plain, size_of
from ssdconv.converters.tensors import Array
from ssdconv.errors import MappingError
from ssdconv.ssd_ref.config import PriorMap, SSDConfig
from ssdconv.ssd_ref.evidence import Claim

Size = tuple[int, int]


def from_tables(
    config: SSDConfig, tables: Sequence[Array], settings: Mapping[str, str], where: str
) -> tuple[SSDConfig, tuple[Claim, ...]]:
    """The network with the priors that the file's tables hold, and the input that goes with them.

    Args:
        config: the network of these tensors, with its published priors.
        tables: (1, 1, A, A', 4 * cells) per map: cx, cy, w, h in pixels.
        settings: ``input.size`` where the steps do not tell it.
        where: the file, for messages.

    Raises:
        MappingError: the tables are no regular grids, of other cells than the heads have, or too small for the input.
    """
    maps = [
        _map_of(entry, table, index, where)
        for index, (entry, table) in enumerate(zip(config.priors, tables, strict=True))
    ]
    key = "input.size"
    if key in settings:
        size, claim = size_of(key, settings[key]), Claim("pixels", "user", f"input {settings[key]}", key, settings[key])
    else:
        size, claim = _size_of(config, maps)
    grids = grids_at(config, size)
    for grid, table in zip(grids, tables, strict=True):
        if grid[0] > table.shape[2] or grid[1] > table.shape[3]:
            raise MappingError(
                "the stored anchors are too few for this input", where=where, expected=grid, got=table.shape
            )
    priors = tuple(replace(entry, grid=grid) for entry, grid in zip(maps, grids, strict=True))
    sides = ", ".join(plain((entry.cells[0][0],)) for entry in priors)
    stated = Claim(
        "priors", "stated", f"the file's own anchors, of sides {sides} … and steps {plain([m.step[0] for m in priors])}"
    )
    return replace(config, priors=priors, pixels=replace(config.pixels, size=size)), (stated, claim)


def _map_of(entry: PriorMap, table: Array, index: int, where: str) -> PriorMap:
    """One map's steps, offset and sides; its grid is not known yet."""
    cells, rest = divmod(table.shape[-1] if table.ndim == 5 else 0, 4)
    if rest or cells != len(entry.cells) or table.shape[:2] != (1, 1) or min(table.shape[2:4]) < 2:
        raise MappingError(
            f"the anchors of map {index} are not those of its heads", where=where,
            expected=f"(1, 1, rows, columns, {4 * len(entry.cells)})", got=table.shape,
        )  # fmt: skip
    values = table.astype(np.float64).reshape(*table.shape[2:4], cells, 4)
    first, last = values[0, 0, 0, :2], values[-1, -1, 0, :2]
    step = (last - first) / (np.array(table.shape[3:1:-1]) - 1)
    step = np.where(np.abs(step - np.rint(step)) < 1e-3, np.rint(step), step)
    offset = [round(float(part), 5) for part in first / np.where(step > 0, step, 1)]
    if not (step > 0).all() or offset[0] != offset[1]:
        raise MappingError(
            f"the anchors of map {index} are no even grid", where=where, got=f"step {step}, offset {offset}"
        )
    sides = tuple((float(w), float(h)) for w, h in values[0, 0, :, 2:])
    return replace(entry, step=(float(step[1]), float(step[0])), offset=offset[0], cells=sides)


def _size_of(config: SSDConfig, maps: Sequence[PriorMap]) -> tuple[Size, Claim]:
    """The input whose last map has as many cells as its step says; else that of the published network."""
    usual = config.pixels.size
    for count in range(1, 5):
        size = (round(maps[-1].step[0] * count), round(maps[-1].step[1] * count))
        if max(size) <= 2_048 and grids_at(config, size)[-1] == (count, count):
            text = f"input {size[1]}x{size[0]}: the last map's step times its {count} cells"
            return size, Claim("pixels", "stated", text, "input.size", f"{size[1]}x{size[0]}")
    text = f"input {usual[1]}x{usual[0]}, as of {config.name}: the stored steps do not tell it"
    return usual, Claim("pixels", "assumed", text, "input.size", f"{usual[1]}x{usual[0]}")


def grids_at(config: SSDConfig, size: Size) -> tuple[Size, ...]:
    """Rows and columns of the heads' outputs for an input; (0, 0) for each where the input is too small. Allocates no tensor."""
    import torch

    from ssdconv.ssd_ref.model import SSD

    with torch.device("meta"):
        model = SSD(config).eval()
        pixels: Any = torch.empty(1, 3, *size)
    try:
        maps = model.features(pixels)
        found = [head(x).shape[2:] for head, x in zip(model.heads.loc, maps, strict=True)]
    except RuntimeError:
        return tuple((0, 0) for _ in config.priors)
    return tuple((int(rows), int(columns)) for rows, columns in found)
