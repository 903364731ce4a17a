"""Which GluonCV network a .params file holds, by its names, shapes and anchors.

``get_ssd`` takes any sizes, ratios, steps and input; the file keeps one table of anchors per map, in pixels of the input, over more cells
than the map has. Sides, steps and offsets stand in the tables; a map's number of cells follows from the layers once the input is known, and
that follows from the steps: GluonCV's last map has few cells, and its step times their number is the input's side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from ssdconv.converters.assumed import plain, size_of
from ssdconv.converters.gluon.mapping import (
    anchor_names,
    anchors,
    plain_names,
    resolve,
    rows_of,
    spacing,
    without_counters,
)
from ssdconv.converters.tensors import Array, TensorTable
from ssdconv.errors import MappingError
from ssdconv.ssd_ref.config import PriorMap, SSDConfig
from ssdconv.ssd_ref.evidence import Claim
from ssdconv.ssd_ref.networks.gluon import DESIGNS, gluon

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
    sides = ", ".join(plain((entry.box_sizes[0][0],)) for entry in priors)
    stated = Claim(
        "priors", "stated", f"the file's own anchors, of sides {sides} … and steps {plain([m.step[0] for m in priors])}"
    )
    return replace(config, priors=priors, pixels=replace(config.pixels, size=size)), (stated, claim)


def _map_of(entry: PriorMap, table: Array, index: int, where: str) -> PriorMap:
    """One map's steps, offset and sides; its grid is not known yet."""
    cells, rest = divmod(table.shape[-1] if table.ndim == 5 else 0, 4)
    if rest or cells != len(entry.box_sizes) or table.shape[:2] != (1, 1) or min(table.shape[2:4]) < 2:
        raise MappingError(
            f"the anchors of map {index} are not those of its heads", where=where,
            expected=f"(1, 1, rows, columns, {4 * len(entry.box_sizes)})", got=table.shape,
        )  # fmt: skip
    values = table.astype(np.float64).reshape(*table.shape[2:4], cells, 4)
    step, offset = spacing(values)
    if not all(part > 0 for part in step) or offset[0] != offset[1]:
        raise MappingError(
            f"the anchors of map {index} are no even grid", where=where, got=f"step {step}, offset {offset}"
        )
    sides = tuple((float(w), float(h)) for w, h in values[0, 0, :, 2:])
    return replace(entry, step=step, offset=offset[0], box_sizes=sides)


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


Shape = tuple[int, ...]


@dataclass(frozen=True)
class Fit:
    """How well a file fits a named network.

    Attributes:
        name: the network.
        found: of the network's tensors, how many the file has with their shapes.
        wanted: how many tensors the network has, anchors apart.
        left: tensors of the file that the network has no place for.
        anchors: its anchors are the network's (or the file has none); False unless all tensors fit.
    """

    name: str
    found: int
    wanted: int
    left: int
    anchors: bool

    @property
    def whole(self) -> bool:
        """All tensors fit and none is left; anchors apart."""
        return self.found == self.wanted and not self.left

    def __str__(self) -> str:
        return f"{self.name} ({self.found} of {self.wanted} tensors fit, {self.left} left over)"


@cache
def reference(config_json: str) -> tuple[dict[str, Shape], frozenset[str]]:
    """Names and shapes of a network's tensors, and paths of its modules; allocates no tensor."""
    import torch

    from ssdconv.ssd_ref.model import SSD

    with torch.device("meta"):
        model = SSD(SSDConfig.from_json(config_json))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return shapes, frozenset(name for name, _ in model.named_modules())


def reference_shapes(config: SSDConfig) -> dict[str, Shape]:
    """Names and shapes of a network's tensors."""
    return reference(config.to_json())[0]


def class_count(table: TensorTable, config: SSDConfig) -> int | None:
    """Conf channels per prior that the file's first class predictor has, background included; None without one."""
    wanted = [r.name for r in rows_of(config) if r.target == "heads.conf.0.bias"]
    name = resolve(table, wanted)[wanted[0].structural]
    cells = len(config.priors[0].box_sizes)
    if name not in table or len(table[name].shape) != 1 or table[name].shape[0] % cells:
        return None
    return table[name].shape[0] // cells or None


def fit(table: TensorTable, name: str) -> Fit:
    """How well the file fits one named network, at the file's own class count."""
    config = gluon(name)
    config = gluon(name, class_count(table, config))
    shapes = reference_shapes(config)
    rows = [row for row in rows_of(config) if row.target in shapes]
    stored = anchor_names(config)
    names = resolve(table, [row.name for row in rows] + stored)
    found = 0
    for row in rows:
        theirs = names[row.name.structural]
        shape = shapes[row.target]
        found += theirs in table and table[theirs].shape in (shape, (1, *shape, 1, 1))
    left = len(set(table) - set(names.values()))
    stored = [a for a in stored if names[a.structural] in table]
    same = not stored
    if found == len(rows) and not left:
        tables = dict(zip((a.structural for a in anchor_names(config)), anchors(config), strict=True))
        same = all(_equal(table, names[a.structural], tables[a.structural]) for a in stored)
    return Fit(name, found, len(rows), left, same)


def _equal(table: TensorTable, name: str, expected: Array) -> bool:
    tensor = table[name]
    if tuple(tensor.shape) != expected.shape or tensor.dtype.kind != "f":
        return False
    return tensor.load().tobytes() == expected.astype(tensor.dtype).tobytes()


def recognise(table: TensorTable, num_classes: int | None = None) -> tuple[SSDConfig, tuple[str, ...]]:
    """The network of a file, and what the user should know about the choice.

    Networks that differ in nothing but their name (VOC and COCO versions of one design) are told apart by the class count.

    Raises:
        MappingError: no named network fits; the message names the one that comes nearest.
    """
    whole = [f for f in (fit(table, name) for name in plausible(table)) if f.whole]
    where = str(table.path)
    if not whole:
        best = nearest(table)
        raise MappingError(
            "not a network of GluonCV's that is known here",
            where=where,
            got=f"nearest is {best}",
            hint="`--network NAME` tells what differs; a classification network is converted with `--backbone NAME`",
        )
    chosen = [f for f in whole if f.anchors]
    chosen = chosen or whole[:1]  # the file's own anchors: see ``stored_geometry``
    count = num_classes or class_count(table, gluon(chosen[0].name))
    exact = [f for f in chosen if gluon(f.name).num_classes == count]
    config = gluon((exact or chosen)[0].name, count)
    warnings: tuple[str, ...] = ()
    if not exact:
        others = f", as {', '.join(f.name for f in chosen[1:])} would be" if len(chosen) > 1 else ""
        taken = f"{count} classes with background: taken for {config.name} with other classes{others}"
        warnings += (f"{taken}; the file does not tell their names",)
    if not any(name.endswith(".anchors") or "_anchor_" in name for name in table):
        warnings += ("the file holds no anchors, so the prior sizes are those of the name alone",)
    return config, warnings


def stored_geometry(
    table: TensorTable, config: SSDConfig, settings: Mapping[str, str]
) -> tuple[SSDConfig, tuple[Claim, ...]]:
    """The network with the priors of the file's own anchors, where these are not the published ones; and who says so.

    Raises:
        MappingError: anchors that are no regular grid.
        UsageError: a size that is none.
    """
    if not fit(table, config.name).whole:
        return config, ()  # the check of the mapping tells what does not fit
    names = anchor_names(config)
    found = resolve(table, [row.name for row in rows_of(config)] + names)
    stored = [found[name.structural] for name in names]
    title = config.name
    if not all(name in table for name in stored):
        text = f"prior sizes, steps and input of GluonCV's {title}: the file holds no anchors"
        return config, (Claim("priors", "assumed", text),)
    if "input.size" not in settings and all(
        _equal(table, name, expected) for name, expected in zip(stored, anchors(config), strict=True)
    ):
        size = f"{config.pixels.size[1]}x{config.pixels.size[0]}"
        return config, (
            Claim("priors", "stated", f"the file's own anchors, to the last bit those of GluonCV's {title}"),
            Claim("pixels", "rebuilt", f"input {size} and pixels of GluonCV's {title}", "input.size", size),
        )
    return from_tables(config, [table[name].load() for name in stored], settings, str(table.path))


def plausible(table: TensorTable) -> list[str]:
    """Named networks whose first layer is in the file."""
    names = plain_names(table)
    found = []
    for name in DESIGNS:
        first = rows_of(gluon(name))[0].name
        if not names.isdisjoint((without_counters(first.structural), without_counters(first.legacy))):
            found.append(name)
    return found


def nearest(table: TensorTable) -> Fit:
    """The named network with the fewest tensors out of place."""
    return min((fit(table, name) for name in DESIGNS), key=lambda f: (f.wanted - f.found) + f.left)
