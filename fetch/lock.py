"""One process at a time: an advisory lock on a file, held while a block runs and released by the system if it dies."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ssdconv.errors import OutputError
from ssdconv.ssd_ref.files import open_here

POLL_SECONDS = 0.1


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock on ``path``, which is made and left behind, empty.

    Args:
        path: the lock file; its folder is made.
        waiting: called once when another process holds the lock.

    Raises:
        OutputError: the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open_here(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise OutputError(f"cannot make a lock file: {error.strerror}", where=str(path)) from None
    with stream:
        told = False
        while not _try(stream):
            if not told and waiting is not None:
                waiting()
            told = True
            time.sleep(POLL_SECONDS)
        yield


def _try(stream: IO[bytes]) -> bool:
    try:
        import fcntl
    except ImportError:
        return _try_windows(stream)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _try_windows(stream: IO[bytes]) -> bool:
    import importlib

    msvcrt = importlib.import_module("msvcrt")
    stream.seek(0)
    try:
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True
