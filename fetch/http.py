"""One HTTP GET: redirects that never leave https for http, proxies from the environment, timeouts, errors told apart.

Faults are ``Transient`` where the same request may succeed later and ``Refused`` where it will not.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import re
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from ssdconv import __version__
from ssdconv.fetch.faults import Refused, Transient

BUSY = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
"""Statuses after which the same request may succeed."""
RANGE_NOT_SATISFIABLE = 416
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_REDIRECTS = 10


@dataclass
class Reply:
    """An answer whose body has not been read.

    Attributes:
        status: 200, 206 or 416.
        headers: as sent.
        url: where it came from after redirects.
        body: to be read with ``read``.
    """

    status: int
    headers: Message
    url: str
    body: Any

    def read(self, size: int) -> bytes:
        """What the next packet brings, at most ``size`` bytes; b"" at the end.

        Raises:
            Transient: a timeout or a cut connection.
        """
        try:
            block: bytes = self.body.read1(size)
        except http.client.IncompleteRead as error:
            raise Transient("the connection was cut inside a chunk") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _network(error) from error
        return block

    def read_into(self, view: memoryview) -> int:
        """What the next packet brings, put into ``view``; 0 at the end. May read past Content-Length, so bound ``view``.

        Raises:
            Transient: a timeout or a cut connection.
        """
        stream: Any = getattr(self.body, "fp", None)
        if self.length is None or not hasattr(stream, "readinto1"):  # chunked, or another urllib: one copy more
            block = self.read(len(view))
            view[: len(block)] = block
            return len(block)
        try:
            count: int = stream.readinto1(view)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _network(error) from error
        return count

    @property
    def length(self) -> int | None:
        """Content-Length, None where there is none or it is no number."""
        text = self.headers.get("Content-Length", "").strip()
        return int(text) if re.fullmatch(r"\d{1,18}", text) else None

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` may name: a strong ETag, else the date of the last change."""
        tag = self.headers.get("ETag", "").strip()
        return tag if tag.startswith('"') else self.headers.get("Last-Modified")

    @property
    def range(self) -> tuple[int, int | None] | None:
        """(first byte, whole size or None) of Content-Range; None where it is absent or malformed."""
        found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", self.headers.get("Content-Range", "").strip())
        return (int(found[1]), None if found[2] == "*" else int(found[2])) if found else None

    def close(self) -> None:
        """Drop the connection."""
        self.body.close()


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old == "https" and new == "http"):
            raise Refused(f"it redirects from {old} to {new}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Watched:
    """Keeps the newest connection's socket where a timer can end it: each wait has a timeout, a dripping header has none."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.ended = False

    def end(self) -> None:
        """Cut the connection."""
        self.ended = True
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def noting(self, kind: type[http.client.HTTPConnection]) -> type[http.client.HTTPConnection]:
        """A class of connections that tell their socket."""
        watched = self

        class Connection(kind):  # type: ignore[valid-type, misc]
            def connect(self) -> None:
                super().connect()
                watched.socket = self.sock

        return Connection


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watched: _Watched) -> None:
        super().__init__()
        self._connection = watched.noting(http.client.HTTPConnection)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watched: _Watched, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._connection, self._trust = watched.noting(http.client.HTTPSConnection), context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req, context=self._trust)


class Client:
    """Connections with one timeout and one set of certificates; cookies live as long as it does.

    Args:
        timeout: seconds that connecting, or waiting for the next packet, may take.
        certificates: file with certificate authorities; default: the system's.
    """

    def __init__(self, timeout: float, certificates: str | None = None) -> None:
        self.timeout = timeout
        cafile = certificates or os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
        context = ssl.create_default_context(cafile=cafile if cafile and Path(cafile).is_file() else None)
        self._watched = _Watched()
        self._opener = urllib.request.build_opener(
            _Http(self._watched), _Https(self._watched, context), _Redirects(), urllib.request.HTTPCookieProcessor()
        )

    def get(self, url: str, headers: Mapping[str, str] | None = None, patience: float | None = None) -> Reply:
        """Ask for ``url``; the answer's head must be there within ``patience`` seconds.

        Raises:
            Transient, Refused: no answer, or none with status 200, 206 or 416.
        """
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError as error:  # "https://[::1", port 99999
            raise Refused(f"this address cannot be used: {error}") from None
        if not usable:
            raise Refused("this is not an http address")
        request = urllib.request.Request(_without_user(parts), headers=dict(headers or {}))
        request.add_header("User-Agent", f"ssdconv/{__version__}")
        request.add_header("Accept-Encoding", "identity")
        if parts.username:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(pair).decode())
        self._watched.ended = False
        timer = threading.Timer(patience, self._watched.end) if patience is not None else None
        try:
            if timer is not None:
                timer.daemon = True
                timer.start()
            answer = self._opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            if error.code == RANGE_NOT_SATISFIABLE:
                return Reply(error.code, error.headers, error.url or url, error)
            error.close()
            raise _status(error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self._watched.ended:
                raise Refused("it did not answer in time") from error
            raise _network(error) from error
        finally:
            if timer is not None:
                timer.cancel()
        reply = Reply(answer.status, answer.headers, answer.url, answer)
        if self._watched.ended:  # a head that was cut off looks like a short one
            reply.close()
            raise Refused("it did not answer in time")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            reply.close()
            raise Refused("it sends the file compressed, which was not asked for")
        if reply.status not in (200, 206):
            reply.close()
            raise Refused(f"it answers with status {reply.status}")
        return reply


def loopback(url: str) -> bool:
    """Whether an address is on this machine."""
    return (urlsplit(url).hostname or "") in LOOPBACK


def _without_user(parts: SplitResult) -> str:
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, parts.query, ""))


def _status(error: urllib.error.HTTPError) -> Transient | Refused:
    text = f"it answers {error.code} {error.reason}".strip()
    if error.code not in BUSY:
        return Refused(text)
    wait = error.headers.get("Retry-After", "") if error.headers is not None else ""
    return Transient(text, float(wait) if re.fullmatch(r"\d{1,4}", wait) else None)


def _network(error: BaseException) -> Transient | Refused:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Refused(f"its certificate is not trusted: {reason.verify_message}")
    if isinstance(reason, TimeoutError):
        return Transient("it did not answer in time")
    if isinstance(reason, socket.gaierror):
        return Transient("its name cannot be resolved")
    if isinstance(reason, OSError) and reason.strerror:
        return Transient(f"the connection failed: {reason.strerror.lower()}")
    if isinstance(error, ValueError) and not isinstance(error, http.client.HTTPException):
        return Refused(f"this address cannot be used: {error}")
    return Transient(f"the connection failed: {reason or type(error).__name__}")
