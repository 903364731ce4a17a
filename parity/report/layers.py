"""A parity report written to a folder: ``parity.html`` (self-contained), ``parity.md`` and ``parity.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssdconv.errors import OutputError
from ssdconv.parity.diagnose.result import Diagnosis
from ssdconv.parity.layers.results import ParityReport
from ssdconv.parity.report.layers_html import html_page
from ssdconv.parity.report.layers_markdown import render
from ssdconv.parity.report.layers_pictures import images_of

LARGEST = 1e308
"""Stands for infinity, which JSON does not have."""


def write_report(
    directory: Path, report: ParityReport, *, diagnosis: Diagnosis | None = None, pictures: Sequence[Path] = ()
) -> list[Path]:
    """Write the three files; each replaces an older one in one step.

    Args:
        directory: made where it does not exist.
        report: what ``verify`` returned.
        diagnosis: why the networks differ, where it was asked.
        pictures: the photos that ``verify`` was given, to draw both sides' boxes on. Those that cannot be read are left out;
            the generated picture needs none.

    Returns:
        The files: HTML, Markdown, JSON. ``ParityReport.from_json`` reads the last; its key ``diagnosis`` is null or what
        ``Diagnosis.from_json`` reads.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    from ssdconv.ssd_ref.files import atomic_path

    directory = Path(directory)
    texts = {
        "html": html_page(report, diagnosis, images_of(report, pictures)),
        "md": render(report, diagnosis),
        "json": dumps(report, diagnosis),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder cannot be made: {error.strerror}", where=str(directory)) from None
    written = []
    for suffix, text in texts.items():
        target = directory / f"parity.{suffix}"
        with atomic_path(target) as partial:
            partial.write_text(text, encoding="utf-8")
        written.append(target)
    return written


def dumps(report: ParityReport, diagnosis: Diagnosis | None = None) -> str:
    """Report and diagnosis as JSON text."""
    data = report.to_json() | {"diagnosis": None if diagnosis is None else diagnosis.to_json()}
    return json.dumps(_finite(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else math.copysign(LARGEST, value)
    return value
