"""Weights by name: ``zoo.json`` says where they come from and what is proven; this module fetches, checks and converts them.

``fetch.store`` brings the files of a record. Checkpoints made from them are kept in the cache, keyed by the files' sha256, the
converter's version and its options; a checkpoint's own sha256 lies beside it and is checked whenever it is used.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdconv import __version__
from ssdconv.errors import MappingError, SsdconvError, UsageError
from ssdconv.fetch.digest import sha256 as digest_of
from ssdconv.fetch.download import Options, Progress
from ssdconv.fetch.record import File, ZooRecord, read
from ssdconv.fetch.store import Obtained, Place, forget_archives, obtain, wanted
from ssdconv.ssd_ref.files import CHECKPOINTS, atomic_path, home, locked
from ssdconv.ssd_ref.networks.registry import SOURCES, builders

if TYPE_CHECKING:
    from ssdconv.ssd_ref.model import SSD

FILE = Path(__file__).parent / "zoo.json"
"""The built-in zoo."""
CONVERSION = 2
"""Raised when conversions of the same version of ssdconv change."""
NAMED = {"voc": 21, "coco": 81}
"""A record's word for its classes -> its conf channels, where they are that data set's in its order."""
SOURCE_FILES = (".caffemodel", ".params", ".npz", ".h5", ".hdf5", ".ckpt", ".pb", ".json")


@dataclass(frozen=True)
class Entry:
    """A record and the zoo file that it stands in."""

    record: ZooRecord
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
    table = {r.name: Entry(r, FILE) for r in read(FILE)}
    return table | ({r.name: Entry(r, zoo.resolve()) for r in read(zoo)} if zoo is not None else {})


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


def known_digests(entry: Entry) -> tuple[str, ...] | None:
    """sha256 of each file of the entry by the lock file; None where one was never fetched."""
    pins = [wanted(file, entry.place)[1] for file in entry.files]
    return None if None in pins else tuple(pin.sha256 for pin in pins if pin is not None)


def checkpoint_path(entry: Entry, sha256: Sequence[str]) -> Path:
    """Where the checkpoint made from files with these digests is kept."""
    r = entry.record
    key = json.dumps([list(sha256), __version__, CONVERSION, r.source, r.network, r.num_classes, r.channel_order])
    name = f"{r.name.replace('/', '--')}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    return folder() / "converted" / name


def about(path: Path) -> Path:
    """The file beside a checkpoint that holds its sha256."""
    return path.with_name(path.name + ".json")


def intact(path: Path) -> Path | None:
    """``path`` if it is the checkpoint that was written there, to the last bit."""
    try:
        told = json.loads(about(path).read_text())["sha256"]
        return path if digest_of(path) == told else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_checkpoint(entry: Entry, files: Sequence[Path], sha256: Sequence[str]) -> Path:
    """The checkpoint of ``files`` (weight file, then prototxt), converted unless it is there.

    Raises:
        FormatError, MappingError: the file is damaged, or holds another network than the record says.
        OutputError: the cache cannot be written.
    """
    path = checkpoint_path(entry, sha256)
    with locked(path.with_name(path.name + ".lock")):
        if (ready := intact(path)) is not None:
            return ready
        try:
            _convert(entry, files, path)
        except SsdconvError as error:
            path.unlink(missing_ok=True)
            error.hint = error.hint or f"`ssdconv zoo show {entry.record.name}` tells what is known about the file"
            raise
        with atomic_path(about(path)) as temporary:
            told = {"sha256": digest_of(path), "name": entry.record.name, "ssdconv": __version__}
            temporary.write_text(json.dumps(told) + "\n")
    return path


def _convert(entry: Entry, files: Sequence[Path], path: Path) -> None:
    from ssdconv.converters.convert import convert
    from ssdconv.converters.plan import KNOWN

    r = entry.record
    report = convert(
        files[0],
        path,
        source=r.source,
        network=r.network if r.network in builders(r.source) else None,
        prototxt=files[1] if len(files) > 1 else None,
        channel_order=r.channel_order,
        classes=KNOWN[r.dataset] if NAMED.get(r.dataset) == r.num_classes else (),
        digests=False,
    )
    expected, got = (r.num_classes, *r.input), (report.config.num_classes, *report.config.pixels.size)
    if expected != got:
        raise MappingError(
            "the file holds another network (classes, height, width)", where=str(files[0]), expected=expected, got=got
        )


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
    digests = known_digests(entry)
    if digests is not None and (ready := intact(checkpoint_path(entry, digests))) is not None:
        return ready
    fetched = original(entry, offline=offline, mirror=mirror, progress=progress)
    for one in fetched:
        if one.first_use:
            (say or warnings.warn)(first_use(one))
    return make_checkpoint(entry, [one.path for one in fetched], [one.sha256 for one in fetched])


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
    digests = known_digests(entry)
    made = checkpoint_path(entry, digests) if digests is not None else None
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
