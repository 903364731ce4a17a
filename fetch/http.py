"""One HTTP GET: redirects that never leave https for http, proxies from the environment, timeouts, errors told apart.

Faults are ``Transient`` where the same request may succeed later and ``Refused`` where it will not; ``download`` decides what
follows, users see ``DownloadError`` only. By urllib and not by requests: a server that drips its head is cut off by a timer that needs
the connection's socket, and requests, which brings four packages more, shows none before the head is whole.

Web pages that come instead of files are told from files, and Google Drive's are understood: it answers with a page that has a
form (or, before 2022, a link with ``confirm=``) when a file is too large to be scanned for viruses, and with another page when
too many people have fetched it.
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path
from typing import IO, Any
from urllib.parse import SplitResult, parse_qs, unquote, urlencode, urljoin, urlsplit, urlunsplit

from ssdconv import __version__

BUSY = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
"""Statuses after which the same request may succeed."""
RANGE_NOT_SATISFIABLE = 416
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_REDIRECTS = 10
DRIVE_HOSTS = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")
LIMIT = 1 << 18
"""Bytes of a page that are looked at."""


class Fault(Exception):  # noqa: N818 - caught inside this package only
    """What can go wrong while one address is fetched."""


class Transient(Fault):
    """Trying the same address again may help: a timeout, a cut connection, a busy server.

    Args:
        text: what happened.
        wait: seconds that the server asked to wait, None where it did not.
    """

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


class Refused(Fault):
    """Trying again does not help: this address does not give the file."""


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


def is_page(content_type: str, head: bytes) -> bool:
    """Whether an answer is a web page, by its declared type or its first bytes."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    return content_type.lower().startswith("text/html") or start.startswith((b"<!doctype html", b"<html", b"<head"))


def drive_address(file_id: str) -> str:
    """Address of a file on Google Drive."""
    return f"https://drive.google.com/uc?export=download&id={file_id}"


def drive_id(url: str) -> str | None:
    """The file id in a Google Drive link (``/file/d/ID/view``, ``open?id=ID``, ``uc?id=ID``); None where it has none."""
    parts = urlsplit(url)
    if parts.hostname not in DRIVE_HOSTS:
        return None
    found = re.search(r"/file/d/([\w-]+)", parts.path)
    return found[1] if found else next(iter(parse_qs(parts.query).get("id", [])), None)


class _Form(HTMLParser):
    """The form with id ``download-form``, and the old confirm link."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self.link: str | None = None
        self._inside = False

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        have = {name: value or "" for name, value in attrs}
        if tag == "form" and have.get("id") == "download-form":
            self.action, self._inside = have.get("action"), True
        elif tag == "input" and self._inside and have.get("type") == "hidden":
            self.fields[have.get("name", "")] = have.get("value", "")
        elif tag == "a" and "confirm=" in have.get("href", ""):
            self.link = have["href"]

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False


def confirmed(page: bytes, url: str) -> str | None:
    """Where a Drive page sends those who confirm; None where it is no such page or points elsewhere.

    Args:
        page: its beginning.
        url: where it came from; only this host and Google's own are followed.
    """
    form = _Form()
    form.feed(page[:LIMIT].decode("utf-8", "replace"))
    if form.action is not None:
        query = urlencode(form.fields)
        target = urljoin(url, form.action)
        target += ("&" if "?" in target else "?") + query if query else ""
    elif form.link is not None:
        target = urljoin(url, form.link)
    else:
        return None
    here, there = urlsplit(url), urlsplit(target)
    same = (here.scheme, here.netloc) == (there.scheme, there.netloc)
    return target if same or (there.scheme == "https" and there.hostname in DRIVE_HOSTS) else None


def complaint(page: bytes) -> str:
    """What a page instead of a file means, in a sentence."""
    text = page[:LIMIT].decode("utf-8", "replace").lower()
    if "quota" in text or "too many users" in text:
        return "it answers with a page: the download quota of this file is used up, try again tomorrow"
    if "sign in" in text or "accounts.google.com" in text:
        return "it answers with a page that asks to sign in"
    title = re.search(r"<title[^>]*>([^<]{1,80})", page[:LIMIT].decode("utf-8", "replace"), re.IGNORECASE)
    return "it answers with a web page instead of the file" + (f": {title[1].strip()!r}" if title else "")
