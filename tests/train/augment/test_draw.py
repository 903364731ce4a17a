"""Plans: what happens to the boxes, stage by stage, and which orders of stages there are.

Crops: limits hold, each source's rule has its own consequence, and the laws of size and place are the sources'.
Overlaps, centres and mirroring of boxes against counting pixels and literal loops. Expansion: the law of the canvas
and the place, and the fill.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.config import Preprocess
from ssdconv.train.augment.draw import Cut, centre_inside, check, cut, draw, draw_crop, draw_expand, iou, mirror
from ssdconv.train.augment.render import fill_value, on_canvas
from ssdconv.train.augment.sources import CAFFE, CHAINER, GLUON, JEDOL, SOURCES, SSD_KERAS, SSD_PYTORCH, TENSORFLOW
from ssdconv.train.augment.spec import AugmentPlan, AugmentSpec, CanvasPlace, CropSampler, Expand, RandomCrop

SIZE = (500, 375)
OBJECTS = np.array([[40.0, 60.0, 260.0, 300.0], [300.0, 20.0, 480.0, 200.0], [10.0, 10.0, 30.0, 25.0]])
PLAIN = AugmentSpec(photometric=None, expand=None, crop=None, flip=0.0, interpolations=("linear",))


def plan(spec: AugmentSpec, seed: int = 0, objects: np.ndarray = OBJECTS, size: tuple[int, int] = SIZE) -> AugmentPlan:
    return draw(spec, size, objects, np.random.default_rng(seed))


def test_nothing_but_the_resize() -> None:
    drawn = plan(PLAIN)
    assert (drawn.changes, drawn.place, drawn.window, drawn.flip) == ((), None, None, False)
    assert np.allclose(drawn.boxes * np.tile(SIZE, 2), OBJECTS) and drawn.index.tolist() == [0, 1, 2]


def test_flip() -> None:
    drawn = plan(replace(PLAIN, flip=1.0))
    assert np.allclose(drawn.boxes[0] * np.tile(SIZE, 2), [240, 60, 460, 300])
    share = np.mean([plan(CAFFE, seed).flip for seed in range(1500)])
    assert abs(share - 0.5) < 0.05
    inclusive = plan(replace(PLAIN, flip=1.0, inclusive=True))
    assert np.allclose(inclusive.boxes[0] * np.tile(SIZE, 2), [239, 60, 459, 300])


def test_boxes_follow_the_place() -> None:
    drawn = plan(replace(PLAIN, expand=Expand(1.0)))
    assert drawn.place is not None
    p = drawn.place
    back = drawn.boxes * np.tile([p.width, p.height], 2) - np.tile([p.left, p.top], 2)
    assert np.allclose(back, OBJECTS)


@pytest.mark.parametrize("boxes", ["pixels", "fractions"])
def test_boxes_follow_the_window(boxes: str) -> None:
    """By hand: centre inside stays, is moved, is limited."""
    crop = RandomCrop(samplers=(CropSampler(0.1),), whole=False, boxes=boxes)  # type: ignore[arg-type]
    for seed in range(30):
        drawn = plan(replace(PLAIN, crop=crop), seed)
        assert drawn.window is not None
        w = drawn.window
        kept = []
        for number, (x0, y0, x1, y1) in enumerate(OBJECTS):
            cx, cy = (x0 + x1) / 2 - w.left, (y0 + y1) / 2 - w.top
            if 1 < cx < w.width - 1 and 1 < cy < w.height - 1:
                kept.append(number)
                corners = np.clip([x0 - w.left, x1 - w.left], 0, w.width) / w.width
                got = drawn.boxes[drawn.index.tolist().index(number)]
                assert np.allclose(got[[0, 2]], corners, atol=0 if boxes == "pixels" else 2.1 / w.width)
        assert set(kept) <= set(drawn.index.tolist())
    if boxes == "fractions":  # Caffe's boxes know more than the pixels: they are not on the pixel grid of the window
        grid = drawn.boxes[:, 0] * w.width
        assert not np.allclose(grid, np.rint(grid))


def test_boxes_stay_in_the_image_unless_the_source_lets_them() -> None:
    for name, spec in SOURCES.items():
        outside = 0
        for seed in range(120):
            drawn = plan(spec, seed)
            assert len(drawn.boxes) == len(drawn.index)
            outside += int(((drawn.boxes < -1e-9) | (drawn.boxes > 1 + 1e-9)).any())
        assert (outside > 0) == (name == "ssd_keras"), name


def test_the_same_numbers_give_the_same_plan() -> None:
    first, second = plan(CAFFE, 7), plan(CAFFE, 7)
    assert np.array_equal(first.boxes, second.boxes) and first.place == second.place and first.changes == second.changes


def test_degenerate_images_and_objects() -> None:
    for name, spec in SOURCES.items():
        for size in ((1, 1), (1, 90), (2, 2)):
            full = np.array([[0.0, 0.0, *size]])
            for objects in (np.zeros((0, 4)), full, np.array([[0.0, 0.0, 0.0, 0.0]]), np.tile(full, (40, 1))):
                for seed in range(12):
                    drawn = plan(spec, seed, objects, size)
                    assert np.isfinite(drawn.boxes).all(), name


def test_interpolations_are_drawn_evenly() -> None:
    counts = dict.fromkeys(CAFFE.interpolations, 0)
    for seed in range(2000):
        counts[plan(replace(PLAIN, interpolations=CAFFE.interpolations), seed).interpolation] += 1
    assert all(abs(n / 2000 - 0.2) < 0.04 for n in counts.values())


def test_tensorflow_tries_again_for_a_sound_object() -> None:
    """An object of seven pixels is unsound after most crops: then neither expand nor crop happens, and it stays."""
    tiny = np.array([[250.0, 180.0, 254.0, 184.0]])
    for seed in range(40):
        drawn = plan(TENSORFLOW, seed, tiny)
        assert (drawn.place, drawn.window) == (None, None) and drawn.index.tolist() == [0]
    mixed = np.array([[100.0, 80.0, 300.0, 280.0], [150.0, 180.0, 153.0, 183.0]])
    kept = [plan(TENSORFLOW, seed, mixed) for seed in range(40)]
    assert all(d.index.tolist() == [0] for d in kept if d.place or d.window)
    loose = replace(TENSORFLOW, retry=None)
    assert any(plan(loose, seed, tiny).place for seed in range(40))


def test_orders_of_stages() -> None:
    for spec in SOURCES.values():
        check(spec)
    check(replace(PLAIN, stages=("crop", "photometric", "expand", "flip", "resize")))
    for stages in (("resize", "crop"), ("flip", "expand", "crop", "resize"), ("expand",), ("crop", "crop", "resize")):
        with pytest.raises(UsageError, match="cannot follow each other"):
            check(replace(PLAIN, stages=stages))  # type: ignore[arg-type]


def test_a_crop_before_the_expansion() -> None:
    spec = replace(
        PLAIN, stages=("crop", "expand", "resize"), expand=Expand(1.0),
        crop=RandomCrop(samplers=(CropSampler(0.3),), whole=False, boxes="pixels"),
    )  # fmt: skip
    drawn = plan(spec, 3)
    assert drawn.crop_first and drawn.place and drawn.window
    w, p = drawn.window, drawn.place
    assert p.width >= w.width and p.left + w.width <= p.width
    moved = np.clip(OBJECTS[drawn.index] - np.tile([w.left, w.top], 2), 0, np.tile([w.width, w.height], 2))
    moved = (moved + np.tile([p.left, p.top], 2)) / np.tile([p.width, p.height], 2)
    assert np.allclose(drawn.boxes, moved)


CROPS = {"caffe": CAFFE, "chainer": CHAINER, "gluon": GLUON, "pytorch": SSD_PYTORCH, "tensorflow": TENSORFLOW,
         "jedol": JEDOL, "ssd_keras": SSD_KERAS}  # fmt: skip


def rule(name: str) -> RandomCrop:
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
    crop: RandomCrop, count: int = 400, objects: np.ndarray = OBJECTS, seed: int = 0, extra: float = 0
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
    crop = RandomCrop(samplers=(CropSampler(0.1),), whole=False, choice="mode", shape="sides", scale=(0.35, 0.45),
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


def boxes(rng: np.random.Generator, count: int, side: int = 40) -> np.ndarray:
    corners = np.sort(rng.integers(0, side, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4).astype(np.float64)


@pytest.mark.parametrize("extra", [0, 1])
def test_iou_is_what_counting_pixels_gives(extra: int) -> None:
    rng = np.random.default_rng(0)
    windows, objects = boxes(rng, 40), boxes(rng, 30)
    got = iou(windows, objects, float(extra))
    for i, w in enumerate(windows.astype(int)):
        for j, o in enumerate(objects.astype(int)):
            first, second = np.zeros((41, 41), bool), np.zeros((41, 41), bool)
            first[w[1] : w[3] + extra, w[0] : w[2] + extra] = True
            second[o[1] : o[3] + extra, o[0] : o[2] + extra] = True
            union = (first | second).sum()
            assert got[i, j] == pytest.approx((first & second).sum() / union if union else 0.0, abs=1e-15)


def test_iou_of_nothing() -> None:
    point = np.array([[3.0, 3.0, 3.0, 3.0]])
    assert iou(point, point).tolist() == [[0.0]]
    assert iou(point, np.zeros((0, 4))).shape == (1, 0)


def test_centres_on_the_edge() -> None:
    window = np.array([[10.0, 10.0, 20.0, 20.0]])
    places = {"low": (10, 15), "inside": (15, 15), "high": (15, 20), "right": (20, 15), "out": (21, 15)}
    objects = np.array([[x - 2, y - 2, x + 2, y + 2] for x, y in places.values()], np.float64)
    inside = {edge: centre_inside(window, objects, edge)[0].tolist() for edge in ("closed", "half_open", "open")}
    assert inside == {
        "closed": [True, True, True, True, False],
        "half_open": [True, True, False, False, False],
        "open": [False, True, False, False, False],
    }


def test_cut_and_mirror() -> None:
    box = np.array([[5.0, 6.0, 30.0, 18.0]])
    frame = np.array([10.0, 10.0, 25.0, 30.0])
    assert cut(box, frame).tolist() == [[0.0, 0.0, 15.0, 8.0]]
    assert cut(box, frame, clip=False).tolist() == [[-5.0, -4.0, 20.0, 8.0]]
    assert mirror(box, 40.0).tolist() == [[10.0, 6.0, 35.0, 18.0]]
    assert mirror(mirror(box, 40.0), 40.0).tolist() == box.tolist()


def test_probability_ratio_and_place() -> None:
    rng = np.random.default_rng(0)
    places = [draw_expand(Expand(), (500, 375), rng) for _ in range(6000)]
    done = [p for p in places if p is not None]
    assert abs(len(done) / 6000 - 0.5) < 0.03
    ratio = np.array([p.width / 500 for p in done])
    assert 1 <= ratio.min() < 1.01 and 3.99 < ratio.max() < 4
    assert abs(ratio.mean() - 2.5) < 0.06 and abs(ratio.std() - 3 / 12**0.5) < 0.03
    assert all(p.height == int(375 * r) or abs(p.height - 375 * r) < 1.01 for p, r in zip(done, ratio, strict=True))
    roomy = [p for p in done if p.width > 600 and p.height > 450]
    for free in ([p.left / (p.width - 500) for p in roomy], [p.top / (p.height - 375) for p in roomy]):
        assert 0 <= min(free) < 0.01 and 0.97 < max(free) <= 1 and abs(np.mean(free) - 0.495) < 0.03


def test_the_last_free_pixel() -> None:
    """Caffe cuts a real number off, so that the last place never comes; ChainerCV draws it like any other."""
    seen = {}
    for offsets in ("real", "whole"):
        rng = np.random.default_rng(1)
        spec = Expand(1.0, (2.0, 2.0), offsets=offsets)  # type: ignore[arg-type]
        seen[offsets] = {(p.left, p.top) for p in (draw_expand(spec, (3, 1), rng) for _ in range(400)) if p}
    assert seen["real"] == {(x, 0) for x in range(3)}
    assert seen["whole"] == {(x, y) for x in range(4) for y in range(2)}


def test_the_canvas() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    out = on_canvas(image, CanvasPlace(1, 2, 7, 5), (103.94, 116.78, 123.5))
    assert out.shape == (5, 7, 3) and out.dtype == np.uint8
    assert np.array_equal(out[2:4, 1:5], image)
    out[2:4, 1:5] = (104, 117, 124)
    assert (out == (104, 117, 124)).all()
    floats = on_canvas(image.astype(np.float32), CanvasPlace(1, 2, 7, 5), (103.94, 116.78, 123.5))
    assert floats.dtype == np.float32 and np.allclose(floats[0, 0], (103.94, 116.78, 123.5))


def test_fills() -> None:
    caffe = Preprocess((300, 300), "BGR", mean=(104, 117, 123))
    gluon = Preprocess((512, 512), "RGB", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), unit=255.0)
    keras = Preprocess((300, 300), "BGR", mean=(103.939, 116.779, 123.68))
    assert fill_value(caffe, "mean") == (104, 117, 123)
    assert np.allclose(fill_value(gluon, "mean"), (103.53, 116.28, 123.675))
    assert fill_value(keras, "mean_uint8") == (103, 116, 123)
    assert fill_value(keras, "zero") == (0, 0, 0)
