"""From a spec and random numbers to a plan: every stage's parameters and the boxes, in the spec's order.

Boxes are (g, 4) float64 xyxy, in pixels or in fractions as the caller says; all of an image's objects at once.

Which window a crop cuts out under overlap limits is each source's rule: Caffe ``src/caffe/util/sampler.cpp`` and
``AnnotatedDataLayer``; ChainerCV ``random_crop_with_bbox_constraints``; GluonCV ``random_crop_with_constraints``; ssd.pytorch
``RandomSampleCrop``; SSD.TensorFlow ``ssd_random_sample_patch``. All trials of a sampler are drawn and judged at once, which gives
the same law as one after the other: the first that fits counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
import numpy.typing as npt

from ssdconv.errors import UsageError
from ssdconv.train.augment.photometric import draw_changes
from ssdconv.train.augment.spec import (
    AugmentPlan,
    AugmentSpec,
    CanvasPlace,
    ColourChange,
    CropSampler,
    CropWindow,
    Expand,
    Indices,
    RandomCrop,
    Retry,
)

Floats = npt.NDArray[np.float64]


Bools = npt.NDArray[np.bool_]


_ORDERS = tuple(
    (*geometry, *end) for geometry in permutations(("expand", "crop")) for end in permutations(("flip", "resize"))
)


def check(spec: AugmentSpec) -> None:
    """Refuse an order of stages that no source has and that a plan cannot hold.

    Raises:
        UsageError: expand, crop, flip and resize are not in a usable order, or a stage comes twice.
    """
    order = [s for s in spec.stages if s != "photometric"]
    fine = len(set(spec.stages)) == len(spec.stages) and order in (
        [s for s in usual if s in order] for usual in _ORDERS
    )
    if not fine or "resize" not in order:
        raise UsageError(
            "these stages of augmentation cannot follow each other",
            expected="expand and crop, then resize and flip, each at most once, resize always; photometric anywhere",
            got=", ".join(spec.stages),
        )


def draw(spec: AugmentSpec, size: tuple[int, int], boxes: Floats, rng: np.random.Generator) -> AugmentPlan:
    """Draw one image's augmentation.

    Args:
        spec: the recipe's.
        size: width and height of the image.
        boxes: (g, 4) xyxy in its pixels.
        rng: source of random numbers.
    """
    changes: tuple[ColourChange, ...] = ()
    if "photometric" in spec.stages and spec.photometric is not None:
        changes = draw_changes(spec.photometric, rng)
    place, window, left, index, frame = _geometry(spec, size, boxes, rng)
    flip = "flip" in spec.stages and bool(rng.random() < spec.flip)
    interpolation = spec.interpolations[int(rng.integers(len(spec.interpolations)))]
    if flip:
        left = mirror(left, frame[0] - (1.0 if spec.inclusive else 0.0))
    first = window is not None and "expand" in spec.stages and spec.stages.index("crop") < spec.stages.index("expand")
    return AugmentPlan(changes, place, window, flip, interpolation, left / np.tile(frame, 2), index, first)


_Geometry = tuple[CanvasPlace | None, CropWindow | None, Floats, Indices, Floats]
"""Place, window, boxes in pixels of the result, which objects they are, and the result's size that the boxes refer to."""


def _geometry(spec: AugmentSpec, size: tuple[int, int], boxes: Floats, rng: np.random.Generator) -> _Geometry:
    if spec.retry is None:
        return _once(spec, size, boxes, rng)
    for _ in range(spec.retry.attempts):
        drawn = _once(spec, size, boxes, rng)
        sound = _sound(spec.retry, drawn[2], drawn[4])
        if sound.any():
            return drawn[0], drawn[1], drawn[2][sound], drawn[3][sound], drawn[4]
    return None, None, boxes, np.arange(len(boxes)), np.asarray(size, np.float64)


def _once(spec: AugmentSpec, size: tuple[int, int], boxes: Floats, rng: np.random.Generator) -> _Geometry:
    extra = 1.0 if spec.inclusive else 0.0
    place = window = None
    index = np.arange(len(boxes))
    frame = np.asarray(size, np.float64)
    for stage in spec.stages:
        if stage == "expand" and spec.expand is not None:
            place = draw_expand(spec.expand, size, rng)
            if place is not None:
                boxes = boxes + np.tile(np.asarray([place.left, place.top], np.float64), 2)
                size = place.width, place.height
                frame = np.asarray(size, np.float64)
        elif stage == "crop" and spec.crop is not None:
            drawn = draw_crop(spec.crop, size, boxes, rng, extra)
            if drawn is not None:
                window = drawn.window
                index = np.flatnonzero(centre_inside(drawn.frame[None], boxes, spec.crop.edge)[0])
                boxes = cut(boxes[index], drawn.frame, spec.crop.clip_boxes)
                size = window.width, window.height
                frame = drawn.frame[2:] - drawn.frame[:2] + extra
    return place, window, boxes, index, frame


def _sound(retry: Retry, boxes: Floats, frame: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    sides = boxes[:, 2:] - boxes[:, :2] + 1.0
    area = sides.prod(axis=1)
    return np.asarray(
        (area > retry.min_area) & (area < retry.max_area * frame.prod()) & (sides > retry.min_side).all(axis=1)
    )


def draw_expand(expand: Expand, size: tuple[int, int], rng: np.random.Generator) -> CanvasPlace | None:
    """Draw a place for an image of (width, height); None for no expansion. One ratio serves both sides, in all sources."""
    if rng.random() >= expand.probability:
        return None
    ratio = rng.uniform(*expand.ratio)
    width, height = int(size[0] * ratio), int(size[1] * ratio)
    free = np.asarray([width - size[0], height - size[1]])
    if expand.offsets == "whole":
        free = free + 1
    elif expand.offsets == "uncut":
        free = np.asarray(size) * ratio - np.asarray(size)
    drawn = rng.random(2) * free
    return CanvasPlace(int(drawn[0]), int(drawn[1]), width, height)


@dataclass(frozen=True)
class Cut:
    """A drawn crop: the pixels cut out, and the frame (4,) xyxy in pixels that the boxes are moved by (its far corner names
    the last pixel inside where corners do).
    """

    window: CropWindow
    frame: Floats


def draw_crop(
    crop: RandomCrop, size: tuple[int, int], boxes: Floats, rng: np.random.Generator, extra: float
) -> Cut | None:
    """Draw a crop.

    Args:
        crop: the rule.
        size: width and height of the image.
        boxes: (g, 4) xyxy in its pixels.
        rng: source of random numbers.
        extra: 1 where corners name pixels inside the box.

    Returns:
        What is cut, None for the whole image.
    """
    if crop.probability < 1 and rng.random() >= crop.probability:
        return None
    if not len(boxes):
        return _trials(crop, size, 1, rng, extra).cut(0) if crop.empty == "crop" else None
    return _found(crop, size, boxes, rng, extra) if crop.choice == "found" else _mode(crop, size, boxes, rng, extra)


def iou(windows: Floats, boxes: Floats, extra: float = 0.0) -> Floats:
    """(t, g) IoU of windows and boxes; 0 where both are empty.

    Args:
        windows, boxes: xyxy in the same unit.
        extra: added to every side (1 for corners that name pixels inside).
    """
    wx0, wy0, wx1, wy1 = windows.T[:, :, None]
    bx0, by0, bx1, by1 = boxes.T[:, None, :]
    across = np.maximum(np.minimum(wx1, bx1) - np.maximum(wx0, bx0) + extra, 0.0)
    both = across * np.maximum(np.minimum(wy1, by1) - np.maximum(wy0, by0) + extra, 0.0)
    union = (wx1 - wx0 + extra) * (wy1 - wy0 + extra) + (bx1 - bx0 + extra) * (by1 - by0 + extra) - both
    return np.asarray(both / np.where(union > 0, union, 1.0))


def centre_inside(windows: Floats, boxes: Floats, edge: Literal["closed", "half_open", "open"]) -> Bools:
    """(t, g): whether each box's centre lies in each window; ``edge`` says what counts on the window's border."""
    x0, y0, x1, y1 = windows.T[:, :, None]
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    if edge == "open":
        return np.asarray((x0 < x) & (x < x1) & (y0 < y) & (y < y1))
    if edge == "half_open":
        return np.asarray((x0 <= x) & (x < x1) & (y0 <= y) & (y < y1))
    return np.asarray((x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1))


def cut(boxes: Floats, frame: Floats, clip: bool = True) -> Floats:
    """Boxes relative to a frame (4,) xyxy and, with ``clip``, limited to it."""
    moved = boxes - np.tile(frame[:2], 2)
    return np.clip(moved, 0.0, np.tile(frame[2:] - frame[:2], 2)) if clip else moved


def mirror(boxes: Floats, width: float) -> Floats:
    """Boxes mirrored left to right in an image ``width`` wide."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


_ROUNDS = 20
"""SSD.TensorFlow looks for a crop with an object at most so often for each trial that counts."""


def _found(
    crop: RandomCrop, size: tuple[int, int], boxes: Floats, rng: np.random.Generator, extra: float
) -> Cut | None:
    samplers = (*crop.samplers, *([CropSampler()] if crop.unconstrained else []))
    tried = _trials(crop, size, len(samplers) * crop.trials, rng, extra)
    shape = (len(samplers), crop.trials)
    fits = _fits(crop, samplers, iou(tried.frames, boxes, extra).reshape(*shape, -1), tried, boxes)
    good = fits & tried.real.reshape(shape)
    if crop.needs_object == "trial":
        good &= centre_inside(tried.frames, boxes, crop.edge).any(axis=1).reshape(shape)
    firsts = good.argmax(axis=1)
    choices: list[int | None] = [None] if crop.whole else []
    for place in np.flatnonzero(good.any(axis=1)).tolist():
        trial = place * crop.trials + int(firsts[place])
        # GluonCV draws again while its choice has no object, which is a choice among those that have one.
        if crop.needs_object != "choice" or centre_inside(tried.frames[trial, None], boxes, crop.edge).any():
            choices.append(trial)
    chosen = choices[int(rng.integers(len(choices)))] if choices else None
    return None if chosen is None else tried.cut(chosen)


def _mode(crop: RandomCrop, size: tuple[int, int], boxes: Floats, rng: np.random.Generator, extra: float) -> Cut | None:
    samplers: list[CropSampler | None] = [
        *([None] if crop.whole else []),
        *crop.samplers,
        *([CropSampler()] if crop.unconstrained else []),
    ]
    while True:
        sampler = samplers[int(rng.integers(len(samplers)))]
        if sampler is None:
            return None
        chosen = _one(crop, sampler, size, boxes, rng, extra)
        # The whole image, or a crop without limits, is one of the choices wherever a source draws again: there is an end.
        if chosen is not None or crop.exhausted != "again":
            return chosen


def _one(
    crop: RandomCrop, sampler: CropSampler, size: tuple[int, int], boxes: Floats, rng: np.random.Generator, extra: float
) -> Cut | None:
    """The first crop of ``trials`` that fits."""
    counted, last = 0, None
    for _ in range(_ROUNDS if crop.exhausted == "last" else 1):
        tried = _trials(crop, size, crop.trials, rng, extra)
        inside = centre_inside(tried.frames, boxes, crop.edge)
        valid = tried.real & (inside.any(axis=1) if crop.needs_object == "trial" else True)
        good = valid & _fits(crop, (sampler,), iou(tried.frames, boxes, extra)[None], tried, boxes)[0]
        if crop.exhausted != "last":
            return tried.cut(int(np.argmax(good))) if good.any() else None
        for trial in np.flatnonzero(valid)[: crop.trials - counted].tolist():
            counted, last = counted + 1, tried.cut(trial)
            if good[trial]:
                return last
        if counted >= crop.trials:
            return last
    return last


def _fits(crop: RandomCrop, samplers: Sequence[CropSampler], overlap: Floats, tried: _Trials, boxes: Floats) -> Bools:
    """(samplers, trials) whether each window meets its sampler's limits; ``overlap`` is (samplers, trials, g)."""
    if crop.meets == "never":
        return np.ones(overlap.shape[:2], np.bool_)
    low = np.asarray([-np.inf if s.min_iou is None else s.min_iou for s in samplers])[:, None, None]
    high = np.asarray([np.inf if s.max_iou is None else s.max_iou for s in samplers])[:, None, None]
    fits = (overlap >= low) & (overlap <= high)
    if crop.meets in ("inside", "any_inside"):
        inside = centre_inside(tried.frames, boxes, crop.edge).reshape(fits.shape)
        fits = fits | ~inside if crop.meets == "inside" else fits & inside
    return np.asarray(fits.any(axis=2) if crop.meets in ("any", "any_inside") else fits.all(axis=2))


@dataclass(frozen=True)
class _Trials:
    """Drawn windows: (t, 4) frames xyxy in pixels, what is cut (t, 4) as left, top, width, height, and which are usable."""

    frames: Floats
    pixels: Floats
    real: Bools

    def cut(self, index: int) -> Cut | None:
        if not self.real[index]:
            return None
        left, top, width, height = (int(v) for v in self.pixels[index])
        return Cut(CropWindow(left, top, width, height), self.frames[index])


def _trials(crop: RandomCrop, size: tuple[int, int], count: int, rng: np.random.Generator, extra: float) -> _Trials:
    full = np.asarray(size, np.float64)
    sides, usable = _sides(crop, full, count, rng)
    draws = rng.random((count, 2))
    if crop.offsets == "whole":
        sides = np.trunc(sides)
        corner = np.floor(draws * np.maximum(full - sides, 1.0))
    elif crop.offsets == "one":
        corner = (full - sides) + (1.0 - (full - sides)) * draws
    else:
        corner = draws * (full - sides)
    frames = np.concatenate([corner, corner + sides], axis=1)
    if crop.boxes == "pixels":
        frames = np.trunc(np.clip(frames, 0.0, np.tile(full, 2)))
        pixels = np.concatenate([frames[:, :2], frames[:, 2:] - frames[:, :2] + extra], axis=1)
    else:  # Caffe truncates the corner and the size, each for itself
        pixels = np.trunc(np.concatenate([corner, sides], axis=1))
    return _Trials(frames, pixels, usable & (pixels[:, 2:] >= 1).all(axis=1))


def _sides(crop: RandomCrop, full: Floats, count: int, rng: np.random.Generator) -> tuple[Floats, Bools]:
    """(count, 2) widths and heights in pixels, and which of them are within the aspect's range."""
    if crop.shape != "scale_aspect":
        if crop.shape == "sides":
            sides = full * rng.uniform(*crop.scale, size=(count, 2))
        else:
            least = np.trunc(full * crop.scale[0])
            sides = least + np.floor(rng.random((count, 2)) * (np.trunc(full * crop.scale[1]) - least))
        aspect = sides[:, 0] / np.maximum(sides[:, 1], 1e-9)
        return sides, (aspect >= crop.aspect[0]) & (aspect <= crop.aspect[1])
    scale = rng.uniform(*crop.scale, size=count)
    draws = rng.random(count)
    low, high = np.full(count, crop.aspect[0]), np.full(count, crop.aspect[1])
    if crop.limit == "draw":
        low, high = np.maximum(low, scale**2), np.minimum(high, scale**-2)
    aspect = low + (high - low) * draws
    if crop.limit == "clip":
        aspect = np.clip(aspect, scale**2, scale**-2)
    root = np.sqrt(aspect)
    return full * np.stack([scale * root, scale / root], axis=1), np.ones(count, np.bool_)
