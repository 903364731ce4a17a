"""An evaluation written to a folder: ``evaluation.json``, ``evaluation.md`` and one self-contained
``evaluation.html``.
"""

from __future__ import annotations

from pathlib import Path

from ssdconv.errors import OutputError
from ssdconv.parity.accuracy.result import EvaluationResult
from ssdconv.parity.report.map_html import html_page
from ssdconv.parity.report.map_markdown import markdown


def write_report(result: EvaluationResult, folder: Path) -> dict[str, Path]:
    """Write the three files; each replaces an older one in one step. Returns form -> path.

    Raises:
        OutputError: the folder cannot be written.
    """
    texts = {"json": result.to_json() + "\n", "md": markdown(result), "html": html_page(result)}
    written: dict[str, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            target = folder / f"evaluation.{suffix}"
            partial = folder / f".evaluation.{suffix}.partial"
            partial.write_text(text, encoding="utf-8")
            partial.replace(target)
            written[suffix] = target
    except OSError as error:
        raise OutputError(f"the report cannot be written: {error.strerror}", where=str(folder)) from None
    return written
