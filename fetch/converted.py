"""Converted checkpoints of the zoo: kept in the cache, keyed by the files' sha256, the converter's version and its wishes.

A checkpoint's own sha256 lies beside it and is checked whenever it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from ssdconv import __version__
from ssdconv.errors import MappingError, SsdconvError
from ssdconv.fetch import digest
from ssdconv.fetch.entry import Entry, folder
from ssdconv.fetch.store import wanted
from ssdconv.ssd_ref.files import atomic_path, locked
from ssdconv.ssd_ref.networks.registry import builders

CONVERSION = 2
"""Raised when conversions of the same version of ssdconv change."""
NAMED = {"voc": 21, "coco": 81}
"""A record's word for its classes -> its conf channels, where they are that data set's in its order."""


def known(entry: Entry) -> tuple[str, ...] | None:
    """sha256 of each file of the entry by the lock file; None where one was never fetched."""
    pins = [wanted(file, entry.place)[1] for file in entry.files]
    return None if None in pins else tuple(pin.sha256 for pin in pins if pin is not None)


def target(entry: Entry, sha256: Sequence[str]) -> Path:
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
        return path if digest.sha256(path) == told else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make(entry: Entry, files: Sequence[Path], sha256: Sequence[str]) -> Path:
    """The checkpoint of ``files`` (weight file, then prototxt), converted unless it is there.

    Raises:
        FormatError, MappingError: the file is damaged, or holds another network than the record says.
        OutputError: the cache cannot be written.
    """
    path = target(entry, sha256)
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
            told = {"sha256": digest.sha256(path), "name": entry.record.name, "ssdconv": __version__}
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
