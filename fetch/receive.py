"""One answer of a server, appended to the part of a file that is here already, or refused before a byte is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ssdconv.fetch.digest import Expected
from ssdconv.fetch.faults import Fault, Refused, Transient
from ssdconv.fetch.http import RANGE_NOT_SATISFIABLE, Client, Reply
from ssdconv.fetch.pages import LIMIT, complaint, confirmed, is_page
from ssdconv.fetch.part import Part

Progress = Callable[[str, int, int], None]
"""Told (text, bytes so far, bytes in all or 0)."""
CHUNK = 1 << 20


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
