"""Expansion: the law of the canvas and the place, and the fill."""

from __future__ import annotations

import numpy as np

from ssdconv.ssd_ref.config import Preprocess
from ssdconv.train.augment.draw import draw_expand
from ssdconv.train.augment.render import fill_value, on_canvas
from ssdconv.train.augment.spec import Expand, Place


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
    out = on_canvas(image, Place(1, 2, 7, 5), (103.94, 116.78, 123.5))
    assert out.shape == (5, 7, 3) and out.dtype == np.uint8
    assert np.array_equal(out[2:4, 1:5], image)
    out[2:4, 1:5] = (104, 117, 124)
    assert (out == (104, 117, 124)).all()
    floats = on_canvas(image.astype(np.float32), Place(1, 2, 7, 5), (103.94, 116.78, 123.5))
    assert floats.dtype == np.float32 and np.allclose(floats[0, 0], (103.94, 116.78, 123.5))


def test_fills() -> None:
    caffe = Preprocess((300, 300), "BGR", mean=(104, 117, 123))
    gluon = Preprocess((512, 512), "RGB", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), unit=255.0)
    keras = Preprocess((300, 300), "BGR", mean=(103.939, 116.779, 123.68))
    assert fill_value(caffe, "mean") == (104, 117, 123)
    assert np.allclose(fill_value(gluon, "mean"), (103.53, 116.28, 123.675))
    assert fill_value(keras, "mean_uint8") == (103, 116, 123)
    assert fill_value(keras, "zero") == (0, 0, 0)
