"""Zoo files and the records in them, by name, and where each one's files are kept."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from ssdconv.errors import UsageError
from ssdconv.fetch import record
from ssdconv.fetch.record import File, Record
from ssdconv.fetch.store import Place
from ssdconv.ssd_ref.files import home
from ssdconv.ssd_ref.networks.registry import SOURCES

FILE = Path(__file__).parents[1] / "zoo.json"
"""The built-in zoo."""


@dataclass(frozen=True)
class Entry:
    """A record and the zoo file that it stands in."""

    record: Record
    file: Path

    @property
    def place(self) -> Place:
        """Where its files are kept."""
        name = self.record.name
        return Place(folder() / "files" / name.replace("/", "--"), folder() / "lock.json", name, self.file.parent)

    @property
    def files(self) -> tuple[File, ...]:
        """The weight file, then the prototxt where there is one."""
        return (self.record.file,) if self.record.prototxt is None else (self.record.file, self.record.prototxt)


def folder() -> Path:
    """The zoo's part of the cache."""
    return home() / "zoo"


def entries(zoo: Path | None = None) -> dict[str, Entry]:
    """Name -> entry of the built-in zoo, and of a zoo file of your own, whose records win.

    Raises:
        MissingError, FormatError: the file is absent or does not fit the schema.
    """
    table = {r.name: Entry(r, FILE) for r in record.read(FILE)}
    return table | ({r.name: Entry(r, zoo.resolve()) for r in record.read(zoo)} if zoo is not None else {})


def find(name: str, zoo: Path | None = None) -> Entry:
    """The entry of that name; ``ssd300_voc`` stands for the first source that has it.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    table = entries(zoo)
    for candidate in (name, *(f"{source}/{name}" for source in SOURCES)):
        if candidate in table:
            return table[candidate]
    close = difflib.get_close_matches(name, table, 1)
    raise UsageError(
        f"the zoo has no {name!r}", hint=f"did you mean {close[0]!r}?" if close else "`ssdconv zoo list` lists it"
    )
