"""Weights by name: ``zoo.json`` says where they come from and what is proven; this module fetches, checks and converts them.

``fetch.store`` brings files, ``fetch.converted`` keeps checkpoints, ``fetch.record`` is the form of the records.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdconv.errors import UsageError
from ssdconv.fetch.converted import intact, known, make, target
from ssdconv.fetch.download import Options, Progress
from ssdconv.fetch.entry import FILE, Entry, entries, find, folder
from ssdconv.fetch.store import Obtained, forget_archives, obtain, wanted
from ssdconv.ssd_ref.files import CHECKPOINTS, locked

if TYPE_CHECKING:
    from ssdconv.ssd_ref.model import SSD

SOURCE_FILES = (".caffemodel", ".params", ".npz", ".h5", ".hdf5", ".ckpt", ".pb", ".json")


@dataclass(frozen=True)
class Cached:
    """What of an entry lies on this machine.

    Attributes:
        original, size: the source's file and its bytes, None where it is not here.
        converted, converted_size: the checkpoint made from it.
        trust: "published" or "first use", None where it was never fetched.
    """

    original: Path | None
    size: int | None
    converted: Path | None
    converted_size: int | None
    trust: str | None


def original(
    entry: Entry,
    *,
    offline: bool = False,
    mirror: str | None = None,
    progress: Progress | None = None,
    options: Options | None = None,
) -> list[Obtained]:
    """The entry's weight file, then its prototxt where it has one; fetched unless they are there.

    Raises:
        DownloadError: one could not be fetched.
    """
    with locked(entry.place.folder / "all.busy"):
        found = [
            obtain(file, entry.place, offline=offline, mirror=mirror, options=options, progress=progress)
            for file in entry.files
        ]
        forget_archives(entry.place)
    return found


def weights(
    name: str,
    *,
    zoo: Path | None = None,
    offline: bool = False,
    mirror: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """The converted checkpoint of a name: from the cache, or downloaded and converted first.

    Args:
        name: see ``find``.
        zoo: a zoo file of your own.
        offline: touch no network.
        mirror: address or folder that is asked first.
        progress: told (text, bytes so far, bytes in all).
        say: told when a file without published checksum is trusted for the first time; default: ``warnings.warn``.

    Raises:
        UsageError: no such name.
        DownloadError: it could not be fetched.
        FormatError, MappingError: it could not be converted.
    """
    entry = find(name, zoo)
    digests = known(entry)
    if digests is not None and (ready := intact(target(entry, digests))) is not None:
        return ready
    fetched = original(entry, offline=offline, mirror=mirror, progress=progress)
    for one in fetched:
        if one.first_use:
            (say or warnings.warn)(first_use(one))
    return make(entry, [one.path for one in fetched], [one.sha256 for one in fetched])


def first_use(one: Obtained) -> str:
    """The sentence that tells about trust on first use."""
    return (
        f"nobody published a whole checksum of {one.path.name}: its sha256 {one.sha256} was recorded in "
        f"{folder() / 'lock.json'} (trust on first use)"
    )


def load(path_or_name: str | Path, device: Any = "cpu", *, offline: bool = False) -> SSD:
    """A network, from a checkpoint or by its name in the zoo: ``ssdconv.load("res10_300x300_ssd")``.

    Args:
        path_or_name: a checkpoint that ssdconv wrote, or a name that ``ssdconv zoo list`` knows; a file of that name wins.
        device: where the network shall run.
        offline: touch no network; what is in the cache is used.

    Raises:
        MissingError, UnsafeFileError, FormatError: see ``ssd_ref.checkpoint.load``.
        UsageError: neither a file nor a name.
        DownloadError: the name's file could not be fetched.
    """
    path = path_or_name
    if isinstance(path, str) and not path.endswith((*CHECKPOINTS, *SOURCE_FILES)) and not Path(path).exists():
        try:
            find(path)
        except UsageError as error:
            raise UsageError(f"{path!r} is neither a file nor a name of the zoo", hint=error.hint) from None
        path = weights(path, offline=offline)
    from ssdconv.ssd_ref.checkpoint import load as load_checkpoint

    return load_checkpoint(path, device)


def cached(entry: Entry) -> Cached:
    """What of an entry lies here, by existence and size; ``ssdconv zoo verify`` looks at every byte."""
    path = entry.place.folder / entry.record.file.name
    digests = known(entry)
    made = target(entry, digests) if digests is not None else None
    pin = wanted(entry.record.file, entry.place)[1]
    here, ready = path.is_file(), made is not None and made.is_file()
    return Cached(
        path if here else None,
        path.stat().st_size if here else None,
        made if ready else None,
        made.stat().st_size if made is not None and ready else None,
        pin.trust if pin else None,
    )


def local(zoo: Path | None = None) -> list[str]:
    """Names with a converted or original file on this machine."""
    found = ((name, cached(entry)) for name, entry in entries(zoo).items())
    return [name for name, state in found if state.original or state.converted]


__all__ = [
    "FILE",
    "Cached",
    "Entry",
    "cached",
    "entries",
    "find",
    "first_use",
    "folder",
    "load",
    "local",
    "original",
    "weights",
]
