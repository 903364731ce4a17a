"""One process at a time: an advisory lock on a file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold an advisory lock on ``path``; where the platform has none, the final rename alone decides."""
    with path.open("w") as stream:
        _lock(stream, say)
        yield


def _lock(stream: IO[str], say: Callable[[str], None]) -> None:
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another process that installs the same oracle")
        fcntl.flock(stream, fcntl.LOCK_EX)
