"""The faithful way: stages in the recipe's order, against the same steps written out with OpenCV."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from ssdconv.ssd_ref.preprocess import resize
from ssdconv.train.augment.render import render_faithful
from ssdconv.train.augment.sources import CAFFE, CHAINER, SSD_PYTORCH, TENSORFLOW
from ssdconv.train.augment.spec import AugmentSpec, Change, Place, Plan, Window

PICTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (75, 100, 3), dtype=np.uint8), (0, 0), 2)
FILL = (103.6, 117.0, 123.2)
NONE = np.zeros((0, 4))
PLAN = Plan((Change("brightness", 20.4),), Place(30, 10, 200, 150), Window(20, 5, 120, 90), True, "linear", NONE,
            np.zeros(0, np.int64))  # fmt: skip


def by_hand(image: np.ndarray, flip_first: bool, code: int) -> np.ndarray:
    canvas = np.empty((150, 200, 3), image.dtype)
    canvas[:] = FILL if image.dtype == np.float32 else np.rint(FILL)
    canvas[10:85, 30:130] = image
    part = canvas[5:95, 20:140]
    if flip_first:
        part = part[:, ::-1].copy()
    out = cv2.resize(part, (60, 50), interpolation=code)
    return out if flip_first else out[:, ::-1]


def test_caffe() -> None:
    bright = cv2.addWeighted(PICTURE, 1.0, PICTURE, 0.0, 20.4)
    spec = replace(CAFFE, jpeg=False)
    got = render_faithful(PICTURE, PLAN, spec, (50, 60), FILL)
    assert got.dtype == np.uint8 and np.array_equal(got, by_hand(bright, False, cv2.INTER_LINEAR))


@pytest.mark.parametrize("interpolation", ["linear", "area", "nearest", "cubic", "lanczos4"])
def test_interpolations(interpolation: Any) -> None:
    code = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "nearest": cv2.INTER_NEAREST, "cubic": cv2.INTER_CUBIC,
            "lanczos4": cv2.INTER_LANCZOS4}[interpolation]  # fmt: skip
    plan = replace(PLAN, interpolation=interpolation, changes=())
    assert np.array_equal(
        render_faithful(PICTURE, plan, replace(CAFFE, jpeg=False), (50, 60), FILL), by_hand(PICTURE, False, code)
    )


def test_jpeg_after_every_stage() -> None:
    def again(image: np.ndarray) -> np.ndarray:
        return cv2.imdecode(cv2.imencode(".jpg", image)[1], cv2.IMREAD_COLOR)

    canvas = np.empty((150, 200, 3), np.uint8)
    canvas[:] = np.rint(FILL)
    canvas[10:85, 30:130] = again(cv2.addWeighted(PICTURE, 1.0, PICTURE, 0.0, 20.4))
    part = again(np.ascontiguousarray(again(canvas)[5:95, 20:140]))
    wanted = cv2.resize(part, (60, 50), interpolation=cv2.INTER_LINEAR)[:, ::-1]
    assert np.array_equal(render_faithful(PICTURE, PLAN, CAFFE, (50, 60), FILL), wanted)
    assert not np.array_equal(wanted, render_faithful(PICTURE, PLAN, replace(CAFFE, jpeg=False), (50, 60), FILL))


def test_chainers_floats_are_not_rounded() -> None:
    got = render_faithful(PICTURE, PLAN, CHAINER, (50, 60), FILL)
    bright = np.clip(PICTURE.astype(float) + 20.4, 0, 255).astype(np.uint8).astype(np.float32)
    assert got.dtype == np.float32 and np.allclose(got, by_hand(bright, False, cv2.INTER_LINEAR), atol=1e-4)


def test_ssd_pytorch_flips_before_the_resize() -> None:
    got = render_faithful(PICTURE, PLAN, SSD_PYTORCH, (50, 60), FILL)
    wanted = by_hand(PICTURE.astype(np.float32) + np.float32(20.4), True, cv2.INTER_LINEAR)
    assert got.dtype == np.float32 and np.allclose(got, wanted, atol=1e-4)


def test_tensorflows_grid_and_bytes() -> None:
    plan = replace(PLAN, place=None, window=None, flip=False, changes=(), interpolation="tf1_linear")
    got = render_faithful(PICTURE, plan, TENSORFLOW, (50, 60), FILL)
    wanted = np.floor(resize(PICTURE, (50, 60), "tf1_bilinear") / 255 * 255.5 + 1e-4)
    assert got.dtype == np.uint8 and np.abs(got - wanted).max() <= 1 and (got == wanted).mean() > 0.99
    assert not np.array_equal(got, cv2.resize(PICTURE, (60, 50)))


def test_stages_that_are_not_named_do_not_happen() -> None:
    spec = AugmentSpec(stages=("resize",))
    assert np.array_equal(render_faithful(PICTURE, PLAN, spec, (50, 60), FILL), cv2.resize(PICTURE, (60, 50)))
