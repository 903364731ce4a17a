"""Generated shapes to train on, a network small enough for seconds, and a listener that remembers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ssdconv.data.custom import open_custom
from ssdconv.data.records import Dataset
from ssdconv.tools.shapes import write_shapes
from ssdconv.train.loop import Terms
from ssdconv.train.recipe import Recipe
from ssdconv.train.recipes import recipe_of


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VOC year's folder with 48 images to train on and 16 held out."""
    return write_shapes(tmp_path_factory.mktemp("shapes"), {"train": 48, "val": 16}, size=(96, 80)) / "VOC2007"


@pytest.fixture(scope="session")
def shapes(shapes_root: Path) -> Dataset:
    return open_custom(shapes_root, "train")


@dataclass
class Heard:
    """A ``Listener`` that keeps what it hears."""

    steps: list[tuple[int, Terms]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def step(self, epoch: int, done: int, total: int, terms: Terms) -> None:
        self.steps.append((done, terms))

    def epoch(self, values: dict[str, Any]) -> None:
        self.epochs.append(values)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="session")
def plain_recipe() -> Recipe:
    """GluonCV's recipe without zooming out, which makes these shapes vanish; batches of eight."""
    recipe = recipe_of("gluon")
    stages = tuple(s for s in recipe.augment.stages if s != "expand")
    return replace(recipe, batch_size=8, difficult="drop", augment=replace(recipe.augment, expand=None, stages=stages))
