"""GluonCV's colours as one matrix: known properties of each change, and their product."""

from __future__ import annotations

import numpy as np
import pytest

from ssdconv.train.augment.photometric import in_yiq, yiq_matrix
from ssdconv.train.augment.spec import Change

PICTURE = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def grey(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float64) @ np.array([0.114, 0.587, 0.299])  # BGR


def test_brightness_and_contrast_are_plain() -> None:
    got = in_yiq(PICTURE, [Change("brightness", -40.0), Change("contrast", 1.5)])
    assert got.dtype == np.float32 and got.min() < 0
    assert np.allclose(got, (PICTURE.astype(float) - 40) * 1.5, atol=1e-3)


def test_saturation_mixes_with_grey() -> None:
    got = in_yiq(PICTURE, [Change("saturation", 0.3)])
    assert np.allclose(got, 0.3 * PICTURE + 0.7 * grey(PICTURE)[..., None], atol=1e-3)


@pytest.mark.parametrize("angle", [0.0, 0.4, -17.3])
def test_hue_keeps_luma_and_turns_all_the_way_round(angle: float) -> None:
    got = in_yiq(PICTURE, [Change("hue", angle)])
    assert np.allclose(grey(got), grey(PICTURE), atol=1.5)  # the source's matrices are rounded to three digits
    again = in_yiq(PICTURE, [Change("hue", angle + 2.0)])
    assert np.allclose(got, again, atol=1e-2)


def test_half_a_turn_inverts_colour() -> None:
    got = in_yiq(PICTURE, [Change("hue", 1.0)])
    luma = grey(PICTURE)[..., None]
    assert np.allclose(got - luma, luma - PICTURE, atol=2.0)


def test_the_product_is_the_changes_one_by_one() -> None:
    changes = [Change("brightness", 12.0), Change("saturation", 1.4), Change("hue", 3.3), Change("contrast", 0.7)]
    one_by_one: np.ndarray = PICTURE
    for change in changes:
        one_by_one = in_yiq(one_by_one, [change])
    assert np.allclose(in_yiq(PICTURE, changes), one_by_one, atol=1e-2)
    assert not np.allclose(in_yiq(PICTURE, changes[::-1]), one_by_one, atol=1.0)


def test_nothing() -> None:
    assert np.array_equal(yiq_matrix([]), np.eye(3, 4)) and np.array_equal(in_yiq(PICTURE, []), PICTURE)
