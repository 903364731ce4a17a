"""Training steps against the other sources' own code: recorded runs, and the frameworks' update rules live.

``tools/train_steps.py`` does the measuring.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from ssdconv.errors import MissingError
from ssdconv.parity.oracles.environments import install
from ssdconv.ssd_ref.train.recipes import RECIPES, recipe_of

TOOL = Path(__file__).parents[2] / "tools" / "train_steps.py"


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_steps", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_steps"] = module
    spec.loader.exec_module(module)
    return module


steps = _tool()


@pytest.mark.slow
@pytest.mark.parametrize("name", steps.RECORDED)
def test_three_updates_of_the_original_code(name: str) -> None:
    found = steps.recorded(name)
    assert found.tensors == 71
    assert found.losses < 1e-6
    assert found.weights < 5e-3 and found.changes < 1e-3


@pytest.mark.slow
def test_another_recipe_is_seen() -> None:
    recipe = recipe_of("simple-ssd")
    without = replace(recipe, optimizer=replace(recipe.optimizer, weight_decay=0.0))
    assert steps.recorded("simple-ssd", without).changes > 1e-3


@pytest.mark.oracle
@pytest.mark.parametrize("name", steps.UPDATES)
def test_update_rules_of_keras_and_tensorflow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        install("tensorflow", print)
    except MissingError as error:
        pytest.skip(f"no tensorflow: {error}")
    assert steps.updates(name) <= 1e-12
    recipe = recipe_of(name)
    other = "lr_outside" if recipe.optimizer.velocity == "lr_inside" else "lr_inside"
    wrong = replace(recipe, optimizer=replace(recipe.optimizer, velocity=other))
    monkeypatch.setitem(RECIPES, name, wrong)  # type: ignore[arg-type]
    assert steps.updates(name) > 1e-3, "the rate is on the other side of the velocity"
