"""A file from the first address that gives it: resumed, checked, and named only when it is whole.

Addresses are tried in order; one that is busy or breaks off is tried again with growing pauses, going on where it stopped
(``Range`` with ``If-Range``). Size and checksum are judged before the file gets its name. Two processes that want the same
file share the work: one downloads, the other waits and takes the result.

What is still arriving is ``NAME.part``, with what is needed to go on in ``NAME.part.json``. A part left by a process that died
is continued only when a whole checksum will judge the finished file; where nobody published one, nothing vouches for the bytes
that lie there, and they are dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ssdconv.errors import DownloadError, OutputError
from ssdconv.fetch.digest import Expected, digests
from ssdconv.fetch.http import (
    LIMIT,
    RANGE_NOT_SATISFIABLE,
    Client,
    Fault,
    Refused,
    Reply,
    Transient,
    complaint,
    confirmed,
    is_page,
    loopback,
)
from ssdconv.ssd_ref.files import locked, open_here, sync_folder

Progress = Callable[[str, int, int], None]
"""Told (text, bytes so far, bytes in all or 0)."""
CHUNK = 1 << 20
STEP = 1 << 14
"""Bytes that an attempt must add to count as progress."""
PAUSE_LIMIT = 60.0
HINT = "check the folder, its permissions and the free space; run it again to go on where it stopped"


class Part:
    """The bytes so far.

    Args:
        target: what the file will be called.
        expected: what it must be.

    Attributes:
        size: bytes so far.
        url, validator: where they come from, and the ETag or date that they had there.
        old: some of them were there before this process began.
    """

    def __init__(self, target: Path, expected: Expected) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self._about = target.with_name(target.name + ".part.json")
        self._algorithms = expected.algorithms
        self._stream: IO[bytes] | None = None
        self.size = 0
        self.url = ""
        self.validator: str | None = None
        self.old = False
        if expected.vouched:
            self._adopt(expected)

    def _adopt(self, expected: Expected) -> None:
        try:
            about = json.loads(self._about.read_text())
            url, validator = str(about["url"]), about["validator"]
            status = self.path.lstat()
        except (OSError, ValueError, KeyError, TypeError):
            return
        size = status.st_size
        if not stat.S_ISREG(status.st_mode) or size == 0 or (expected.size is not None and size > expected.size):
            return
        self.url, self.validator, self.size = url, validator if isinstance(validator, str) else None, size
        self.old = True

    def restart(self, url: str, validator: str | None) -> None:
        """Forget all bytes; what follows comes from ``url``."""
        self.close()
        self.size, self.url, self.validator, self.old = 0, url, validator, False
        try:
            for path in (self.path, self._about):
                path.unlink(missing_ok=True)  # never old bytes beside the new address, never through a link
            with self._about.open("x") as about:
                about.write(json.dumps({"url": url, "validator": validator}))
            self._stream = self.path.open("xb", buffering=0)
        except OSError as error:
            raise self._failed(error) from error

    def go_on(self) -> None:
        """Open for appending."""
        if self._stream is not None:
            return
        try:
            stream = open_here(self.path, os.O_RDWR)
            if os.fstat(stream.fileno()).st_size != self.size:
                stream.close()
                raise OSError(5, "the part changed its size")
            stream.seek(self.size)
        except OSError as error:
            raise self._failed(error) from error
        self._stream = stream

    def write(self, block: memoryview | bytes) -> None:
        """Append ``block``.

        Raises:
            OutputError: disk full and the like; what arrived on the disk stays and is counted.
        """
        assert self._stream is not None
        left = memoryview(block)
        while len(left):
            try:
                # A full disk first takes less than it was given, and only then refuses.
                count = self._stream.write(left)
            except OSError as error:
                raise self._failed(error) from error
            left = left[count:]
            self.size += count

    def digests(self) -> dict[str, str]:
        """Algorithm -> digest of what lies on the disk, read back from it; ends the writing.

        Raises:
            OutputError: it cannot be synced or read, or is not as long as what was written.
        """
        assert self._stream is not None
        try:
            os.fsync(self._stream.fileno())
            there = os.fstat(self._stream.fileno()).st_size
            if there != self.size:
                raise OSError(5, f"{there} of {self.size} bytes are on the disk")
            return digests(self.path, self._algorithms)
        except OSError as error:
            raise self._failed(error) from error

    def keep(self) -> None:
        """Give the finished file its name; after ``digests``."""
        try:
            self.close()
            self.path.replace(self.target)
        except OSError as error:
            raise self._failed(error) from error
        self._about.unlink(missing_ok=True)
        sync_folder(self.target.parent)

    def drop(self) -> None:
        """Remove the bytes."""
        self.close()
        self.size, self.validator, self.url, self.old = 0, None, "", False
        for path in (self.path, self._about):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; the bytes stay."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            with contextlib.suppress(OSError):
                stream.close()

    def _failed(self, error: OSError) -> OutputError:
        self.close()
        return OutputError(f"cannot write the file: {error.strerror or error}", where=str(self.path), hint=HINT)


@dataclass(frozen=True)
class Options:
    """How patient a download is.

    Attributes:
        timeout: seconds for connecting, and for each wait for data.
        attempts: tries of one address without progress.
        pause: seconds before the second try; doubles with each.
        window, least: the connection is given up when ``window`` seconds bring fewer than ``least`` bytes.
        pace: bytes per second; an address is given up when it has taken ten timeouts and a second for each ``pace`` bytes
            that it brought, however it spread them.
        limit: bytes; anything larger is refused.
        certificates: file with certificate authorities, None for the system's.
    """

    timeout: float = 30.0
    attempts: int = 5
    pause: float = 1.0
    window: float = 60.0
    least: int = 1 << 14
    pace: int = 1 << 15
    limit: int = 4 << 30
    certificates: str | None = None


@dataclass
class Patience:
    """How long one address may take in all, over all its tries.

    Attributes:
        options: what was agreed.
        start: ``time.monotonic()`` when the first try began.
        brought: bytes that it sent.
    """

    options: Options
    start: float = field(default_factory=time.monotonic)
    brought: int = 0

    @property
    def left(self) -> float:
        """Seconds until it is given up; negative afterwards."""
        return self.start + 10 * self.options.timeout + self.brought / self.options.pace - time.monotonic()

    def took(self, count: int) -> None:
        """Note ``count`` more bytes.

        Raises:
            Refused: it took too long for what it brought.
        """
        self.brought += count
        if self.left < 0:
            raise Refused(f"it is too slow: {self.brought} bytes in {time.monotonic() - self.start:.0f} s")


def receive(
    client: Client, url: str, part: Part, expected: Expected, options: Options, patience: Patience, tell: Progress
) -> None:
    """One request and its body, appended to ``part``; returns when the body is whole.

    Raises:
        Transient: what came is kept; asking again may bring the rest.
        Refused: this address does not give the file.
        OutputError: the disk is full or the folder not writable.
    """
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
    reply, first = _file_reply(client, url, headers, patience)
    try:
        total = _place(reply, url, part, expected, options)
        tell(part.target.name, part.size, total or 0)
        _body(reply, first, part, total, options, patience, tell)
    finally:
        reply.close()


def _file_reply(client: Client, url: str, headers: dict[str, str], patience: Patience) -> tuple[Reply, bytes]:
    """The answer and its first block; Drive's question whether one is sure is answered."""
    here = url
    for _ in range(3):
        patience.took(0)
        reply = client.get(here, headers, patience.left)
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
    if reply.status == 206 and not part.size:
        raise Refused("it sends a piece of the file, which was not asked for")
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


def _body(
    reply: Reply,
    first: bytes,
    part: Part,
    total: int | None,
    options: Options,
    patience: Patience,
    tell: Progress,
) -> None:
    """Append what comes until ``total`` or the end; whatever came before a cut is kept."""
    most = options.limit if total is None else total
    since, mark = time.monotonic(), part.size
    if part.size + len(first) > most:
        raise _too_much(part, most)
    part.write(first)
    tell(part.target.name, part.size, total or 0)
    buffer = memoryview(bytearray(CHUNK))
    while first and (total is None or part.size < total):
        # One byte more than allowed shows where a server without a length sends too much.
        room, filled, ended = min(CHUNK, most - part.size + (total is None)), 0, False
        try:
            while filled < room and not ended:
                count = reply.read_into(buffer[filled:room])
                filled, ended = filled + count, count == 0
                now = time.monotonic()
                if now - since > options.window:
                    if part.size + filled - mark < options.least:
                        raise Transient(f"it sends fewer than {options.least} bytes in {options.window:g} s")
                    since, mark = now, part.size + filled
                patience.took(count)
        except Fault:
            part.write(buffer[: min(filled, most - part.size)])
            raise
        if part.size + filled > most:
            raise _too_much(part, most)
        part.write(buffer[:filled])
        tell(part.target.name, part.size, total or 0)
        if ended:
            break
    if reply.length is None and total is not None and part.size == total and reply.read(1):
        raise _too_much(part, most)
    if total is not None and part.size < total:
        raise Transient(f"the connection ended after {part.size} of {total} bytes")


def _too_much(part: Part, most: int) -> Refused:
    part.drop()
    return Refused(f"it sends more than {most} bytes")


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
