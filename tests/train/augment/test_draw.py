"""Plans: what happens to the boxes, stage by stage, and which orders of stages there are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ssdconv.errors import UsageError
from ssdconv.train.augment.draw import check, draw
from ssdconv.train.augment.sources import CAFFE, SOURCES, TENSORFLOW
from ssdconv.train.augment.spec import AugmentSpec, Crop, CropSampler, Expand, Plan

SIZE = (500, 375)
OBJECTS = np.array([[40.0, 60.0, 260.0, 300.0], [300.0, 20.0, 480.0, 200.0], [10.0, 10.0, 30.0, 25.0]])
PLAIN = AugmentSpec(photometric=None, expand=None, crop=None, flip=0.0, interpolations=("linear",))


def plan(spec: AugmentSpec, seed: int = 0, objects: np.ndarray = OBJECTS, size: tuple[int, int] = SIZE) -> Plan:
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
    crop = Crop(samplers=(CropSampler(0.1),), whole=False, boxes=boxes)  # type: ignore[arg-type]
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
        crop=Crop(samplers=(CropSampler(0.3),), whole=False, boxes="pixels"),
    )  # fmt: skip
    drawn = plan(spec, 3)
    assert drawn.crop_first and drawn.place and drawn.window
    w, p = drawn.window, drawn.place
    assert p.width >= w.width and p.left + w.width <= p.width
    moved = np.clip(OBJECTS[drawn.index] - np.tile([w.left, w.top], 2), 0, np.tile([w.width, w.height], 2))
    moved = (moved + np.tile([p.left, p.top], 2)) / np.tile([p.width, p.height], 2)
    assert np.allclose(drawn.boxes, moved)
