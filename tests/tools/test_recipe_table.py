"""The table of recipes in docs/training.md is what the recipes say, and its cells follow the data."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from ssdconv.ssd_ref.loss_rule import LossRule
from ssdconv.train.recipe import Recipe, ScheduleSpec
from ssdconv.train.recipes import RECIPES, recipe_of

TOOL = Path(__file__).parents[2] / "tools" / "recipe_table.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe_table", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_is_current() -> None:
    found = subprocess.run([sys.executable, TOOL, "--check"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_recipe_is_in_it(tool: ModuleType) -> None:
    text = tool.table()
    assert all(f"`{name}`" in text for name in RECIPES)
    head = text.splitlines()[1]
    assert head.count("`") == 2 * (len(RECIPES) - len(tool.VARIANTS))


def test_cells_follow_the_data(tool: ModuleType) -> None:
    recipe = recipe_of("gluon")
    assert tool.ROWS["length"](recipe) == "240 epochs"
    assert tool.ROWS["drops"](recipe) == "×0.1 at 160 and 200"
    changed: Recipe = replace(recipe, schedule=ScheduleSpec("epochs", 7, (3,), factor=0.3, warmup=2))
    assert tool.ROWS["length"](changed) == "7 epochs"
    assert tool.ROWS["drops"](changed) == "×0.3 at 3"
    assert tool.ROWS["warm-up"](changed) == "rising from ×0.1, 2 epochs"
    assert next(iter(tool.differences(changed, recipe))) == ("`schedule.length`", "`7`")
    assert tool.ROWS["multipliers"](recipe_of("chainer")) == "bias: rate ×2, decay ×0"
    assert tool.ROWS["update"](recipe_of("caffe-mobilenet")).startswith("RMSProp 0.99")


def test_a_stale_document_is_noticed(tool: ModuleType) -> None:
    text = tool.DOCUMENT.read_text()
    assert tool.inserted(text) == text
    stale = text.replace("240 epochs", "241 epochs")
    assert stale != text
    assert tool.inserted(stale) == text
    with pytest.raises(SystemExit, match="no markers"):
        tool.inserted("nothing")


def test_every_field_of_every_loss_has_its_basis(tool: ModuleType) -> None:
    """What was measured was measured of today's recipes: a changed rule needs ``tools/computation.py`` again."""
    measured = json.loads(tool.MEASURED.read_text())
    assert set(measured) == set(RECIPES)
    for name, recipe in RECIPES.items():
        told = measured[name]
        assert msgspec.convert(told["rule"], type=LossRule) == recipe.loss, f"measure {name} again"
        assert set(told["fields"]) == {path for path, _ in _paths(recipe.loss)}
        assert set(told["fields"].values()) <= {"arrays", "reading"}
        assert "/" in recipe.facts or "." in recipe.facts, "where its figures come from"
        for row in told.get("targets", ()):
            assert row["priors differ"] == row["images differ"] == row.get("neutral differ", 0) == 0
        if "losses" in told:
            assert told["losses"]["terms"] < 1e-6 and told["gradients"] < 1e-5
            assert told["losses"].get("negatives differ", 0) == told["losses"].get("labels differ", 0) == 0


def _paths(rule: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(rule):
        value = getattr(rule, field.name)
        if is_dataclass(value):
            yield from _paths(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


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
def test_the_recorded_arrays_tell_most_rules(tool: ModuleType, name: str, least: int) -> None:
    told = json.loads(tool.MEASURED.read_text())[name]["fields"]
    assert sum(basis == "arrays" for basis in told.values()) >= least
