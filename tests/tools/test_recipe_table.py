"""The table of recipes in docs/training.md is what the recipes say, and its cells follow the data."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from ssdconv.ssd_ref.train.recipe import Recipe, ScheduleSpec
from ssdconv.ssd_ref.train.recipes import RECIPES, recipe_of

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
