"""A recipe's augmentation beside samples that the original code drew: the same distributions, and the same pixels for given colours.

The samples are files of ``golden/train`` (``aug_<source>.npz``, ``colour_<source>.npz``), described in the README there. Geometry,
objects, areas, pixels and the colour step are laid side by side feature by feature, each by a two-sample Kolmogorov-Smirnov test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ssdconv.ssd_ref.config import Preprocess
from ssdconv.ssd_ref.image_file import read_image
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.train.augment.draw import draw
from ssdconv.train.augment.photometric import apply_changes, draw_changes
from ssdconv.train.augment.render import fill_value, render_faithful
from ssdconv.train.augment.spec import AugmentSpec, CanvasPlace, ColourChange, CropWindow, Photometric
from ssdconv.train.recipes import RECIPES

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Features = dict[str, Floats]

LEAST_P = 1e-3
"""A feature agrees above this; of some 65 features one in fifteen runs has one below it by chance."""

_SIZE = 300
_COLOUR = (
    *(f"{what} {c}" for what in ("mean", "deviation") for c in "RGB"),
    *("least", "largest"),
    *(f"pixel {n} {c}" for n in (1, 2, 3) for c in "RGB"),
    *("saturation", "hue cosine", "hue sine", "unchanged"),
)


@dataclass(frozen=True)
class OriginalSamples:
    """Where one source's samples lie, and with which recipe and network to compare them.

    Attributes:
        recipe: name of ours.
        file: the samples are ``aug_<file>.npz`` and ``colour_<file>.npz``.
        network: whose mean fills canvases.
        interpolations: names of the numbers in the samples.
        tolerance: of exact colour cases that are floats.
    """

    recipe: str
    file: str
    network: str
    interpolations: tuple[str, ...] = ("linear",)
    tolerance: float = 0.0

    @property
    def spec(self) -> AugmentSpec:
        return RECIPES[self.recipe].augment


ORIGINALS: Mapping[str, OriginalSamples] = {
    o.recipe: o
    for o in (
        OriginalSamples("ssd.pytorch", "ssd_pytorch", "ssd_pytorch_ssd300_voc"),
        OriginalSamples("simple-ssd", "simple_ssd", "simple_ssd_ssd300_voc"),
        OriginalSamples("chainer", "chainercv", "ssd300_voc", ("linear", "area", "nearest", "cubic", "lanczos4")),
        OriginalSamples(
            "gluon",
            "gluoncv",
            "ssd_300_vgg16_atrous_voc",
            ("nearest", "linear", "cubic", "area", "lanczos4"),  # MXNet's numbers
            1e-3,
        ),
    )
}


def ks(one: Floats, other: Floats) -> float:
    """p of the two-sample Kolmogorov-Smirnov test, asymptotic with Stephens' correction; ties make it larger, never smaller."""
    if not len(one) or not len(other):
        return 1.0 if len(one) == len(other) else 0.0
    places = np.concatenate([one, other])
    ranks = [np.searchsorted(np.sort(sample), places, side="right") / len(sample) for sample in (one, other)]
    distance = float(np.abs(ranks[0] - ranks[1]).max())
    root = (len(one) * len(other) / (len(one) + len(other))) ** 0.5
    place = (root + 0.12 + 0.11 / root) * distance
    if place < 0.2:
        return 1.0
    k = np.arange(1, 101)
    return float(np.clip(2 * np.sum((-1.0) ** (k - 1) * np.exp(-2 * k**2 * place**2)), 0, 1))


def p_values(ours: Features, theirs: Features) -> dict[str, float]:
    """p of each feature that both have."""
    return {name: ks(ours[name], theirs[name]) for name in theirs if name in ours}


def original_features(golden: Path, original: OriginalSamples) -> Features:
    """All features of a source's samples."""
    with np.load(golden / f"aug_{original.file}.npz") as held:
        found: Features = {}
        for photo in ("000067", "000004"):
            size = _photo_size(golden, photo)
            first = original.spec.stages.index("crop") < original.spec.stages.index("expand")
            names = [original.interpolations[i] for i in held[f"{photo}/geo"][:, 11]]
            rows = held[f"{photo}/geo"].astype(np.float64)
            found |= _prefixed(photo, _geometry(rows, names, size, first))
            found |= _prefixed(photo, _objects(held[f"{photo}/kept"], held[f"{photo}/areas"]))
            found |= _prefixed(photo, _pixels(held[f"{photo}/pixels"]))
        colour = held["colour"].astype(np.float64)
    return found | _colours(colour)


def our_features(
    golden: Path,
    photos: Path,
    original: OriginalSamples,
    samples: int,
    seed: int = 1,
    spec: AugmentSpec | None = None,
    *,
    pixels: bool = True,
) -> Features:
    """The same features of our recipe.

    Args:
        golden: folder of the source's samples, for their boxes and patch.
        photos: folder of the two photos.
        original: which source.
        samples: of each photo and of the colour step.
        seed: of all of them.
        spec: another augmentation than the recipe's.
        pixels: whether samples are rendered too; without, geometry, objects and the colour step alone.
    """
    spec = spec or original.spec
    found: Features = {}
    with np.load(golden / f"aug_{original.file}.npz") as held:
        boxes = {photo: held[f"{photo}/boxes"].astype(np.float64) for photo in ("000067", "000004")}
        patch = held["patch"]
    for number, (photo, objects) in enumerate(boxes.items()):
        image = read_image(photos / f"{photo}.jpg")
        rng = np.random.default_rng((seed, number))
        found |= _prefixed(photo, _drawn(spec, image, objects, network(original.network).pixels, samples, rng, pixels))
    if spec.photometric is not None:
        rng = np.random.default_rng((seed, 2))
        rows = np.asarray([colour_row(patch, _changed(patch, spec.photometric, rng)) for _ in range(samples)])
        found |= _colours(rows)
    return found


def _drawn(
    spec: AugmentSpec,
    image: Bytes,
    boxes: Floats,
    pixels: Preprocess,
    samples: int,
    rng: np.random.Generator,
    rendered: bool,
) -> Features:
    size = image.shape[1], image.shape[0]
    fill = None if spec.expand is None else fill_value(pixels, spec.expand.fill)
    first = spec.stages.index("crop") < spec.stages.index("expand")
    rows, names = np.zeros((samples, 12)), []
    kept, areas = np.zeros(samples, np.int64), np.full((samples, len(boxes)), np.nan, np.float32)
    seen = np.zeros((samples, 6), np.float32)
    for n in range(samples):
        plan = draw(spec, size, boxes, rng)
        before = (plan.window.width, plan.window.height) if first and plan.window else size
        canvas = plan.place or CanvasPlace(0, 0, *before)
        window = plan.window or CropWindow(0, 0, *(size if first else (canvas.width, canvas.height)))
        rows[n, :5] = plan.place is not None, canvas.width, canvas.height, canvas.left, canvas.top
        rows[n, 5:11] = plan.window is not None, window.left, window.top, window.width, window.height, plan.flip
        names.append(plan.interpolation)
        kept[n] = sum(1 << int(k) for k in plan.index)
        sides = (plan.boxes[:, 2:] - plan.boxes[:, :2]).astype(np.float32)
        areas[n, plan.index] = sides.prod(axis=1)
        if rendered:
            out = render_faithful(image, plan, spec, (_SIZE, _SIZE), fill).reshape(-1, 3)[:, ::-1].astype(np.float32)
            seen[n] = *out.mean(0, dtype=np.float64), *out.std(0, dtype=np.float64)
    gone = ~(areas > 0)  # boxes without area are dropped by the sources, by us when they are matched
    kept &= ~np.sum(gone << np.arange(len(boxes)), axis=1)
    areas[gone] = np.nan
    found = _geometry(rows, names, size, first) | _objects(kept, areas)
    return found | _pixels(seen) if rendered else found


def _geometry(rows: Floats, names: Sequence[str], size: tuple[int, int], crop_first: bool) -> Features:
    """Eleven features of rows as ``geo`` of the samples has them."""
    expanded, cropped = rows[:, 0] > 0, rows[:, 5] > 0
    image = np.tile(np.asarray(size, np.float64), (len(rows), 1))
    inner = np.where(cropped[:, None], rows[:, 8:10], image) if crop_first else image
    outer = image if crop_first else rows[:, 1:3]
    free, room = rows[:, 1:3] - inner, outer - rows[:, 8:10]
    found = {
        "expanded": rows[:, 0],
        "expand ratio": (rows[:, 1] / inner[:, 0]),
        "cropped": rows[:, 5],
        "crop width": rows[:, 8] / outer[:, 0],
        "crop height": rows[:, 9] / outer[:, 1],
        "flipped": rows[:, 10],
        "interpolation": np.asarray([sum(name.encode()) for name in names], np.float64),
    }
    for axis, name in enumerate(("left", "top")):
        some = expanded & (free[:, axis] > 0)
        found[f"expand {name}"] = rows[some, 3 + axis] / free[some, axis]
        some = cropped & (room[:, axis] > 0)
        found[f"crop {name}"] = rows[some, 6 + axis] / room[some, axis]
    return found


def _objects(kept: npt.NDArray[np.integer], areas: npt.NDArray[np.floating]) -> Features:
    """Which objects stay, and the area of each that does."""
    found = {"kept": kept.astype(np.float64)}
    for k in range(areas.shape[1]):
        there = areas[~np.isnan(areas[:, k]), k].astype(np.float64)
        found[f"area {k}"] = np.round(np.log(there), 3)  # unchanged boxes are an atom, whose noise the test would see
    return found


def _pixels(rows: npt.NDArray[np.floating]) -> Features:
    return {f"pixels {name}": np.asarray(rows[:, i], np.float64).round(3) for i, name in enumerate(_COLOUR[:6])}


def _colours(rows: Floats) -> Features:
    """An unchanged mean or deviation is an atom, too."""
    return {f"colour {name}": np.round(rows[:, i], 3) for i, name in enumerate(_COLOUR)}


def _changed(image: Bytes, spec: Photometric, rng: np.random.Generator) -> npt.NDArray[np.generic]:
    return np.asarray(apply_changes(image, draw_changes(spec, rng), spec))


def colour_row(patch: Bytes, out: npt.NDArray[np.generic]) -> Floats:
    """The 21 features of a patch after the colour step."""
    x = out.astype(np.float64)
    rgb = x[..., ::-1].reshape(-1, 3)
    spots = [x[row, column, ::-1] for row, column in ((5, 5), (30, 40), (60, 20))]
    hsv = (
        cv2.cvtColor(np.clip(np.rint(x), 0, 255).astype(np.uint8), cv2.COLOR_BGR2HSV).reshape(-1, 3).astype(np.float64)
    )
    turn = hsv[:, 0] * (2 * np.pi / 180)
    row = [*rgb.mean(0), *rgb.std(0), x.min(), x.max(), *np.concatenate(spots), hsv[:, 1].mean()]
    weight = max(hsv[:, 1].sum(), 1e-9)
    row += [(hsv[:, 1] * np.cos(turn)).sum() / weight, (hsv[:, 1] * np.sin(turn)).sum() / weight]
    return np.asarray([*row, np.array_equal(x, patch)], np.float64).astype(np.float32).astype(np.float64)


@dataclass(frozen=True)
class ColourCases:
    """Exact cases of the colour step.

    Attributes:
        cases: how many there are.
        equal: all of whose pixels are the original's (floats: to the tolerance).
        one_level: which differ by one level in at most 0.2 % of the values: byte HSV of two versions of OpenCV does.
        largest: difference over all.
    """

    cases: int
    equal: int
    one_level: int
    largest: float


def colour_cases(golden: Path, original: OriginalSamples, spec: Photometric | None = None) -> ColourCases:
    """The colour step with given draws against what the original made of them."""
    rule = spec or original.spec.photometric
    assert rule is not None
    with np.load(golden / f"colour_{original.file}.npz") as held:
        image, cases, wanted = held["image"], held["cases"], held["out"]
    equal = one_level = 0
    largest = 0.0
    for row, theirs in zip(cases, wanted, strict=True):
        ours = apply_changes(image, case_changes(row, rule), rule)
        gap = np.abs(ours.astype(np.float64) - theirs)
        largest = max(largest, float(gap.max()))
        if gap.max() <= original.tolerance:
            equal += 1
        elif theirs.dtype == np.uint8 and gap.max() <= 1 and (gap > 0).mean() <= 0.002:
            one_level += 1
    return ColourCases(len(cases), equal, one_level, largest)


def case_changes(row: Floats, rule: Photometric) -> tuple[ColourChange, ...]:
    """The changes of an exact case, in the order in which the rule carries them out."""
    drawn = dict(zip(("brightness", "contrast", "saturation", "hue"), row[:8].reshape(4, 2), strict=True))
    order = rule.orders[0]
    if len(rule.orders) > 1:
        last = bool(row[8])
        order = next(o for o in rule.orders if (o.index("contrast") > o.index("saturation")) == last)
    always = rule.space == "hsv" and (rule.arithmetic == "float" or rule.visits == "once")
    changes: list[ColourChange] = []
    for kind in order:
        done, value = drawn[kind]
        if done:
            changes.append(ColourChange(kind, float(value)))  # type: ignore[arg-type]
        elif kind == "saturation" and always:
            changes.append(ColourChange("saturation", 1.0))
    if row[9] >= 0:
        from itertools import permutations

        changes.append(ColourChange("channels", order=tuple(permutations((0, 1, 2)))[int(row[9])]))  # type: ignore[arg-type]
    return tuple(changes)


def _prefixed(photo: str, features: Features) -> Features:
    return {f"{photo} {name}": values for name, values in features.items()}


def _photo_size(golden: Path, photo: str) -> tuple[int, int]:
    """Width and height of the two photos, as the README of the samples tells them."""
    return {"000067": (500, 272), "000004": (500, 406)}[photo]
