"""Random crops under overlap limits: which window is cut, by each source's rule.

Sources: Caffe ``src/caffe/util/sampler.cpp`` and ``AnnotatedDataLayer``; ChainerCV ``random_crop_with_bbox_constraints``;
GluonCV ``random_crop_with_constraints``; ssd.pytorch ``RandomSampleCrop``; SSD.TensorFlow ``ssd_random_sample_patch``. All
trials of a sampler are drawn and judged at once, which gives the same law as one after the other: the first that fits counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssdconv.train.augment.geometry import Bools, Floats, centre_inside, iou
from ssdconv.train.augment.plan import Window
from ssdconv.train.augment.spec import Crop, CropSampler

_ROUNDS = 20
"""SSD.TensorFlow looks for a crop with an object at most so often for each trial that counts."""


@dataclass(frozen=True)
class Cut:
    """A drawn crop: the pixels cut out, and the frame (4,) xyxy in pixels that the boxes are moved by (its far corner names
    the last pixel inside where corners do).
    """

    window: Window
    frame: Floats


def draw_crop(crop: Crop, size: tuple[int, int], boxes: Floats, rng: np.random.Generator, extra: float) -> Cut | None:
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


def _found(crop: Crop, size: tuple[int, int], boxes: Floats, rng: np.random.Generator, extra: float) -> Cut | None:
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


def _mode(crop: Crop, size: tuple[int, int], boxes: Floats, rng: np.random.Generator, extra: float) -> Cut | None:
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
    crop: Crop, sampler: CropSampler, size: tuple[int, int], boxes: Floats, rng: np.random.Generator, extra: float
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


def _fits(crop: Crop, samplers: Sequence[CropSampler], overlap: Floats, tried: _Trials, boxes: Floats) -> Bools:
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
        return Cut(Window(left, top, width, height), self.frames[index])


def _trials(crop: Crop, size: tuple[int, int], count: int, rng: np.random.Generator, extra: float) -> _Trials:
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


def _sides(crop: Crop, full: Floats, count: int, rng: np.random.Generator) -> tuple[Floats, Bools]:
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
