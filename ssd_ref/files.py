"""Where the tool keeps files, writing one whole or not at all (temp file in the same folder, fsync, rename), and one process at a time."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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
        if target.exists() and not target.is_file():
            raise OutputError("this is a device, pipe or socket, not a file", where=str(dst))
        forget_stale(target.parent, f".{target.name[:100]}.*.*.tmp")
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


@contextmanager
def atomic_folder(dst: Path) -> Iterator[Path]:
    """A folder to write files to that become ``dst``'s when the block ends well, and leave no trace when it does not.

    Args:
        dst: the folder; where it stands already, files of the same names are replaced and others stay.

    Raises:
        OutputError: any OSError from the block or the renaming.
    """
    target = Path(os.path.realpath(dst))
    staged = target.with_name(f".{target.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        if target.exists() and not target.is_dir():
            raise OutputError("this is a file, not a folder", where=str(dst))
        target.parent.mkdir(parents=True, exist_ok=True)
        forget_stale(target.parent, f".{target.name[:100]}.*.*.tmp")
        staged.mkdir()
        yield staged
        written = sorted(staged.iterdir())
        for path in written:
            with open(path, "rb+") as stream:
                os.fsync(stream.fileno())
        if target.is_dir():
            for path in written:
                path.replace(target / path.name)
        else:
            staged.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        hint = "what stood there before is untouched; check the folder, its permissions and the free space"
        raise OutputError(f"cannot write the folder: {error.strerror or error}", where=str(dst), hint=hint) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def forget_stale(folder: Path, pattern: str) -> None:
    """Remove temporary files and folders of processes that are gone; the process id is the last but two part of the name."""
    for path in folder.glob(glob.escape(pattern).replace("[*]", "*")):
        parts = path.name.split(".")
        with contextlib.suppress(OSError):
            if len(parts) > 3 and parts[-3].isdigit() and not path.is_symlink() and not _alive(int(parts[-3])):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _alive(process: int) -> bool:
    if os.name == "nt":
        return True  # os.kill would end the process there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


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
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Ask the system to put a folder's entries, a renaming among them, on the disk; nothing where it cannot."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError:  # some network file systems cannot; the rename itself has happened
            pass
        finally:
            os.close(handle)


def open_here(path: Path, flags: int) -> IO[bytes]:
    """Open a file of our own unbuffered, for reading and writing; a link or anything but a plain file is refused.

    Args:
        path: the file.
        flags: of ``os.open`` besides, such as ``os.O_RDWR | os.O_CREAT``.

    Raises:
        OSError: it is a link or no plain file, or the system refuses.
    """
    handle = os.open(
        path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0), 0o666
    )
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "this is not a plain file", str(path))
    return os.fdopen(handle, "r+b", buffering=0)


PATIENCE = 2.0
"""Seconds to wait for a lock before saying so."""


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None, *, patience: float | None = None) -> Iterator[None]:
    """Hold an advisory lock on ``path``, which is made and left behind, empty; the system frees it when the process dies.

    Args:
        path: the lock file; its folder is made, a link in its place is not followed.
        waiting: called once when somebody else still holds the lock after ``patience`` seconds; what it raises ends the wait.
        patience: ``PATIENCE`` where it is None.

    Raises:
        OutputError: the file cannot be made, or is a link or no plain file.
    """
    from filelock import FileLock, Timeout  # 28 ms

    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=PATIENCE if patience is None else patience)
        except Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
    except OSError as error:
        raise OutputError(f"cannot make a lock file: {error.strerror}", where=str(path)) from None
    try:
        yield
    finally:
        lock.release()


def home() -> Path:
    """Folder for what the tool keeps between runs: ``SSDCONV_HOME``, else the platform's cache folder."""
    if "SSDCONV_HOME" in os.environ:
        return Path(os.environ["SSDCONV_HOME"]).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ssdconv"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "ssdconv" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssdconv"
