"""The table of augmentation in the docs is what was recorded; fields and their wrong values are found by the specs themselves."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

from ssdconv.train.augment.sources import SOURCES
from ssdconv.train.augment.spec import AugmentSpec

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("augment_conformance", ROOT / "tools/augment_conformance.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_docs_are_current(tool: ModuleType) -> None:
    text = tool.DOCUMENT.read_text()
    assert tool.inserted(text) == text, "run python tools/augment_conformance.py --docs"


@pytest.mark.parametrize("name", SOURCES)
def test_every_field_gets_a_wrong_value(tool: ModuleType, name: str) -> None:
    """But `keep`, which knows one value only."""
    spec = SOURCES[name]
    found = dict(tool.paths(spec))
    assert {path.partition(".")[0] for path in found} == {f.name for f in fields(AugmentSpec)}
    for path, value in found.items():
        wrong = [tool.changed(spec, path, other) for other in tool.others(spec, path, value)]
        assert all(w != spec for w in wrong), path
        assert wrong or path == "keep", path
