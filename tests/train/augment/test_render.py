"""The faithful way: stages in the recipe's order, against the same steps written out with OpenCV.

The fast way: the same boxes to the last bit, nearly the same pixels, and the same distributions as the faithful way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from ssdconv.ssd_ref.preprocess import resize
from ssdconv.train.augment.draw import draw
from ssdconv.train.augment.render import render_faithful, render_fast
from ssdconv.train.augment.sources import CAFFE, CHAINER, SOURCES, SSD_PYTORCH, TENSORFLOW
from ssdconv.train.augment.spec import (
    AugmentPlan,
    AugmentSpec,
    CanvasPlace,
    ColourChange,
    CropWindow,
    Expand,
    Photometric,
    RandomCrop,
)

PICTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (75, 100, 3), dtype=np.uint8), (0, 0), 2)
FILL_EXACT = (103.6, 117.0, 123.2)
NO_BOXES = np.zeros((0, 4))
PLAN = AugmentPlan((ColourChange("brightness", 20.4),), CanvasPlace(30, 10, 200, 150), CropWindow(20, 5, 120, 90), True, "linear", NO_BOXES,
            np.zeros(0, np.int64))  # fmt: skip


def by_hand(image: np.ndarray, flip_first: bool, code: int) -> np.ndarray:
    canvas = np.empty((150, 200, 3), image.dtype)
    canvas[:] = FILL_EXACT if image.dtype == np.float32 else np.rint(FILL_EXACT)
    canvas[10:85, 30:130] = image
    part = canvas[5:95, 20:140]
    if flip_first:
        part = part[:, ::-1].copy()
    out = cv2.resize(part, (60, 50), interpolation=code)
    return out if flip_first else out[:, ::-1]


def test_caffe() -> None:
    bright = cv2.addWeighted(PICTURE, 1.0, PICTURE, 0.0, 20.4)
    spec = replace(CAFFE, jpeg=False)
    got = render_faithful(PICTURE, PLAN, spec, (50, 60), FILL_EXACT)
    assert got.dtype == np.uint8 and np.array_equal(got, by_hand(bright, False, cv2.INTER_LINEAR))


@pytest.mark.parametrize("interpolation", ["linear", "area", "nearest", "cubic", "lanczos4"])
def test_interpolations(interpolation: Any) -> None:
    code = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "nearest": cv2.INTER_NEAREST, "cubic": cv2.INTER_CUBIC,
            "lanczos4": cv2.INTER_LANCZOS4}[interpolation]  # fmt: skip
    plan = replace(PLAN, interpolation=interpolation, changes=())
    assert np.array_equal(
        render_faithful(PICTURE, plan, replace(CAFFE, jpeg=False), (50, 60), FILL_EXACT), by_hand(PICTURE, False, code)
    )


def test_jpeg_after_every_stage() -> None:
    def again(image: np.ndarray) -> np.ndarray:
        return cv2.imdecode(cv2.imencode(".jpg", image)[1], cv2.IMREAD_COLOR)

    canvas = np.empty((150, 200, 3), np.uint8)
    canvas[:] = np.rint(FILL_EXACT)
    canvas[10:85, 30:130] = again(cv2.addWeighted(PICTURE, 1.0, PICTURE, 0.0, 20.4))
    part = again(np.ascontiguousarray(again(canvas)[5:95, 20:140]))
    wanted = cv2.resize(part, (60, 50), interpolation=cv2.INTER_LINEAR)[:, ::-1]
    assert np.array_equal(render_faithful(PICTURE, PLAN, CAFFE, (50, 60), FILL_EXACT), wanted)
    assert not np.array_equal(wanted, render_faithful(PICTURE, PLAN, replace(CAFFE, jpeg=False), (50, 60), FILL_EXACT))


def test_chainers_floats_are_not_rounded() -> None:
    got = render_faithful(PICTURE, PLAN, CHAINER, (50, 60), FILL_EXACT)
    bright = np.clip(PICTURE.astype(float) + 20.4, 0, 255).astype(np.uint8).astype(np.float32)
    assert got.dtype == np.float32 and np.allclose(got, by_hand(bright, False, cv2.INTER_LINEAR), atol=1e-4)


def test_ssd_pytorch_flips_before_the_resize() -> None:
    got = render_faithful(PICTURE, PLAN, SSD_PYTORCH, (50, 60), FILL_EXACT)
    wanted = by_hand(PICTURE.astype(np.float32) + np.float32(20.4), True, cv2.INTER_LINEAR)
    assert got.dtype == np.float32 and np.allclose(got, wanted, atol=1e-4)


def test_tensorflows_grid_and_bytes() -> None:
    plan = replace(PLAN, place=None, window=None, flip=False, changes=(), interpolation="tf1_linear")
    got = render_faithful(PICTURE, plan, TENSORFLOW, (50, 60), FILL_EXACT)
    wanted = np.floor(resize(PICTURE, (50, 60), "tf1_bilinear") / 255 * 255.5 + 1e-4)
    assert got.dtype == np.uint8 and np.abs(got - wanted).max() <= 1 and (got == wanted).mean() > 0.99
    assert not np.array_equal(got, cv2.resize(PICTURE, (60, 50)))


def test_stages_that_are_not_named_do_not_happen() -> None:
    spec = AugmentSpec(stages=("resize",))
    assert np.array_equal(render_faithful(PICTURE, PLAN, spec, (50, 60), FILL_EXACT), cv2.resize(PICTURE, (60, 50)))


SIZE = (100, 100)
FILL = (104.0, 117.0, 123.0)
NONE, NOTHING = np.zeros((0, 4)), np.zeros(0, np.int64)
OBJECTS = np.array([[40.0, 60.0, 260.0, 300.0], [300.0, 20.0, 480.0, 200.0], [10.0, 10.0, 30.0, 25.0]])
PLAIN = replace(CAFFE, jpeg=False)


def photo() -> np.ndarray:
    """Smooth colours with edges, 500 x 375: what a photo is to a resize."""
    rng = np.random.default_rng(5)
    image = cv2.GaussianBlur(rng.integers(0, 256, (375, 500, 3), dtype=np.uint8), (0, 0), 6).astype(np.float32)
    image = np.clip((image - 127) * 8 + 127, 0, 255).astype(np.uint8)
    for _ in range(12):
        x, y = (int(v) for v in rng.integers(0, 350, 2))
        cv2.rectangle(image, (x, y), (x + 60, y + 40), rng.integers(0, 256, 3).tolist(), -1)
    return image


PHOTO = photo()


def difference(plan: AugmentPlan, spec: AugmentSpec = PLAIN) -> float:
    """Mean absolute difference of the two ways in levels."""
    first = np.clip(render_faithful(PHOTO, plan, spec, SIZE, FILL), 0, 255).astype(np.float64)
    second = render_fast(PHOTO, plan, spec, SIZE, FILL)
    assert second.dtype == np.uint8 and second.shape == first.shape and second.flags.c_contiguous
    return float(np.abs(first - second).mean())


@pytest.mark.parametrize("interpolation", ["linear", "area", "nearest", "cubic"])
@pytest.mark.parametrize("flip", [False, True])
def test_without_a_canvas_it_is_the_same_resize(interpolation: Any, flip: bool) -> None:
    for window in (None, CropWindow(120, 31, 203, 177), CropWindow(0, 0, 60, 50)):
        assert difference(AugmentPlan((), None, window, flip, interpolation, NONE, NOTHING)) == 0


@pytest.mark.parametrize(
    ("interpolation", "limit"), [("linear", 0.3), ("area", 0.9), ("nearest", 1.4), ("cubic", 1.1), ("lanczos4", 1.3)]
)
@pytest.mark.parametrize(
    "window",
    [
        None,
        CropWindow(100, 20, 400, 500),
        CropWindow(290, 200, 130, 160),
        CropWindow(270, 190, 60, 61),
        CropWindow(310, 260, 91, 90),
    ],
)
def test_on_a_canvas_pixels_are_nearly_the_same(interpolation: Any, limit: float, window: CropWindow | None) -> None:
    plan = AugmentPlan((), CanvasPlace(307, 210, 1203, 902), window, True, interpolation, NONE, NOTHING)
    assert difference(plan) < limit


def test_half_a_pixel_would_be_noticed() -> None:
    """The bounds above are tight enough: the image moved by one canvas pixel in ten makes a difference."""
    plan = AugmentPlan((), CanvasPlace(307, 210, 1203, 902), None, False, "linear", NONE, NOTHING)
    moved = replace(plan, place=CanvasPlace(313, 210, 1203, 902))
    exact = render_faithful(PHOTO, plan, PLAIN, SIZE, FILL).astype(float)
    assert np.abs(exact - render_fast(PHOTO, moved, PLAIN, SIZE, FILL)).mean() > 2 * difference(plan)


def test_a_window_beside_the_image_is_all_canvas() -> None:
    plan = AugmentPlan(
        (ColourChange("brightness", 30.0),),
        CanvasPlace(0, 0, 1200, 900),
        CropWindow(600, 400, 300, 200),
        True,
        "area",
        NONE,
        NOTHING,
    )
    assert (render_fast(PHOTO, plan, PLAIN, SIZE, FILL) == np.array(FILL)).all()


def test_colour_changes_leave_the_canvas_alone() -> None:
    plan = AugmentPlan(
        (ColourChange("brightness", 30.0),), CanvasPlace(400, 300, 1000, 750), None, False, "linear", NONE, NOTHING
    )
    out = render_fast(PHOTO, plan, PLAIN, SIZE, FILL)
    assert (out[:30] == np.array(FILL)).all() and (out[:, :30] == np.array(FILL)).all()


@pytest.mark.parametrize(
    "changes",
    [
        (ColourChange("brightness", 25.0), ColourChange("contrast", 1.4)),
        (
            ColourChange("brightness", -25.0),
            ColourChange("saturation", 0.6),
            ColourChange("hue", 11.0),
            ColourChange("contrast", 0.7),
        ),
        (ColourChange("hue", -14.0), ColourChange("channels", order=(2, 0, 1))),
    ],
)
@pytest.mark.parametrize("name", SOURCES)
def test_colours(name: str, changes: tuple[ColourChange, ...]) -> None:
    """Colours first or resize first: nearly the same, for every source's arithmetic."""
    spec = replace(SOURCES[name], jpeg=False, interpolations=("linear",))
    if name == "gluon" and changes[-1].kind == "channels":
        pytest.skip("GluonCV does not shuffle channels")
    plan = AugmentPlan(changes, None, None, False, spec.interpolations[0], NONE, NOTHING)
    assert difference(plan, spec) < 3.0
    untouched = replace(plan, changes=())
    assert (
        np.abs(
            render_fast(PHOTO, plan, spec, SIZE, FILL).astype(int) - render_fast(PHOTO, untouched, spec, SIZE, FILL)
        ).mean()
        > 5
    )


def test_a_crop_before_the_expansion() -> None:
    spec = replace(
        PLAIN, stages=("crop", "photometric", "expand", "flip", "resize"), expand=Expand(1.0), interpolations=("linear",),
        crop=RandomCrop(whole=False, samplers=PLAIN.crop.samplers[:1], boxes="pixels"), photometric=None,
    )  # fmt: skip
    for seed in range(6):
        plan = draw(spec, (500, 375), OBJECTS, np.random.default_rng(seed))
        assert plan.crop_first and difference(plan, spec) < 2.0


def test_small_and_odd_images() -> None:
    for height, width in ((1, 1), (1, 40), (3, 2)):
        image = np.full((height, width, 3), 200, np.uint8)
        objects = np.array([[0.0, 0.0, width, height]])
        for seed in range(40):
            plan = draw(PLAIN, (width, height), objects, np.random.default_rng(seed))
            for way in (render_fast, render_faithful):
                assert way(image, plan, PLAIN, SIZE, FILL).shape == (*SIZE, 3)


def features(spec: AugmentSpec, way: Any, seed: int) -> dict[str, np.ndarray]:
    """What is compared: size of the canvas, part of the image seen, overlap of the window with an object, objects kept; means and standard deviations
    of pixels, and the mean where only colours are changed.
    """
    rng = np.random.default_rng(seed)
    plans = [draw(spec, (500, 375), OBJECTS, rng) for _ in range(GEOMETRY)]
    seen, overlap, ratio = [], [], []
    for plan in plans:
        canvas = plan.place or CanvasPlace(0, 0, 500, 375)
        w = plan.window or CropWindow(0, 0, canvas.width, canvas.height)
        box = OBJECTS[0] + np.tile([canvas.left, canvas.top], 2)
        corner = np.array([w.left, w.top])
        size = np.array([w.width, w.height])
        inside = np.clip(np.minimum(box[2:], corner + size) - np.maximum(box[:2], corner), 0, None).prod()
        ratio.append(canvas.width / 500)
        seen.append(size.prod() / (500 * 375))
        overlap.append(inside / (size.prod() + (box[2:] - box[:2]).prod() - inside))
    images = [way(PHOTO, plan, spec, SIZE, FILL) for plan in plans[:PIXELS]]
    flat = [way(PHOTO, replace(p, place=None, window=None), spec, SIZE, FILL) for p in plans[: 2 * PIXELS]]
    return {
        "canvas": np.array(ratio),
        "area": np.array(seen),
        "overlap": np.array(overlap),
        "objects": np.array([len(plan.boxes) for plan in plans]),
        "mean": np.array([image.mean() for image in images]),
        "deviation": np.array([image.std() for image in images]),
        "colour": np.array([abs(image.mean() - PHOTO.mean()) for image in flat]),
        "contrast": np.array([image.std() for image in flat]),
    }


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sample Kolmogorov-Smirnov statistic."""
    places = np.concatenate([first, second])
    ranks = [np.searchsorted(np.sort(sample), places, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(ranks[0] - ranks[1]).max())


GEOMETRY, PIXELS = 4000, 500
"""Plans drawn, and images made of them."""


def bound(first: np.ndarray) -> float:
    """Passed by chance once in a thousand; seeds are fixed."""
    return 1.95 * (2 / len(first)) ** 0.5


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    return features(PLAIN, render_faithful, 100)


def test_distributions_are_the_faithful_ones(reference: dict[str, np.ndarray]) -> None:
    other = features(PLAIN, render_fast, 200)
    for name, values in reference.items():
        assert distance(values, other[name]) < bound(values), name


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        ({"expand": Expand(ratio=(1.0, 3.6))}, "canvas"),
        ({"expand": Expand(probability=0.4)}, "area"),
        ({"expand": Expand(fill="zero", probability=0.9)}, "mean"),
        ({"crop": replace(PLAIN.crop, scale=(0.4, 1.0))}, "area"),  # type: ignore[type-var]
        ({"crop": replace(PLAIN.crop, meets="all")}, "overlap"),  # type: ignore[type-var]
        ({"crop": replace(PLAIN.crop, whole=False, samplers=PLAIN.crop.samplers[:2])}, "objects"),  # type: ignore[type-var,union-attr]
        ({"photometric": Photometric(brightness=90.0)}, "colour"),
        ({"photometric": Photometric(contrast=(0.2, 1.0))}, "contrast"),
    ],
)
def test_a_changed_range_is_noticed(reference: dict[str, np.ndarray], change: dict[str, Any], noticed: str) -> None:
    other = features(replace(PLAIN, **change), render_fast, 200)
    assert distance(reference[noticed], other[noticed]) > bound(reference[noticed])
