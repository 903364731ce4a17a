"""Where the tool keeps files, and writing a file whole or not at all: temp file in the same folder, fsync, rename."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssdconv.errors import OutputError

CHECKPOINTS = (".pth", ".pt", ".safetensors")
"""Endings of the files that hold checkpoints."""


@contextmanager
def atomic_path(dst: Path) -> Iterator[Path]:
    """A path to write to that becomes ``dst`` when the block ends well.

    The temporary file lies in ``dst``'s folder, empty. When the block ends, it is flushed to the disk
    and renamed over ``dst``, keeping ``dst``'s permissions; when the block raises anything, it is removed and ``dst`` stays
    what it was.

    Args:
        dst: the file to make or replace; a symbolic link is followed.

    Raises:
        OutputError: any OSError from the block or the renaming: no such folder, no permission, disk full, ``dst`` is a
            folder.
    """
    dst = Path(dst)
    target = Path(os.path.realpath(dst))
    temporary = target.with_name(f".{target.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        if target.is_dir():
            raise OutputError("this is a folder, not a file", where=str(dst))
        _probe(temporary)
        yield temporary
        _settle(temporary, target)
    except OSError as error:
        raise OutputError(
            f"cannot write the file: {error.strerror or error}",
            where=str(dst),
            hint="what stood there before is untouched; check the folder, its permissions and the free space",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _probe(temporary: Path) -> None:
    """Fail early, before hours of work, when nothing can be created here."""
    with open(temporary, "xb"):
        pass


def _settle(temporary: Path, target: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        temporary.chmod(target.stat().st_mode & 0o7777)
    with open(temporary, "rb+") as stream:
        os.fsync(stream.fileno())
    temporary.replace(target)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        except OSError:  # some network file systems cannot; the rename itself has happened
            pass
        finally:
            os.close(folder)


def home() -> Path:
    """Folder for what the tool keeps between runs: ``SSDCONV_HOME``, else the platform's cache folder."""
    if "SSDCONV_HOME" in os.environ:
        return Path(os.environ["SSDCONV_HOME"]).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ssdconv"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "ssdconv" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssdconv"
