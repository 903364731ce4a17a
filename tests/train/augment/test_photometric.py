"""Colour changes against OpenCV's own arithmetic on whole images, scalar loops, and the standard library's HSV.

GluonCV's colours as one matrix: known properties of each change, and their product.
"""

from __future__ import annotations

import colorsys
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ssdconv.train.augment.photometric import apply_changes, draw_changes, in_bytes, in_yiq, through_hsv, yiq_matrix
from ssdconv.train.augment.sources import CAFFE, CHAINER, JEDOL, SSD_KERAS, SSD_PYTORCH, TENSORFLOW
from ssdconv.train.augment.spec import AugmentSpec, ColourChange, Photometric

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)


def colours(spec: AugmentSpec) -> Photometric:
    assert spec.photometric is not None
    return spec.photometric


def scaled(image: np.ndarray, factor: float, shift: float) -> np.ndarray:
    """OpenCV's own multiply and add on bytes, rounded and saturated, as ``Mat::convertTo`` does."""
    return cv2.addWeighted(image, factor, image, 0.0, shift)


def hsv_channel(image: np.ndarray, channel: int, factor: float, shift: float) -> np.ndarray:
    planes = list(cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV)))
    planes[channel] = scaled(planes[channel], factor, shift)
    return cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2BGR)


@pytest.mark.parametrize("value", [-31.7, -3.5, 0.25, 12.5, 31.99])
def test_caffes_brightness_and_hue(value: float) -> None:
    got = apply_changes(PICTURE, [ColourChange("brightness", value)], colours(CAFFE))
    assert got.dtype == np.uint8 and np.array_equal(got, scaled(PICTURE, 1.0, value))
    got = apply_changes(PICTURE, [ColourChange("hue", value)], colours(CAFFE))
    assert np.array_equal(got, hsv_channel(PICTURE, 0, 1.0, value))  # saturates at 0, passes 180


@pytest.mark.parametrize("value", [0.5, 0.77, 1.0, 1.31, 1.5])
def test_caffes_contrast_and_saturation(value: float) -> None:
    got = apply_changes(PICTURE, [ColourChange("contrast", value)], colours(CAFFE))
    assert np.array_equal(got, scaled(PICTURE, value, 0.0))
    got = apply_changes(PICTURE, [ColourChange("saturation", value)], colours(CAFFE))
    assert np.array_equal(got, hsv_channel(PICTURE, 1, value, 0.0))


def test_changes_follow_each_other_in_order() -> None:
    changes = [
        ColourChange("brightness", 20.0),
        ColourChange("contrast", 1.4),
        ColourChange("saturation", 0.6),
        ColourChange("hue", 9.0),
    ]
    wanted = scaled(scaled(PICTURE, 1.0, 20.0), 1.4, 0.0)
    wanted = hsv_channel(hsv_channel(wanted, 1, 0.6, 0.0), 0, 1.0, 9.0)
    assert np.array_equal(apply_changes(PICTURE, changes, colours(CAFFE)), wanted)
    assert not np.array_equal(apply_changes(PICTURE, changes[::-1], colours(CAFFE)), wanted)


def test_chainer_cuts_off_and_turns_round() -> None:
    spec = colours(CHAINER)
    got = apply_changes(PICTURE, [ColourChange("contrast", 1.37)], spec)
    assert np.array_equal(got, np.clip(PICTURE.astype(float) * 1.37, 0, 255).astype(np.uint8))
    hsv = cv2.cvtColor(PICTURE, cv2.COLOR_BGR2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) - 18) % 180
    got = apply_changes(PICTURE, [ColourChange("hue", -18.0)], spec)
    assert np.array_equal(got, cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))


def test_floats_agree_with_the_standard_librarys_hsv() -> None:
    """ssd.pytorch: neither rounding nor limits; hue in degrees."""
    spec = colours(SSD_PYTORCH)
    got = apply_changes(PICTURE, [ColourChange("saturation", 1.3), ColourChange("hue", -15.0)], spec)
    assert got.dtype == np.float32
    for y, x in ((0, 0), (5, 9), (17, 33), (47, 63), (20, 2)):
        blue, green, red = (float(v) for v in PICTURE[y, x])
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        rgb = colorsys.hsv_to_rgb((h - 15 / 360) % 1, s * 1.3, v)
        assert got[y, x].tolist() == pytest.approx(rgb[::-1], abs=0.02)
    bright = apply_changes(PICTURE, [ColourChange("brightness", 30.5)], spec)
    assert np.array_equal(bright, PICTURE.astype(np.float32) + np.float32(30.5)) and bright.max() > 255


def test_floats_visit_hsv_though_nothing_changes_there() -> None:
    """After brightness has made pixels negative, the visit alone alters them, so the source's image is reproduced."""
    spec = replace(colours(SSD_PYTORCH), probability=0.0, channel_shuffle=0.0)
    changes = draw_changes(spec, np.random.default_rng(0))
    assert [(c.kind, c.value) for c in changes] == [("saturation", 1.0)]
    dark = np.array([[[3, 9, 20]]], np.uint8)
    got = apply_changes(dark, [ColourChange("brightness", -25.0), *changes], spec)
    there = cv2.cvtColor(dark.astype(np.float32) - 25, cv2.COLOR_BGR2HSV)
    assert np.allclose(got, cv2.cvtColor(there, cv2.COLOR_HSV2BGR))
    assert not np.allclose(got, dark.astype(np.float32) - 25)


def test_tensorflow_limits_saturation_and_the_result() -> None:
    spec = colours(TENSORFLOW)
    got = apply_changes(PICTURE, [ColourChange("saturation", 1.5), ColourChange("brightness", 32.0)], spec)
    assert got.dtype == np.float32 and got.min() >= 0 and got.max() <= 255
    vivid = np.array([[[0, 10, 200]]], np.uint8)
    blue, green, red = apply_changes(vivid, [ColourChange("saturation", 1.5)], spec)[0, 0].tolist()
    assert blue == 0 and red == pytest.approx(200) and green == pytest.approx(10, abs=0.01)  # S was 1 and stays 1


def test_ssd_keras_turns_contrast_about_the_middle() -> None:
    got = apply_changes(PICTURE, [ColourChange("contrast", 0.5)], colours(SSD_KERAS))
    assert np.array_equal(got, np.rint(127.5 + 0.5 * (PICTURE.astype(np.float32) - 127.5)).astype(np.uint8))


def test_channels() -> None:
    change = ColourChange("channels", order=(2, 0, 1))
    for spec in (CAFFE, SSD_PYTORCH):
        got = apply_changes(PICTURE, [change], colours(spec))
        assert np.array_equal(got, PICTURE[..., [2, 0, 1]])


def test_opencv_takes_hues_beyond_180() -> None:
    """What makes Caffe's saturating hue harmless at the upper end."""
    for hue in (1, 10, 17):
        low, high = (np.array([[[h, 200, 180]]], np.uint8) for h in (hue, hue + 180))
        assert np.array_equal(cv2.cvtColor(low, cv2.COLOR_HSV2BGR), cv2.cvtColor(high, cv2.COLOR_HSV2BGR))


def test_one_visit_to_hsv_for_two_changes() -> None:
    both = through_hsv(PICTURE, [ColourChange("saturation", 0.8), ColourChange("hue", 7.0)], colours(CAFFE))
    apart = in_bytes(PICTURE, [ColourChange("saturation", 0.8), ColourChange("hue", 7.0)], colours(CAFFE))
    assert np.abs(both.astype(int) - apart).mean() < 1.5
    alone = through_hsv(PICTURE, [ColourChange("hue", 7.0)], colours(CAFFE))
    assert np.array_equal(alone, hsv_channel(PICTURE, 0, 1.0, 7.0))


def drawn(spec: Photometric, count: int = 8000) -> list[tuple[ColourChange, ...]]:
    rng = np.random.default_rng(4)
    return [draw_changes(spec, rng) for _ in range(count)]


def test_probabilities_and_ranges() -> None:
    lists = drawn(colours(CAFFE))
    seen = Counter(c.kind for changes in lists for c in changes)
    assert seen.keys() == {"brightness", "contrast", "saturation", "hue"}
    assert all(abs(n / len(lists) - 0.5) < 0.025 for n in seen.values())
    values = {k: np.array([c.value for changes in lists for c in changes if c.kind == k]) for k in seen}
    for kind, (low, high) in {"brightness": (-32, 32), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-18, 18)}.items():  # fmt: skip
        part = (values[kind] - low) / (high - low)
        assert 0 <= part.min() < 0.01 and 0.99 < part.max() <= 1
        assert abs(part.mean() - 0.5) < 0.02 and abs(part.std() - 12**-0.5) < 0.01


def test_orders() -> None:
    whole = replace(colours(CAFFE), probability=1.0)
    orders = Counter(tuple(c.kind for c in changes) for changes in drawn(whole, 4000))
    assert orders.keys() == set(whole.orders) and all(abs(n / 4000 - 0.5) < 0.035 for n in orders.values())
    first = Counter(changes[0].kind for changes in drawn(colours(TENSORFLOW), 4000))
    assert abs(first["brightness"] / 4000 - 0.25) < 0.03 and all(len(c) == 2 for c in drawn(colours(TENSORFLOW), 50))


def test_jedols_brightness_and_hue_never_run() -> None:
    assert {c.kind for changes in drawn(colours(JEDOL), 500) for c in changes} == {"contrast", "saturation"}


def test_chainers_hue_is_a_whole_number() -> None:
    values = Counter(c.value for changes in drawn(colours(CHAINER)) for c in changes if c.kind == "hue")
    assert set(values) == set(map(float, range(-18, 19)))
    assert max(values.values()) < 2 * min(values.values())


def test_channel_shuffle() -> None:
    orders = Counter(c.order for changes in drawn(colours(SSD_PYTORCH)) for c in changes if c.kind == "channels")
    assert len(orders) == 6 and abs(sum(orders.values()) / 8000 - 0.5) < 0.025
    assert max(orders.values()) < 1.3 * min(orders.values())


YIQ_PICTURE = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def grey(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float64) @ np.array([0.114, 0.587, 0.299])  # BGR


def test_brightness_and_contrast_are_plain() -> None:
    got = in_yiq(YIQ_PICTURE, [ColourChange("brightness", -40.0), ColourChange("contrast", 1.5)])
    assert got.dtype == np.float32 and got.min() < 0
    assert np.allclose(got, (YIQ_PICTURE.astype(float) - 40) * 1.5, atol=1e-3)


def test_saturation_mixes_with_grey() -> None:
    got = in_yiq(YIQ_PICTURE, [ColourChange("saturation", 0.3)])
    assert np.allclose(got, 0.3 * YIQ_PICTURE + 0.7 * grey(YIQ_PICTURE)[..., None], atol=1e-3)


@pytest.mark.parametrize("angle", [0.0, 0.4, -17.3])
def test_hue_keeps_luma_and_turns_all_the_way_round(angle: float) -> None:
    got = in_yiq(YIQ_PICTURE, [ColourChange("hue", angle)])
    assert np.allclose(grey(got), grey(YIQ_PICTURE), atol=1.5)  # the source's matrices are rounded to three digits
    again = in_yiq(YIQ_PICTURE, [ColourChange("hue", angle + 2.0)])
    assert np.allclose(got, again, atol=1e-2)


def test_half_a_turn_inverts_colour() -> None:
    got = in_yiq(YIQ_PICTURE, [ColourChange("hue", 1.0)])
    luma = grey(YIQ_PICTURE)[..., None]
    assert np.allclose(got - luma, luma - YIQ_PICTURE, atol=2.0)


def test_the_product_is_the_changes_one_by_one() -> None:
    changes = [
        ColourChange("brightness", 12.0),
        ColourChange("saturation", 1.4),
        ColourChange("hue", 3.3),
        ColourChange("contrast", 0.7),
    ]
    one_by_one: np.ndarray = YIQ_PICTURE
    for change in changes:
        one_by_one = in_yiq(one_by_one, [change])
    assert np.allclose(in_yiq(YIQ_PICTURE, changes), one_by_one, atol=1e-2)
    assert not np.allclose(in_yiq(YIQ_PICTURE, changes[::-1]), one_by_one, atol=1.0)


def test_nothing() -> None:
    assert np.array_equal(yiq_matrix([]), np.eye(3, 4)) and np.array_equal(in_yiq(YIQ_PICTURE, []), YIQ_PICTURE)
