"""Augmentation beside samples of the original code: the same distributions, the same pixels, and every field accounted for."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from ssdconv.parity.steps.augmentation import (
    LEAST_P,
    ORIGINALS,
    colour_cases,
    ks,
    original_features,
    our_features,
    p_values,
)
from ssdconv.train.augment import sources
from ssdconv.train.augment.spec import AugmentSpec, Expand, Photometric, RandomCrop
from ssdconv.train.recipes import RECIPES

ROOT = Path(__file__).parents[3]
CONFORMANCE = json.loads((ROOT / "tools/augmentation.json").read_text())["augmentation"]


def compared(shared: Path, name: str, samples: int, seed: int, **more: Any) -> dict[str, float]:
    golden, original = shared / "golden/train", ORIGINALS[name]
    ours = our_features(golden, shared / "data/images", original, samples, seed, **more)
    return p_values(ours, original_features(golden, original))


def test_the_test_of_distributions() -> None:
    """Smirnov's table: n = m = 50, D = 0.28 has p = 0.0392 (exact) and about 0.03 asymptotically; equal samples have 1."""
    rng = np.random.default_rng(0)
    one = np.arange(50.0)
    assert ks(one, one + 14) == pytest.approx(0.032, abs=0.004)
    assert ks(one, one) == 1.0
    assert ks(one, np.zeros(0)) == 0.0
    values = [ks(rng.random(300), rng.random(200)) for _ in range(400)]
    assert np.mean(np.asarray(values) < 0.1) == pytest.approx(0.1, abs=0.05)


@pytest.mark.shared
@pytest.mark.parametrize("name", ORIGINALS)
def test_samples_have_the_originals_distributions(name: str, shared: Path) -> None:
    found = compared(shared, name, 150, 3)
    assert len(found) == 65
    assert not {feature: p for feature, p in found.items() if p <= LEAST_P}


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", ORIGINALS)
def test_many_samples_have_the_originals_distributions(name: str, shared: Path) -> None:
    found = compared(shared, name, 4000, 4)
    assert not {feature: p for feature, p in found.items() if p <= LEAST_P}


@pytest.mark.shared
@pytest.mark.parametrize("name", ORIGINALS)
def test_colours_are_the_originals(name: str, shared: Path) -> None:
    """One of ChainerCV's cases differs by one level in 3 of 1,728 values: OpenCV 4.7 made it, whose byte HSV rounds otherwise."""
    found = colour_cases(shared / "golden/train", ORIGINALS[name])
    assert found.cases == {"ssd.pytorch": 47, "simple-ssd": 27, "chainer": 36, "gluon": 42}[name]
    assert found.equal + found.one_level == found.cases
    assert found.one_level <= (name in ("chainer", "simple-ssd"))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "part", "change"),
    [
        ("simple-ssd", "crop", {"exhausted": "whole"}),
        ("simple-ssd", "crop", {"meets": "any"}),
        ("chainer", "crop", {"meets": "any"}),
        ("gluon", "crop", {"needs_object": "no"}),
        ("ssd.pytorch", "crop", {"meets": "any"}),
        ("simple-ssd", "expand", {"probability": 0.6}),
    ],
)
def test_another_rule_would_be_noticed(name: str, part: str, change: dict[str, Any], shared: Path) -> None:
    spec = ORIGINALS[name].spec
    wrong = replace(spec, **{part: replace(getattr(spec, part), **change)})
    assert min(compared(shared, name, 1000, 3, spec=wrong, pixels=False).values()) <= LEAST_P


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("simple-ssd", {"visits": "each"}),
        ("simple-ssd", {"hue_edge": "saturate"}),
        ("simple-ssd", {"arithmetic": "round"}),
        ("chainer", {"arithmetic": "round"}),
        ("chainer", {"visits": "once"}),
        ("gluon", {"space": "hsv"}),
        ("ssd.pytorch", {"hue_unit": "half_degrees"}),
    ],
)
def test_another_colour_rule_would_be_noticed(name: str, change: dict[str, Any], shared: Path) -> None:
    spec = ORIGINALS[name].spec.photometric
    assert spec is not None
    found = colour_cases(shared / "golden/train", ORIGINALS[name], replace(spec, **change))
    assert found.equal + found.one_level < found.cases


def test_every_field_of_every_source_is_written_out() -> None:
    """No source takes over another's value by leaving it unsaid."""
    parts = {"photometric", "expand", "crop"}
    tables = {
        AugmentSpec: sources._WHOLE,
        Photometric: sources._PHOTOMETRIC,
        Expand: sources._EXPAND,
        RandomCrop: sources._CROP,
    }
    for kind, table in tables.items():
        said = table.keys() | (parts if kind is AugmentSpec else set())
        assert said == {f.name for f in fields(kind)}, kind.__name__
        assert {len(row) for row in table.values()} == {len(sources._NAMES)} == {9}, kind.__name__
    for name, recipe in RECIPES.items():
        assert any(recipe.augment is spec for spec in sources.SOURCES.values()), name


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_recorded_is_about_these_recipes(name: str) -> None:
    """Made by tools/evidence.py; run it again after a change of a recipe's augmentation."""
    row = CONFORMANCE[name]
    spec = RECIPES[name].augment
    assert row["spec"] == json.loads(msgspec.json.encode(spec))
    assert set(row["fields"].values()) <= {"samples", "colour cases", "reading"}
    if name in ORIGINALS:
        assert (row["features"], row["below_0.001"]) == (65, 0)
        assert row["colour_equal"] + row["colour_one_level"] == row["colour_cases"]
        assert set(row["fields"].values()) == {"samples", "colour cases", "reading"}
    else:
        assert set(row["fields"].values()) == {"reading"}
