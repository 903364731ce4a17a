"""The parity report as a JSON file."""

from __future__ import annotations

import json
from pathlib import Path

from ssdconv.errors import FormatError, MissingError
from ssdconv.parity.layers.results import ParityReport
from ssdconv.ssd_ref.gate import read_input


def dumps(report: ParityReport) -> str:
    """The whole report: every probe of every input, with the derived figures."""
    return json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write(report: ParityReport, path: Path) -> Path:
    """Write ``dumps`` atomically.

    Raises:
        OutputError: the file cannot be written; an older one stays.
    """
    from ssdconv.ssd_ref.files import atomic_path

    with atomic_path(Path(path)) as temporary:
        temporary.write_text(dumps(report), encoding="utf-8")
    return Path(path)


def load(path: Path) -> ParityReport:
    """Read a report back.

    Raises:
        MissingError: no such file.
        FormatError: not a parity report.
    """
    try:
        return ParityReport.from_json(read_input(path, "document", "report"))
    except FileNotFoundError:
        raise MissingError("no such file", where=str(path)) from None
    except FormatError as error:
        raise FormatError(error.what, where=str(path)) from None
