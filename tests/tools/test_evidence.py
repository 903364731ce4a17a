"""Fields and their wrong values are found by the specs themselves."""

from __future__ import annotations

from dataclasses import fields

import pytest

from ssdconv.tools import evidence
from ssdconv.train.augment.sources import SOURCES
from ssdconv.train.augment.spec import AugmentSpec


@pytest.mark.parametrize("name", SOURCES)
def test_every_field_gets_a_wrong_value(name: str) -> None:
    spec = SOURCES[name]
    found = dict(evidence.paths(spec))
    assert {path.partition(".")[0] for path in found} == {f.name for f in fields(AugmentSpec)}
    for path, value in found.items():
        wrong = [evidence.changed(spec, path, other) for other in evidence.other_specs(spec, path, value)]
        assert all(w != spec for w in wrong), path
        assert wrong, path
