"""Probe inputs: the pixels are prepared, seeded, and cover the range that the network was made for."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ssdconv.errors import MissingError
from ssdconv.parity.layers.inputs import make_inputs, noise_image, synthetic_picture
from ssdconv.ssd_ref.config import Preprocess

PIXELS = Preprocess((60, 80), mean=(104.0, 117.0, 123.0), scale=0.5)


def test_a_picture_and_noise_when_no_photo_is_given() -> None:
    inputs, notes = make_inputs(PIXELS, seed=7)
    assert [i.name for i in inputs] == ["synthetic picture, seed 7", "noise, seed 7"]
    assert len(notes) == 1 and "no image was given" in notes[0] and "--image" in notes[0]
    assert all(i.pixels.shape == (1, 3, 60, 80) and i.pixels.dtype == np.float32 for i in inputs)
    noise = inputs[1].pixels / np.float32(0.5) + np.reshape(PIXELS.mean, (1, 3, 1, 1))
    assert np.array_equal(noise[0].transpose(1, 2, 0), noise_image((60, 80), 7).astype(np.float32))
    assert noise.min() == 0 and noise.max() == 255


def test_seeds_decide() -> None:
    again, other = make_inputs(PIXELS, seed=7)[0], make_inputs(PIXELS, seed=8)[0]
    for a, b, c in zip(make_inputs(PIXELS, seed=7)[0], again, other, strict=True):
        assert np.array_equal(a.pixels, b.pixels) and not np.array_equal(a.pixels, c.pixels)


def test_photos_come_first_and_need_no_note(tmp_path: Path) -> None:
    photo = synthetic_picture(1, (90, 120))
    cv2.imwrite(str(tmp_path / "a.png"), photo)
    inputs, notes = make_inputs(PIXELS, [tmp_path / "a.png"], seed=0)
    assert [i.name for i in inputs] == ["a.png", "noise, seed 0"] and notes == ()
    warped = cv2.resize(photo, (80, 60), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    assert np.array_equal(inputs[0].pixels[0].transpose(1, 2, 0), (warped - np.float32(PIXELS.mean)) * np.float32(0.5))
    with pytest.raises(MissingError):
        make_inputs(PIXELS, [tmp_path / "b.png"])


def test_the_picture_has_flat_parts_edges_and_the_whole_range() -> None:
    picture = synthetic_picture(0)
    assert picture.shape == (375, 500, 3) and picture.dtype == np.uint8
    assert picture.min() < 20 and picture.max() > 235
    step = np.abs(np.diff(picture.astype(int), axis=1)).max(axis=2)
    assert (step > 60).any() and np.median(step) < 12
