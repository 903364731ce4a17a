"""Shared fixtures: where the reference data lies, and skipping with a reason where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("SSDCONV_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the reference data (``SSDCONV_SHARED``, default ``../shared``)."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data at {SHARED}; set SSDCONV_SHARED")
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SHARED.is_dir():
        return
    skip = pytest.mark.skip(reason=f"no reference data at {SHARED}; set SSDCONV_SHARED")
    for item in items:
        if "shared" in item.keywords:
            item.add_marker(skip)
