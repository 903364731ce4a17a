"""Crops: limits hold, each source's rule has its own consequence, and the laws of size and place are the sources'."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ssdconv.train.augment.draw import Cut, draw_crop
from ssdconv.train.augment.sources import CAFFE, CHAINER, GLUON, JEDOL, SSD_KERAS, SSD_PYTORCH, TENSORFLOW
from ssdconv.train.augment.spec import Crop, CropSampler

SIZE = (500, 375)
OBJECTS = np.array([[40.0, 60.0, 260.0, 300.0], [300.0, 20.0, 480.0, 200.0], [10.0, 10.0, 30.0, 25.0]])
CROPS = {"caffe": CAFFE, "chainer": CHAINER, "gluon": GLUON, "pytorch": SSD_PYTORCH, "tensorflow": TENSORFLOW,
         "jedol": JEDOL, "ssd_keras": SSD_KERAS}  # fmt: skip


def rule(name: str) -> Crop:
    crop = CROPS[name].crop
    assert crop is not None
    return crop


def one_iou(window: np.ndarray, box: np.ndarray) -> float:
    """By hand, without the code under test."""
    wide = min(window[2], box[2]) - max(window[0], box[0])
    high = min(window[3], box[3]) - max(window[1], box[1])
    both = max(wide, 0.0) * max(high, 0.0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (window, box)]
    return both / (sum(areas) - both)


def draws(
    crop: Crop, count: int = 400, objects: np.ndarray = OBJECTS, seed: int = 0, extra: float = 0
) -> list[Cut | None]:
    rng = np.random.default_rng(seed)
    return [draw_crop(crop, SIZE, objects, rng, extra) for _ in range(count)]


@pytest.mark.parametrize("name", CROPS)
def test_windows_lie_in_the_image(name: str) -> None:
    extra = 1.0 if name == "tensorflow" else 0.0
    for size in (SIZE, (375, 500), (7, 4), (1, 1), (2, 300)):
        rng = np.random.default_rng(1)
        objects = np.array([[0.0, 0.0, size[0], size[1]]])
        for _ in range(60):
            drawn = draw_crop(rule(name), size, objects, rng, extra)
            if drawn is not None:
                w = drawn.window
                assert w.width >= 1 and w.height >= 1 and w.left >= 0 and w.top >= 0
                assert w.left + w.width <= size[0] and w.top + w.height <= size[1], (size, w)


@pytest.mark.parametrize("limit", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("meets", ["any", "all"])
def test_the_minimum_holds(limit: float, meets: str) -> None:
    crop = replace(rule("caffe"), samplers=(CropSampler(limit),), whole=False, meets=meets)  # type: ignore[arg-type]
    objects = OBJECTS[:2] if meets == "any" else np.array([[20.0, 20.0, 480.0, 360.0], [40.0, 10.0, 490.0, 370.0]])
    found = [d for d in draws(crop, 200, objects) if d is not None]
    assert found
    for drawn in found:
        overlaps = [one_iou(drawn.frame, box) for box in objects]
        assert (max(overlaps) if meets == "any" else min(overlaps)) >= limit
    if meets == "any" and limit <= 0.3:
        assert any(min(one_iou(d.frame, box) for box in objects) < limit for d in found)


def test_the_maximum_holds() -> None:
    crop = replace(rule("caffe"), samplers=(CropSampler(max_iou=0.2),), whole=False, meets="all", trials=2000)
    for drawn in draws(crop, 200):
        assert drawn is not None and max(one_iou(drawn.frame, box) for box in OBJECTS) <= 0.2


def test_any_and_all_are_told_apart() -> None:
    """Two far objects: no window of this size overlaps both by 0.5, many overlap one."""
    far = np.array([[0.0, 0.0, 200.0, 375.0], [300.0, 0.0, 500.0, 375.0]])
    crop = replace(rule("caffe"), samplers=(CropSampler(0.5),), whole=False, trials=2000)
    assert sum(d is not None for d in draws(crop, 100, far)) == 100
    assert sum(d is not None for d in draws(replace(crop, meets="all"), 100, far)) == 0


def test_found_chooses_evenly_among_what_was_found() -> None:
    """Whole image, four samplers that always succeed, two that never do: each of five a fifth."""
    crop = replace(
        rule("caffe"),
        samplers=(*[CropSampler(max_iou=1.0)] * 4, CropSampler(1.1), CropSampler(1.1)),
    )
    whole = sum(d is None for d in draws(crop, 4000))
    assert abs(whole / 4000 - 1 / 5) < 0.025  # 4 standard deviations
    assert sum(d is None for d in draws(replace(crop, samplers=(CropSampler(1.1),)), 50)) == 50


def test_mode_chooses_a_sampler_first() -> None:
    """ssd.pytorch: one of six, the whole image with 1/6 (and again when 50 trials fail, which they hardly do)."""
    whole = sum(d is None for d in draws(rule("pytorch"), 3000))
    assert abs(whole / 3000 - 1 / 6) < 0.03


def test_mode_takes_another_sampler_when_trials_run_out() -> None:
    """ssd.pytorch goes on until something is found; without that, the whole image is left."""
    crop = replace(rule("pytorch"), samplers=(CropSampler(1.1),), whole=False, meets="any")
    assert all(d is not None for d in draws(crop, 200))
    stopped = sum(d is None for d in draws(replace(crop, exhausted="whole"), 400))
    assert abs(stopped / 400 - 0.5) < 0.1


def test_caffes_sizes() -> None:
    """Scale uniform in 0.3..1; aspect uniform in 0.5..2, then cut to s² and 1/s²."""
    crop = replace(rule("caffe"), samplers=(CropSampler(max_iou=1.0),), whole=False)
    frames = np.array([d.frame for d in draws(crop, 6000) if d is not None]) / np.tile(SIZE, 2)
    wide, high = (frames[:, 2:] - frames[:, :2]).T
    scale, aspect = np.sqrt(wide * high), wide / high
    assert_uniform((scale - 0.3) / 0.7)
    narrow = scale < np.sqrt(0.5)  # where no cut happens
    assert_uniform((aspect[narrow] - 0.5) / 1.5)
    assert (aspect >= scale**2 - 1e-9).all() and (aspect <= scale**-2 + 1e-9).all()
    cut = np.isclose(aspect, scale**2) | np.isclose(aspect, scale**-2)
    large = scale > 0.9
    wanted = np.mean(((scale[large] ** 2 - 0.5) + (2 - scale[large] ** -2)) / 1.5)
    assert abs(cut[large].mean() - wanted) < 0.05
    free = high < 0.999
    assert_uniform(frames[free, 1] / (1 - high[free]))


def test_chainers_sizes() -> None:
    """The aspect is drawn from what is left of 0.5..2, so nothing piles up at its ends; whole pixels, never the last place."""
    crop = replace(rule("chainer"), samplers=(CropSampler(),), whole=False)
    rng = np.random.default_rng(3)
    drawn = [draw_crop(crop, (4000, 4000), np.array([[0.0, 0.0, 9.0, 9.0]]), rng, 0) for _ in range(4000)]
    frames = np.array([d.frame for d in drawn if d is not None])
    wide, high = (frames[:, 2:] - frames[:, :2]).T / 4000
    scale, aspect = np.sqrt(wide * high), wide / high
    low, top = np.maximum(0.5, scale**2), np.minimum(2, scale**-2)
    assert_uniform(((aspect - low) / (top - low))[scale < 0.95])
    assert (frames == np.trunc(frames)).all()
    tiny = [draw_crop(crop, (10, 10), np.array([[0.0, 0.0, 9.0, 9.0]]), rng, 0) for _ in range(2000)]
    last = [d.frame[2] == 10 for d in tiny if d is not None and d.frame[0] > 0]
    assert not any(last) and len(last) > 500  # randrange(H - h) leaves the last place out


def test_ssd_pytorchs_sizes() -> None:
    """Both sides uniform in 0.3..1 with aspects outside 0.5..2 refused; corners between 1 and the free space."""
    crop = replace(rule("pytorch"), whole=False, samplers=(), needs_object="no")
    frames = np.array([d.frame for d in draws(crop, 6000) if d is not None])
    wide, high = (frames[:, 2:] - frames[:, :2]).T / SIZE[0], (frames[:, 3] - frames[:, 1]) / SIZE[1]
    wide = wide[0]
    rng = np.random.default_rng(9)
    pairs = rng.uniform(0.3, 1, (200_000, 2))
    # the source's test is on pixels, h / w
    ratio = pairs[:, 1] * SIZE[1] / (pairs[:, 0] * SIZE[0])
    pairs = pairs[(ratio >= 0.5) & (ratio <= 2)]
    for got, wanted in ((wide, pairs[:, 0]), (high, pairs[:, 1])):
        assert abs(got.mean() - wanted.mean()) < 0.012 and abs(got.std() - wanted.std()) < 0.01
    roomy = wide < 0.9
    assert (frames[roomy, 0] >= 1).all()


def test_the_unlucky_objects_of_each_source() -> None:
    """What a crop without an object's centre means."""
    corner = np.array([[0.0, 0.0, 12.0, 12.0]])
    for name in ("pytorch", "tensorflow"):
        for drawn in draws(rule(name), 60, corner, extra=1.0 if name == "tensorflow" else 0.0):
            if drawn is not None:
                assert drawn.frame[0] < 6 and drawn.frame[1] < 6 and drawn.frame[2] > 6
    loose = replace(rule("gluon"), samplers=(CropSampler(),))
    kept = [d for d in draws(loose, 600, corner) if d is not None]
    assert all(d.frame[0] <= 6 and d.frame[1] <= 6 for d in kept)
    free = [d for d in draws(replace(loose, needs_object="no"), 600, corner) if d is not None]
    assert any(d.frame[0] > 6 for d in free) and len(free) > 3 * len(kept)


def test_tensorflow_takes_its_last_crop_though_it_breaks_the_limit() -> None:
    crop = replace(rule("tensorflow"), samplers=(CropSampler(0.99),), whole=False, unconstrained=False)
    small = np.array([[200.0, 150.0, 240.0, 190.0]])
    drawn = draws(crop, 30, small, extra=1.0)
    assert all(d is not None for d in drawn)
    assert all(d is None for d in draws(replace(crop, exhausted="whole"), 30, small, extra=1.0))


def test_tensorflow_asks_only_objects_inside() -> None:
    """Far apart objects: 'all' finds no crop with 0.3, 'inside' does."""
    far = np.array([[0.0, 0.0, 200.0, 375.0], [300.0, 0.0, 500.0, 375.0]])
    crop = replace(rule("tensorflow"), samplers=(CropSampler(0.7),), whole=False, unconstrained=False, trials=2000)
    crop = replace(crop, exhausted="whole")
    assert sum(d is not None for d in draws(crop, 60, far, extra=1.0)) == 60
    assert sum(d is not None for d in draws(replace(crop, meets="all"), 60, far, extra=1.0)) == 0


def test_any_inside_needs_the_overlapping_object_itself() -> None:
    """A big object overlaps the window, but its centre is outside; a tiny one is inside."""
    objects = np.array([[0.0, 0.0, 500.0, 375.0], [470.0, 345.0, 490.0, 365.0]])
    crop = Crop(samplers=(CropSampler(0.1),), whole=False, choice="mode", shape="sides", scale=(0.35, 0.45),
                boxes="pixels", edge="open", needs_object="trial", trials=4000)  # fmt: skip
    corner = [d for d in draws(crop, 40, objects) if d is not None and d.frame[0] > 260]
    assert corner
    strict = [d for d in draws(replace(crop, meets="any_inside"), 40, objects) if d is not None]
    assert strict and all(d.frame[0] < 250 < d.frame[2] and d.frame[1] < 187.5 < d.frame[3] for d in strict)


def test_images_without_objects() -> None:
    none = np.zeros((0, 4))
    for name in set(CROPS) - {"gluon"}:
        assert all(d is None for d in draws(rule(name), 30, none)), name
    assert all(d is not None for d in draws(rule("gluon"), 30, none))


def test_caffe_keeps_the_exact_frame_and_truncates_pixels() -> None:
    for drawn in draws(rule("caffe"), 100):
        if drawn is not None:
            w, f = drawn.window, drawn.frame
            assert (w.left, w.top) == (int(f[0]), int(f[1]))
            assert abs(w.width - (f[2] - f[0])) < 1 and w.width <= f[2] - f[0] + 1e-9
    assert any(d is not None and d.frame[0] != int(d.frame[0]) for d in draws(rule("caffe"), 30))
    for drawn in draws(rule("chainer"), 100):
        if drawn is not None:
            w = drawn.window
            assert drawn.frame.tolist() == [w.left, w.top, w.left + w.width, w.top + w.height]


def test_probability() -> None:
    crop = replace(rule("caffe"), whole=False, samplers=(CropSampler(max_iou=1.0),), probability=0.25)
    count = Counter(d is None for d in draws(crop, 2000))
    assert abs(count[False] / 2000 - 0.25) < 0.04


def assert_uniform(values: np.ndarray) -> None:
    """Kolmogorov-Smirnov against U(0, 1) at 1 in 100,000 (fixed seeds, so it never flickers)."""
    ordered = np.sort(values)
    steps = np.arange(1, len(ordered) + 1) / len(ordered)
    distance = max(np.abs(steps - ordered).max(), np.abs(steps - 1 / len(ordered) - ordered).max())
    assert distance < 2.45 / np.sqrt(len(ordered)), distance
