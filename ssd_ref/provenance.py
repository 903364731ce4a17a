"""What a checkpoint remembers of where it comes from, and the kinds of its parts. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssdconv.errors import FormatError

PROVENANCE: dict[str, type] = {
    **dict.fromkeys(("file", "sha256", "source", "format", "ssdconv"), str),
    **dict.fromkeys(("training", "prototxt", "request", "settings", "stored_shapes", "spec"), dict),
    "evidence": list,
}
"""Kinds of the parts of a provenance that are read again."""


def check_provenance(provenance: Any, path: Path) -> None:
    """Refuse a provenance whose parts are not of the kinds that are written.

    Raises:
        FormatError: names the part.
    """
    if not isinstance(provenance, dict):
        raise FormatError("damaged checkpoint: its provenance is no table", where=str(path))
    for name, kind in PROVENANCE.items():
        if not isinstance(provenance.get(name), kind | None):
            got = type(provenance[name]).__name__
            raise FormatError(
                f"damaged checkpoint: provenance {name!r} is no {kind.__name__}", where=str(path), got=got
            )
