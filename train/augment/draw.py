"""From a spec and random numbers to a plan: every stage's parameters and the boxes, in the spec's order."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from ssdconv.errors import UsageError
from ssdconv.train.augment.crop import draw_crop
from ssdconv.train.augment.expand import draw_expand
from ssdconv.train.augment.geometry import Floats, centre_inside, cut, mirror
from ssdconv.train.augment.photometric import draw_changes
from ssdconv.train.augment.plan import Change, Indices, Place, Plan, Window
from ssdconv.train.augment.spec import AugmentSpec, Retry

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


def draw(spec: AugmentSpec, size: tuple[int, int], boxes: Floats, rng: np.random.Generator) -> Plan:
    """Draw one image's augmentation.

    Args:
        spec: the recipe's.
        size: width and height of the image.
        boxes: (g, 4) xyxy in its pixels.
        rng: source of random numbers.
    """
    changes: tuple[Change, ...] = ()
    if "photometric" in spec.stages and spec.photometric is not None:
        changes = draw_changes(spec.photometric, rng)
    place, window, left, index, frame = _geometry(spec, size, boxes, rng)
    flip = "flip" in spec.stages and bool(rng.random() < spec.flip)
    interpolation = spec.interpolations[int(rng.integers(len(spec.interpolations)))]
    if flip:
        left = mirror(left, frame[0] - (1.0 if spec.inclusive else 0.0))
    first = window is not None and "expand" in spec.stages and spec.stages.index("crop") < spec.stages.index("expand")
    return Plan(changes, place, window, flip, interpolation, left / np.tile(frame, 2), index, first)


_Geometry = tuple[Place | None, Window | None, Floats, Indices, Floats]
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
