"""The tables in the documents are what the data say, and cells follow the data."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from ssdconv.ssd_ref.loss_rule import LossRule
from ssdconv.tools import tables
from ssdconv.tools.evidence import paths
from ssdconv.train.recipe import Recipe, ScheduleSpec
from ssdconv.train.recipes import RECIPES, recipe_of

ROOT = Path(__file__).parents[2]


def test_the_documents_are_current() -> None:
    found = subprocess.run(
        [sys.executable, ROOT / "tools/tables.py", "--check"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_recipe_is_in_it() -> None:
    text = tables.recipes()
    assert all(f"`{name}`" in text for name in RECIPES)
    head = text.splitlines()[0]
    assert head.count("`") == 2 * (len(RECIPES) - len(tables.VARIANTS))


def test_cells_follow_the_data() -> None:
    recipe = recipe_of("gluon")
    assert tables.ROWS["length"](recipe) == "240 epochs"
    assert tables.ROWS["drops"](recipe) == "×0.1 at 160 and 200"
    changed: Recipe = replace(recipe, schedule=ScheduleSpec("epochs", 7, (3,), factor=0.3, warmup=2))
    assert tables.ROWS["length"](changed) == "7 epochs"
    assert tables.ROWS["drops"](changed) == "×0.3 at 3"
    assert tables.ROWS["warm-up"](changed) == "rising from ×0.1, 2 epochs"
    assert next(iter(tables.differences(changed, recipe))) == ("`schedule.length`", "`7`")
    assert tables.ROWS["multipliers"](recipe_of("chainer")) == "bias: rate ×2, decay ×0"
    assert tables.ROWS["update"](recipe_of("caffe-mobilenet")).startswith("RMSProp 0.99")


def test_a_stale_document_is_noticed() -> None:
    text = (ROOT / "docs/training.md").read_text()
    table = tables.recipes()
    assert tables.inserted(text, "recipes", table) == text
    stale = text.replace("240 epochs", "241 epochs")
    assert stale != text
    assert tables.inserted(stale, "recipes", table) == text
    with pytest.raises(SystemExit, match="no markers"):
        tables.inserted("nothing", "recipes", table)


def test_every_field_of_every_loss_has_its_basis() -> None:
    """What was measured was measured of today's recipes: a changed rule needs ``tools/evidence.py`` again."""
    measured = json.loads(tables.MEASURED.read_text())
    assert set(measured) == set(RECIPES)
    for name, recipe in RECIPES.items():
        told = measured[name]
        assert msgspec.convert(told["rule"], type=LossRule) == recipe.loss, f"measure {name} again"
        assert set(told["fields"]) == {path for path, _ in paths(recipe.loss)}
        assert set(told["fields"].values()) <= {"arrays", "reading"}
        assert "/" in recipe.facts or "." in recipe.facts, "where its figures come from"
        for row in told.get("targets", ()):
            assert row["priors differ"] == row["images differ"] == row.get("neutral differ", 0) == 0
        if "losses" in told:
            assert told["losses"]["terms"] < 1e-6 and told["gradients"] < 1e-5
            assert told["losses"].get("negatives differ", 0) == told["losses"].get("labels differ", 0) == 0


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("gluon", 8),
        ("chainer", 8),
        ("ssd.pytorch", 8),
        ("simple-ssd", 6),
        ("keras", 8),
        ("ssd_keras", 8),
        ("tensorflow", 8),
    ],
)
def test_the_recorded_arrays_tell_most_rules(name: str, least: int) -> None:
    told = json.loads(tables.MEASURED.read_text())[name]["fields"]
    assert sum(basis == "arrays" for basis in told.values()) >= least
