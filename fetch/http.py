"""One HTTP GET: redirects that never leave https for http, proxies from the environment, timeouts, errors told apart.

Faults are ``Transient`` where the same request may succeed later and ``Refused`` where it will not.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
import ssl
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
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), _Redirects(), urllib.request.HTTPCookieProcessor()
        )

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Ask for ``url``.

        Raises:
            Transient, Refused: no answer, or none with status 200, 206 or 416.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused("this is not an http address")
        request = urllib.request.Request(_without_user(parts), headers=dict(headers or {}))
        request.add_header("User-Agent", f"ssdconv/{__version__}")
        request.add_header("Accept-Encoding", "identity")
        if parts.username:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(pair).decode())
        try:
            answer = self._opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            if error.code == RANGE_NOT_SATISFIABLE:
                return Reply(error.code, error.headers, error.url or url, error)
            error.close()
            raise _status(error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _network(error) from error
        reply = Reply(answer.status, answer.headers, answer.url, answer)
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
