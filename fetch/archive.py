"""One named member of a tar or zip archive, and nothing else: no links, no paths, no more bytes than expected."""

from __future__ import annotations

import difflib
import lzma
import tarfile
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from ssdconv.errors import DownloadError, UnsafeFileError
from ssdconv.fetch.digest import BLOCK, Expected, digests
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.ssd_ref.gate import reader

DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError)
"""What the libraries raise for archives that are not as they should be."""
MAX_MEMBERS = 100_000
MAX_UNPACKED = 8 << 30
"""Bytes that may be unpacked on the way to the member."""


@reader
def extract(archive: Path, member: str, target: Path, expected: Expected, *, limit: int = 4 << 30) -> str:
    """Unpack ``member`` to ``target`` and return its sha256.

    Args:
        archive: a tar (plain, gz, bz2, xz) or zip file.
        member: its exact name in the archive.
        target: the file to make; it gets its name when size and checksum are right.
        expected: what the member must be.
        limit: bytes; a larger member is refused.

    Raises:
        UnsafeFileError: the member is a link, a device or a folder, is named ambiguously, or is too large.
        DownloadError: no such member, a damaged archive, or not the file that was expected.
        OutputError: ``target`` cannot be written.
    """
    if member.startswith("/") or "\\" in member or ".." in member.split("/"):
        raise UnsafeFileError(f"no member may be called {member!r}", where=str(archive))
    with ExitStack() as stack:
        try:
            stream, size = _open(archive, member, stack)
        except (*DAMAGE, OSError) as error:
            raise _damaged(archive, error) from error
        if size > limit or (expected.size is not None and size != expected.size):
            raise UnsafeFileError(
                f"the member {member!r} has another size",
                where=str(archive),
                expected=expected.size if expected.size is not None else f"at most {limit}",
                got=size,
            )
        with atomic_path(target) as temporary:
            found = _copy(stream, temporary, size, expected, archive)
            problem = expected.problem(temporary.stat().st_size, found)
            if problem is not None:
                raise DownloadError(f"the member {member!r} is not the file: {problem}", where=str(archive))
    return found["sha256"]


def _open(archive: Path, member: str, stack: ExitStack) -> tuple[IO[bytes], int]:
    if zipfile.is_zipfile(archive):
        return _open_zip(stack.enter_context(zipfile.ZipFile(archive)), member, archive, stack)
    tar = stack.enter_context(tarfile.open(archive, "r:*"))  # noqa: SIM115 - the stack closes it
    names = []
    for info in tar:
        names.append(info.name)
        if info.name == member:
            if not info.isreg() or info.sparse is not None:
                raise UnsafeFileError(f"the member {member!r} is no plain file", where=str(archive))
            stream = tar.extractfile(info)
            assert stream is not None
            return stream, info.size
        if len(names) > MAX_MEMBERS or tar.offset > MAX_UNPACKED:
            raise UnsafeFileError("the archive is larger than any weight archive", where=str(archive))
    raise _absent(archive, member, names)


def _open_zip(bundle: zipfile.ZipFile, member: str, archive: Path, stack: ExitStack) -> tuple[IO[bytes], int]:
    found = [info for info in bundle.infolist() if info.filename == member]
    if not found:
        raise _absent(archive, member, bundle.namelist())
    kind = found[0].external_attr >> 28
    if len(found) > 1 or found[0].is_dir() or kind not in (0, 8) or found[0].flag_bits & 1:
        raise UnsafeFileError(f"the member {member!r} is no plain file, or there are several", where=str(archive))
    return stack.enter_context(bundle.open(found[0])), found[0].file_size


def _copy(stream: IO[bytes], target: Path, size: int, expected: Expected, archive: Path) -> dict[str, str]:
    """Copy at most ``size`` bytes, whatever the archive's directory claims."""
    count = 0
    with target.open("wb") as out:
        while count <= size:
            try:
                block = stream.read(min(BLOCK, size + 1 - count))
            except DAMAGE as error:
                raise _damaged(archive, error) from error
            if not block:
                break
            out.write(block)
            count += len(block)
    if count != size:
        raise DownloadError("the archive is damaged: a member is cut or too long", where=str(archive))
    return digests(target, expected.algorithms)


def _absent(archive: Path, member: str, names: list[str]) -> DownloadError:
    close = difflib.get_close_matches(member, names, 3, 0.3)
    return DownloadError(
        f"the archive has no {member!r}", where=str(archive), hint=f"there is {', '.join(close)}" if close else None
    )


def _damaged(archive: Path, error: BaseException) -> DownloadError:
    return DownloadError(f"the archive is damaged: {error}", where=str(archive), hint="remove it and fetch it again")
