"""What weight files without a graph leave open, settled: by the user (``--set KEY=VALUE``), else by the project's code of a known date.

Tensors tell a network's layers and channels. They do not tell how its convolutions are padded, how large its input is, what is
subtracted from a pixel, nor any size of a prior box. Each such thing becomes one ``Claim`` with its key, so that nothing of it is taken
silently: ``settle`` turns the project's usual network into the file's and says what it took.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.backbones.plain import can_tell, grids_of
from ssdconv.ssd_ref.config import PriorMap, SSDConfig, Staged
from ssdconv.ssd_ref.evidence import Claim, Link

Maps = tuple[PriorMap, ...]
Ratios = tuple[tuple[float, ...], ...]
Edit = Callable[[Staged], Staged]


@dataclass(frozen=True)
class Reading:
    """Something about the layers that code of one date does in one way and code of another date in another.

    Attributes:
        key: the setting ("heads.padding").
        taken: the reading of the project's usual network.
        values: reading -> (what it is, in words; what it does to the layers).
    """

    key: str
    taken: str
    values: Mapping[str, tuple[str, Edit]]


@dataclass(frozen=True)
class Project:
    """What is known of a project's code where its weight files are silent.

    Attributes:
        title: the project and what of its code the usual network is ("ssd_keras since 2018-01-30").
        scales: by name ("voc"; "" for a nameless one): sides of each map's square and the last one's larger neighbour, as
            fractions of the input's shorter side.
        scale: name of the usual network's scales.
        ratios: width / height of a cell's boxes behind the squares, per map, in the reference's order.
        extra: sides of a map's second square, where it is no mean of its neighbours; fractions.
        readings: of the layers.
        means: further means of the project's history, as they would be given to ``pixels.mean``.
        means_note: what these are.
        clip: the other reading of ``priors.clip`` that the project has had ("pixels"); "" where it has one only.
        order_told: why the channel order is no assumption (the user's word, another file's); "" where it is one.
        notes: sentences on one key each.
    """

    title: str
    scales: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    scale: str = ""
    ratios: Ratios = ()
    extra: tuple[float, ...] = ()
    readings: tuple[Reading, ...] = ()
    means: tuple[str, ...] = ()
    means_note: str = ""
    clip: str = ""
    order_told: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)


def settle(config: SSDConfig, settings: Mapping[str, str], project: Project) -> tuple[SSDConfig, tuple[Claim, ...]]:
    """The file's network, from the project's usual one and the user's settings; and who said what.

    Args:
        config: the project's usual network, in the class count and width of the file.
        settings: ``Request.settings``; keys that are not known here are left to ``Plan.check_settings``.
        project: see there.

    Raises:
        UsageError: a setting's value is none that the key can have.
    """
    book = _Book(project, settings)
    after = _pixels(book, _layers(book, config), config)
    after = _priors(book, after, config)
    return _rule(book, after), tuple(book.claims)


class _Book:
    """The claims so far."""

    def __init__(self, project: Project, settings: Mapping[str, str]) -> None:
        self.project = project
        self.settings = settings
        self.claims: list[Claim] = []

    def take(
        self, link: Link, key: str, usual: str, text: str, others: Sequence[str] = (), effect: str = ""
    ) -> str | None:
        """The user's value for a key, None where there is none; either way it is noted."""
        given = self.settings.get(key)
        note = self.project.notes.get(key, "")
        if given is None:
            said = f"{text}, as in {self.project.title}" + (f" ({note})" if note else "")
            self.claims.append(Claim(link, "assumed", said, key, usual, tuple(o for o in others if o != usual), effect))
            return None
        rest = tuple(o for o in (usual, *others) if o != given)
        self.claims.append(Claim(link, "user", f"{key} is {given} ({self.project.title}: {usual})", key, given, rest))
        return given

    def told(self, link: Link, basis: Literal["stated", "user"], text: str, key: str = "", value: str = "") -> None:
        self.claims.append(Claim(link, basis, text, key, value))


def _layers(book: _Book, config: SSDConfig) -> SSDConfig:
    staged = config.layers
    assert isinstance(staged, Staged)
    book.claims.append(
        Claim(
            "architecture", "assumed", f"what shapes do not tell (strides, eps, activations) is {book.project.title}'s"
        )
    )
    for reading in book.project.readings:
        others = tuple(value for value in reading.values if value != reading.taken)
        effect = "; ".join(f"{o}: {_change(config, reading.values[o][1])}" for o in others)
        words, _ = reading.values[reading.taken]
        given = book.take("architecture", reading.key, reading.taken, words, others, effect)
        if given is not None:
            staged = reading.values[one_of(reading.key, given, tuple(reading.values))][1](staged)
    return replace(config, layers=staged)


def _change(config: SSDConfig, edit: Edit) -> str:
    """What a reading of the layers does to the number of priors."""
    if not can_tell(config.layers):
        return "other layers"
    count = sum(
        rows * columns * len(m.box_sizes)
        for (rows, columns), m in zip(grids_of(edit(config.layers), config.pixels.size), config.priors, strict=True)
    )
    return "the same priors, other values" if count == config.num_priors else f"{count} priors, not {config.num_priors}"


def _pixels(book: _Book, config: SSDConfig, usual: SSDConfig) -> SSDConfig:
    pixels = config.pixels
    height, width = pixels.size
    key = "input.size"
    if can_tell(config.layers):
        text = f"input {width}x{height} (width x height)"
        given = book.take("pixels", key, f"{width}x{height}", text, effect="another size moves and resizes every prior")
        if given is not None:
            pixels = replace(pixels, size=size_of(key, given))
    else:
        book.claims.append(Claim("pixels", "assumed", f"input {width}x{height}, as in {book.project.title}"))
    if book.project.order_told:
        book.told(
            "pixels", "user", f"channel order {pixels.order}: {book.project.order_told}", "pixels.order", pixels.order
        )
    else:
        other = "RGB" if pixels.order == "BGR" else "BGR"
        effect = f"{other}: the first layer would read red as blue"
        given = book.take(
            "pixels", "pixels.order", pixels.order, f"the first layer reads {pixels.order}", (other,), effect
        )
        if given is not None:
            chosen: Any = one_of("pixels.order", given, ("RGB", "BGR"))
            if chosen != pixels.order:
                mean, std = pixels.mean, pixels.std
                pixels = replace(pixels, mean=(mean[2], mean[1], mean[0]), std=(std[2], std[1], std[0]), order=chosen)
    shown = plain(tuple(m * pixels.unit for m in pixels.mean))
    text = f"mean {shown} subtracted ({pixels.order} order, of 0..255)"
    note = f"; {book.project.means_note}" if book.project.means_note else ""
    given = book.take(
        "pixels", "pixels.mean", shown, text, (*book.project.means, "none"), "every layer's values" + note
    )
    if given is not None:
        values = (0.0,) if given == "none" else numbers("pixels.mean", given, low=-1024.0, counts=(1, 3))
        pixels = replace(pixels, mean=_three(tuple(v / pixels.unit for v in values)))
    deviation = plain(tuple(s * pixels.unit for s in pixels.std))
    text = f"pixels divided by {deviation}" if deviation != "1" else "pixels not divided"
    given = book.take("pixels", "pixels.std", deviation, text, effect="every layer's values")
    if given is not None:
        values = (1.0,) if given == "none" else numbers("pixels.std", given, low=1e-6, counts=(1, 3))
        pixels = replace(pixels, std=_three(tuple(v / pixels.unit for v in values)))
    return replace(config, pixels=pixels)


def _priors(book: _Book, config: SSDConfig, usual: SSDConfig) -> SSDConfig:
    size, maps, project = config.pixels.size, config.priors, book.project
    grids = tuple(m.grid for m in maps)
    if can_tell(config.layers):
        grids = grids_of(config.layers, size)
    maps = tuple(
        replace(m, grid=grid, step=quotients(size, grid) if _is_even(m, usual.pixels.size) else m.step)
        for m, grid in zip(maps, grids, strict=True)
    )
    maps = _sides(book, maps, size, resized=size != usual.pixels.size)
    maps = _centres(book, maps, size)
    if project.clip:
        text = "priors not clipped to the image"
        effect = f"{project.clip}: priors at the edges are cut"
        given = book.take("priors", "priors.clip", "none", text, (project.clip,), effect)
        if given is not None:
            chosen: Any = one_of("priors.clip", given, ("none", project.clip))
            maps = tuple(replace(m, clip=chosen) for m in maps)
    variances = plain(maps[0].variances)
    text = f"box regressions times variances {variances}"
    given = book.take("priors", "priors.variances", variances, text, effect="boxes move and grow by other factors")
    if given is not None:
        four: Any = numbers("priors.variances", given, counts=(4,))
        maps = tuple(replace(m, variances=four) for m in maps)
    return replace(config, priors=maps)


def _sides(book: _Book, maps: Maps, size: tuple[int, int], *, resized: bool) -> Maps:
    """The maps with their boxes' sides, from the scales."""
    project = book.project
    if not project.ratios:
        book.claims.append(Claim("priors", "assumed", f"sizes of {project.title}"))
        return maps
    own = project.scales[project.scale]
    named = [name for name in project.scales if name]
    usual, others = project.scale or plain(own), [name for name in named if name != project.scale]
    text = f"prior sizes of the scales {plain(own)}" + (f" ({project.scale}'s)" if project.scale else "")
    base = rebuilt(maps, project, own, size) if resized else maps
    changes = {name: moved(base, rebuilt(maps, project, project.scales[name], size)) for name in others}
    effect = "; ".join(
        f"{name}: corners of priors move by up to {pixels:.3g} pixels" for name, pixels in changes.items()
    )
    given = book.take("priors", "priors.scales", usual, text, others, effect or "every prior's size")
    if given is None or given == project.scale != "":
        return base
    if given in named:
        return rebuilt(maps, project, project.scales[given], size)
    count = len(maps) + (0 if project.extra else 1)
    return rebuilt(maps, project, numbers("priors.scales", given, counts=(count,), words=named), size)


def _centres(book: _Book, maps: Maps, size: tuple[int, int]) -> Maps:
    """The maps with their boxes' centres, from steps and offset."""
    even = tuple(replace(m, step=quotients(size, m.grid)) for m in maps)
    usual = "even" if all(_is_even(m, size) for m in maps) else plain(tuple(m.step[0] for m in maps))
    text = "centres even, a cell being input / map" if usual == "even" else f"centres {usual} pixels apart"
    effect = "" if usual == "even" else f"even: corners of priors move by up to {moved(maps, even):.3g} pixels"
    given = book.take("priors", "priors.steps", usual, text, ("even",), effect or "every prior's place")
    if given == "even":
        maps = even
    elif given is not None:
        steps = numbers("priors.steps", given, counts=(len(maps),), words=("even",))
        maps = tuple(replace(m, step=(step, step)) for m, step in zip(maps, steps, strict=True))
    offset = plain(maps[0].offsets[:1])
    given = book.take("priors", "priors.offset", offset, f"first centre {offset} of a cell from the edge")
    if given is not None:
        (value,) = numbers("priors.offset", given, counts=(1,), low=-8.0)
        maps = tuple(replace(m, offset=value) for m in maps)
    return maps


def rebuilt(maps: Maps, project: Project, scales: Sequence[float], size: tuple[int, int]) -> Maps:
    """The maps with sides of other scales: square, square of the geometric mean with the next (or ``extra``), ratios."""
    short = min(size)
    found = []
    for index, (entry, ratios) in enumerate(zip(maps, project.ratios, strict=True)):
        side = short * scales[index]
        second = short * project.extra[index] if project.extra else math.sqrt(side * short * scales[index + 1])
        shaped = [(side * math.sqrt(ratio), side / math.sqrt(ratio)) for ratio in ratios]
        squares = [(side, side), (second, second)]
        found.append(replace(entry, box_sizes=(*squares, *shaped)[-len(entry.box_sizes) :]))
    return tuple(found)


def flipped(ratios: Ratios) -> Ratios:
    """Each ratio followed by its inverse."""
    return tuple(tuple(value for ratio in each for value in (ratio, 1 / ratio)) for each in ratios)


def moved(maps: Maps, others: Maps) -> float:
    """Largest distance in pixels between corners of priors of two layouts on the same grids."""
    worst = 0.0
    for entry, other in zip(maps, others, strict=True):
        for axis in (0, 1):
            ends = (0, entry.grid[axis] - 1)
            centres = max(abs(_centre(entry, axis, k) - _centre(other, axis, k)) for k in ends)
            sides = max(abs(a[1 - axis] - b[1 - axis]) for a, b in zip(entry.box_sizes, other.box_sizes, strict=True))
            worst = max(worst, centres + sides / 2)
    return worst


def _centre(entry: PriorMap, axis: int, index: int) -> float:
    return (index + entry.offsets[axis]) * entry.step[axis]


def quotients(size: tuple[int, int], grid: tuple[int, int]) -> tuple[float, float]:
    """Step (y, x) in pixels of centres that divide the input evenly."""
    return size[0] / grid[0], size[1] / grid[1]


def _is_even(entry: PriorMap, size: tuple[int, int]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(entry.step, quotients(size, entry.grid), strict=True))


RULE_KEYS: Mapping[str, tuple[str, str]] = {
    "detect.score_threshold": ("score_threshold", "scores above {}"),
    "detect.nms_threshold": ("nms_threshold", "boxes dropped above an overlap of {}"),
    "detect.top_k": ("top_k", "{} candidates per class before non-maximum suppression"),
    "detect.max_per_class": ("max_per_class", "{} boxes per class"),
    "detect.keep_top_k": ("keep_top_k", "{} boxes per image"),
}
"""Setting -> field of the rule, and what it says; counts may be "all"."""


def _rule(book: _Book, config: SSDConfig) -> SSDConfig:
    rule = config.detect
    for key, (name, words) in RULE_KEYS.items():
        value = getattr(rule, name)
        count = isinstance(value, int)
        usual = "all" if count and value < 0 else plain((value,))
        given = book.take("detection rule", key, usual, words.format(usual))
        if given is None:
            continue
        changed: dict[str, Any] = {}
        if count:
            changed[name] = -1 if given == "all" else int(numbers(key, given, counts=(1,), words=("all",), low=1.0)[0])
        else:
            (changed[name],) = numbers(key, given, counts=(1,))
        rule = replace(rule, **changed)
    return replace(config, detect=rule)


def plain(values: Sequence[float]) -> str:
    """Numbers as ``--set`` takes them; one number where all are equal and there are three (channels)."""
    if len(values) == 3 and len(set(values)) == 1:
        values = values[:1]
    return ",".join(f"{value:.6g}" for value in values)


def one_of(key: str, given: str, words: Sequence[str]) -> str:
    """The word of ``words`` that was given, in any case.

    Raises:
        UsageError: it is none of them.
    """
    for word in words:
        if given.lower() == word.lower():
            return word
    raise UsageError(f"--set {key}={given}: no such value", expected=" or ".join(words))


def numbers(
    key: str, given: str, *, counts: Sequence[int], low: float = 0.0, words: Sequence[str] = ()
) -> tuple[float, ...]:
    """A list of numbers that was given, each at least ``low``.

    Raises:
        UsageError: something else was given; ``words`` are told as what else may be.
    """
    try:
        values = tuple(float(part) for part in given.split(","))
    except ValueError:
        values = ()
    if len(values) not in counts or not all(low <= value < 1e6 for value in values):
        many = " or ".join(str(count) for count in counts)
        wanted = f"{many} number{'' if counts[-1] == 1 else 's with commas between'}, from {low:g} on"
        raise UsageError(f"--set {key}={given}: not understood", expected=" or ".join((*words, wanted)))
    return values


def size_of(key: str, given: str) -> tuple[int, int]:
    """WIDTHxHEIGHT as (height, width).

    Raises:
        UsageError: not such a size.
    """
    match = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", given)
    if match is None or not all(int(side) for side in match.groups()):
        raise UsageError(f"--set {key}={given}: not understood", expected="WIDTHxHEIGHT in pixels, such as 480x300")
    return int(match[2]), int(match[1])


def _three(values: tuple[float, ...]) -> Any:
    return values if len(values) == 3 else values * 3
