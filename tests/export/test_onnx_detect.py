"""The detection rule in ONNX, run by ONNX Runtime, against ``ssd_ref.detect``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ssdconv.errors import UsageError
from ssdconv.export.onnx_detect import add_detections, differences
from ssdconv.ssd_ref.config import Postprocess, SSDConfig
from ssdconv.ssd_ref.networks.registry import network, networks

Array = np.ndarray[Any, Any]
Both = Callable[..., tuple[Array, Array]]
Ruled = Callable[..., SSDConfig]

# Scores in sixteenths and boxes that need no rounding: every tie is a tie on both sides, so rows must be equal.
EXACT = Postprocess(activation="none", code="corner", variance_encoded=True, score_threshold=0.25, nms_threshold=0.5)
RULES = {
    "plain": EXACT,
    "few candidates of a class": replace(EXACT, top_k=5),
    "few candidates of an image": replace(EXACT, top_k=13, top_k_scope="image"),
    "all candidates": replace(EXACT, top_k=-1),
    "score or equal": replace(EXACT, score_inclusive=True),
    "overlap or equal": replace(EXACT, nms_inclusive=True),
    "both or equal": replace(EXACT, nms_inclusive=True, score_inclusive=True, top_k=9),
    "few per class": replace(EXACT, max_per_class=2),
    "none per class": replace(EXACT, max_per_class=0),
    "few per image": replace(EXACT, keep_top_k=3),
    "all per image": replace(EXACT, keep_top_k=-1),
    "clip first": replace(EXACT, clip="before_nms"),
    "clip last": replace(EXACT, clip="after"),
    "no background": replace(EXACT, background=None),
    "background last": replace(EXACT, background=3),
    "large boxes": replace(EXACT, min_size=0.25),
    "large boxes, few candidates": replace(EXACT, min_size=0.25, top_k=4),
    "boxes of classes": replace(EXACT, share_location=False),
    "boxes of classes, few": replace(EXACT, share_location=False, top_k=5),
    "boxes of classes, few per image": replace(EXACT, share_location=False, top_k=13, top_k_scope="image"),
    "boxes of classes, large": replace(EXACT, share_location=False, min_size=0.25, background=2),
    "nothing passes": replace(EXACT, score_threshold=2.0),
}


def heads(seed: int, boxes: int, images: int = 3) -> tuple[Array, Array]:
    """Coarse corner offsets and scores in sixteenths, with many ties; boxes keep their corners in order."""
    rng = np.random.default_rng(seed)
    low, high = rng.integers(-2, 1, (images, 24, boxes, 2)), rng.integers(0, 3, (images, 24, boxes, 2))
    loc = np.concatenate([low, high], -1).reshape(images, 24, boxes * 4) / 8
    return loc.astype(np.float32), (rng.integers(0, 17, (images, 24, 4)) / 16).astype(np.float32)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_rows_are_those_of_the_reference(name: str, seed: int, both_ways: Both, ruled: Ruled) -> None:
    rule = RULES[name]
    theirs, ours = both_ways(ruled(rule), *heads(seed, 1 if rule.share_location else 4))
    assert theirs.shape == ours.shape
    assert len(ours) > (0 if rule.max_per_class and rule.score_threshold < 1 else -1)
    np.testing.assert_array_equal(theirs, ours)


def test_the_rules_differ_in_what_they_find(both_ways: Both, ruled: Ruled) -> None:
    found = {
        name: both_ways(ruled(rule), *heads(0, 1))[0].tobytes() for name, rule in RULES.items() if rule.share_location
    }
    # 24 priors: neither 400 candidates per class nor 200 detections per image are ever reached.
    assert found["plain"] == found["all candidates"] == found["all per image"]
    assert found["nothing passes"] == found["none per class"]
    assert len(set(found.values())) == len(found) - 3


@pytest.mark.parametrize("images", [1, 2, 5])
def test_any_number_of_images(images: int, both_ways: Both, ruled: Ruled) -> None:
    theirs, ours = both_ways(ruled(EXACT), *heads(7, 1, images))
    np.testing.assert_array_equal(theirs, ours)
    assert set(ours[:, 0]) == set(range(images))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("code", ["center_size", "corner", "corner_size"])
@pytest.mark.parametrize("encoded", [False, True])
def test_arithmetic(activation: Any, code: Any, encoded: bool, both_ways: Both, ruled: Ruled) -> None:
    rng = np.random.default_rng(3)
    loc, conf = rng.normal(size=(2, 24, 4)).astype(np.float32), rng.normal(size=(2, 24, 4)).astype(np.float32)
    # Corner codes with small offsets, so that no box is the wrong way round.
    loc *= 1.0 if code == "center_size" else 0.05
    rule = Postprocess(activation=activation, code=code, variance_encoded=encoded)
    theirs, ours = both_ways(ruled(rule), loc, conf)
    assert theirs.shape == ours.shape and len(ours) > 20
    np.testing.assert_array_equal(theirs[:, :2], ours[:, :2])
    np.testing.assert_allclose(theirs, ours, rtol=2e-6, atol=2e-7)


def test_the_exponent_is_capped(both_ways: Both, ruled: Ruled) -> None:
    loc = np.full((1, 24, 4), 30.0, np.float32)
    conf = np.random.default_rng(0).normal(size=(1, 24, 4)).astype(np.float32)
    capped, ours = both_ways(ruled(Postprocess(max_exponent=1.5)), loc, conf)
    free, _ = both_ways(ruled(Postprocess()), loc, conf)
    np.testing.assert_allclose(capped, ours, rtol=2e-6)
    assert np.ptp(free[:, 3:], axis=1).max() > 10 * np.ptp(capped[:, 3:], axis=1).max()


def test_one_class_alone(both_ways: Both, ruled: Ruled) -> None:
    loc, conf = heads(5, 1)
    theirs, ours = both_ways(ruled(replace(EXACT, top_k=6), 2), loc, conf[..., :2].copy())
    np.testing.assert_array_equal(theirs, ours)
    assert set(ours[:, 1]) == {1.0}


def test_what_onnx_cannot_say_is_told(ruled: Ruled) -> None:
    assert differences(ruled(Postprocess())) == ()
    assert "nms_eta" in differences(ruled(Postprocess(nms_eta=0.9)))[0]
    assert "wrong way round" in differences(ruled(EXACT))[0]
    assert all(differences(network(f"{row.source}/{row.name}")) == () for row in networks())


def test_a_rule_without_meaning_is_refused(ruled: Ruled) -> None:
    with pytest.raises(UsageError, match="one box per class"):
        add_detections(None, ruled(replace(EXACT, nms_inclusive=True, nms_threshold=0.0)))
