"""A file from the first address that gives it: resumed, checked, and named only when it is whole.

Addresses are tried in order; one that is busy or breaks off is tried again with growing pauses, going on where it stopped
(``Range`` with ``If-Range``). Size and checksum are judged before the file gets its name. Two processes that want the same
file share the work: one downloads, the other waits and takes the result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssdconv.errors import DownloadError
from ssdconv.fetch.digest import Expected, digests
from ssdconv.fetch.faults import Fault, Refused, Transient
from ssdconv.fetch.http import Client, loopback
from ssdconv.fetch.part import Part
from ssdconv.fetch.receive import Options, Patience, Progress, receive
from ssdconv.ssd_ref.files import locked

STEP = 1 << 14
"""Bytes that an attempt must add to count as progress."""
PAUSE_LIMIT = 60.0


@dataclass(frozen=True)
class Fetched:
    """A file that is there and was checked.

    Attributes:
        path: where.
        size: bytes.
        sha256: hexadecimal.
        url: the address that gave it; "" where it was there already.
    """

    path: Path
    size: int
    sha256: str
    url: str


def fetch(
    urls: Sequence[str],
    target: Path,
    expected: Expected,
    *,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Fetched:
    """Bring a file to ``target`` unless it lies there already.

    Args:
        urls: http(s) addresses, best first.
        target: its name here; the folder is made.
        expected: what it must be.
        options: how patient to be.
        progress: told about every block.

    Raises:
        DownloadError: no address gave the file; ``target`` does not exist then.
        OutputError: the disk is full or the folder not writable.
    """
    options = options or Options()
    tell = progress or (lambda text, done, total: None)
    lock = target.with_name(target.name + ".lock")
    with locked(lock, lambda: tell(f"waiting for another process that fetches {target.name}", 0, 0)):
        if target.is_file():
            found = digests(target, expected.algorithms)
            if expected.problem(target.stat().st_size, found) is None:
                return Fetched(target, target.stat().st_size, found["sha256"], "")
            target.unlink()
        return _from_any(urls, Part(target, expected), expected, options, tell)


def _from_any(urls: Sequence[str], part: Part, expected: Expected, options: Options, tell: Progress) -> Fetched:
    client = Client(options.timeout, options.certificates)
    failures = []
    try:
        for url in urls:
            try:
                return _from_one(client, url, part, expected, options, tell)
            except Fault as fault:
                failures.append(f"{url}: {fault}")
    finally:
        part.close()
    raise DownloadError(
        f"no address gave {part.target.name}",
        where=str(part.target),
        got="\n    ".join(["", *failures]) if failures else "no address",
        hint="check the network, try again later, or give a copy of your own with --mirror",
    )


def _from_one(client: Client, url: str, part: Part, expected: Expected, options: Options, tell: Progress) -> Fetched:
    """Try one address until it gives the file or is given up.

    Raises:
        Refused, Transient: it is given up.
    """
    if expected.algorithm is None and url.startswith("http:") and not loopback(url):
        raise Refused("plain http, and no checksum is known: anybody on the way could change the file")
    best, left, again, patience = part.size if part.url == url else 0, options.attempts, True, Patience(options)
    while True:
        resumed = part.old or part.size > 0
        try:
            receive(client, url, part, expected, options, patience, tell)
            found = part.digests()
            problem = expected.problem(part.size, found)
            if problem is None:
                part.keep()
                return Fetched(part.target, part.size, found["sha256"], url)
            part.drop()
            if not (resumed and again):
                raise Refused(f"this is not the file: {problem}")
            again = False  # joined from two halves that do not fit: once more from the start
        except Transient as fault:
            left = options.attempts if part.size >= best + STEP else left - 1
            best = max(best, part.size)
            if left <= 0 or patience.left < 0:
                raise
            tries = options.attempts - left
            pause = fault.wait if fault.wait is not None else options.pause * 2.0**tries
            time.sleep(min(pause, PAUSE_LIMIT))


__all__ = ["Fetched", "Options", "Progress", "fetch"]
