"""A file from the first address that gives it: resumed, checked, and named only when it is whole.

Addresses are tried in order; one that is busy or breaks off is tried again with growing pauses, going on where it stopped
(``Range`` with ``If-Range``). Size and checksum are judged before the file gets its name. Two processes that want the same
file share the work: one downloads, the other waits and takes the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssdconv.errors import DownloadError
from ssdconv.fetch.digest import Expected, digests
from ssdconv.fetch.faults import Fault, Refused, Transient
from ssdconv.fetch.http import RANGE_NOT_SATISFIABLE, Client, Reply, loopback
from ssdconv.fetch.lock import locked
from ssdconv.fetch.pages import LIMIT, complaint, confirmed, is_page
from ssdconv.fetch.part import Part

Progress = Callable[[str, int, int], None]
"""Told (text, bytes so far, bytes in all or 0)."""
CHUNK = 1 << 20
STEP = 1 << 14
"""Bytes that an attempt must add to count as progress."""
PAUSE_LIMIT = 60.0


@dataclass(frozen=True)
class Options:
    """How patient a download is.

    Attributes:
        timeout: seconds for connecting, and for each wait for data.
        attempts: tries of one address without progress.
        pause: seconds before the second try; doubles with each.
        window, least: the connection is given up when ``window`` seconds bring fewer than ``least`` bytes.
        limit: bytes; anything larger is refused.
        certificates: file with certificate authorities, None for the system's.
    """

    timeout: float = 30.0
    attempts: int = 5
    pause: float = 1.0
    window: float = 60.0
    least: int = 1 << 14
    limit: int = 4 << 30
    certificates: str | None = None


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
    best, left, again = part.size if part.url == url else 0, options.attempts, True
    while True:
        resumed = part.old or part.size > 0
        try:
            _receive(client, url, part, expected, options, tell)
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
            if left <= 0:
                raise
            tries = options.attempts - left
            pause = fault.wait if fault.wait is not None else options.pause * 2.0**tries
            time.sleep(min(pause, PAUSE_LIMIT))


def _receive(client: Client, url: str, part: Part, expected: Expected, options: Options, tell: Progress) -> None:
    """One request and its body, appended to ``part``; returns when the body is whole."""
    if part.size and (part.url != url or not (part.validator or expected.vouched)):
        part.drop()
    if expected.size is not None and part.size == expected.size:
        part.go_on()
        return
    headers = {}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.validator:
            headers["If-Range"] = part.validator
    reply, first = _file_reply(client, url, headers)
    try:
        total = _place(reply, url, part, expected, options)
        tell(part.target.name, part.size, total or 0)
        _body(reply, first, part, total, options, tell)
    finally:
        reply.close()


def _file_reply(client: Client, url: str, headers: dict[str, str]) -> tuple[Reply, bytes]:
    """The answer and its first block; Drive's question whether one is sure is answered."""
    here = url
    for _ in range(3):
        reply = client.get(here, headers)
        if reply.status == RANGE_NOT_SATISFIABLE:
            return reply, b""
        try:
            first = reply.read(CHUNK)
            if not is_page(reply.headers.get("Content-Type", ""), first):
                return reply, first
            while len(first) < LIMIT and (more := reply.read(LIMIT)):
                first += more
        except BaseException:
            reply.close()
            raise
        reply.close()
        target = confirmed(first, reply.url)
        if target is None:
            raise Refused(complaint(first))
        here = target
    raise Refused("it asks for confirmation again and again")


def _place(reply: Reply, url: str, part: Part, expected: Expected, options: Options) -> int | None:
    """Decide where the body belongs, before a byte is written; the whole file's size, None where unknown."""
    if reply.status == RANGE_NOT_SATISFIABLE:
        part.drop()
        raise Transient("it has nothing after what is here already")
    if reply.status == 206:
        where = reply.range
        changed = part.validator is not None and reply.validator not in (None, part.validator)
        if where is None or where[0] != part.size or changed:
            part.drop()
            raise Transient("it sent another piece than was asked for" if not changed else "the file changed there")
        total = where[1] if where[1] is not None else (part.size + reply.length if reply.length is not None else None)
    else:
        total = reply.length
    if total is not None and expected.size is not None and total != expected.size:
        raise Refused(f"this is not the file: it has {total} bytes instead of {expected.size}")
    total = total if total is not None else expected.size
    if total is None and not expected.vouched:
        raise Refused("it tells no length, and neither size nor checksum are known: a cut file would look whole")
    if total is not None and total > options.limit:
        raise Refused(f"it has {total} bytes, more than the limit of {options.limit}")
    if reply.status == 206:
        part.go_on()
    else:
        part.restart(url, reply.validator)
    return total


def _body(reply: Reply, block: bytes, part: Part, total: int | None, options: Options, tell: Progress) -> None:
    most = options.limit if total is None else total
    since, mark = time.monotonic(), part.size
    while block:
        if part.size + len(block) > most:
            part.drop()
            raise Refused(f"it sends more than {most} bytes")
        part.write(block)
        tell(part.target.name, part.size, total or 0)
        now = time.monotonic()
        if now - since > options.window:
            if part.size - mark < options.least:
                raise Transient(f"it sends fewer than {options.least} bytes in {options.window:g} s")
            since, mark = now, part.size
        block = reply.read(CHUNK)
    if total is not None and part.size < total:
        raise Transient(f"the connection ended after {part.size} of {total} bytes")
