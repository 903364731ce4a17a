"""A server on the loopback interface that does what its script says, request by request, down to the raw bytes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from ssdconv.fetch.download import Options

DATA = np.random.default_rng(6).bytes(200_000)
QUICK = Options(timeout=0.4, attempts=3, pause=0.005, window=0.3, least=4096, limit=1_000_000)


@dataclass
class Request:
    """One request as it came: path, headers in lower case, and where its range starts."""

    path: str
    headers: dict[str, str]
    connection: socket.socket
    server: Server

    @property
    def start(self) -> int:
        text = self.headers.get("range", "bytes=0-")
        return int(text.removeprefix("bytes=").split("-")[0])

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def head(self, status: str, **headers: object) -> None:
        lines = [
            f"HTTP/1.1 {status}",
            *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items()),
            "Connection: close",
        ]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode())


Behaviour = Callable[[Request], None]


@dataclass
class Server:
    """Behaviours are used up one per request; the last one stays."""

    script: list[Behaviour] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/weights.bin"

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            try:
                while b"\r\n\r\n" not in data:
                    more = connection.recv(65536)
                    if not more:
                        return
                    data += more
                first, *rest = data.split(b"\r\n\r\n")[0].decode().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in rest)}
                request = Request(first.split()[1], headers, connection, self)
                with self._lock:
                    self.requests.append(request)
                    behaviour = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                behaviour(request)
            except OSError:
                return


def good(data: bytes = DATA, etag: str = '"v1"', **headers: object) -> Behaviour:
    """A correct server with ranges and If-Range."""

    def serve(request: Request) -> None:
        start = request.start
        if start and request.headers.get("if-range", etag) == etag:
            if start >= len(data):
                request.head("416 Range Not Satisfiable", Content_Range=f"bytes */{len(data)}")
                return
            request.head(
                "206 Partial Content",
                Content_Length=len(data) - start,
                Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}",
                ETag=etag,
                **headers,
            )
            request.send(data[start:])
        else:
            request.head("200 OK", Content_Length=len(data), ETag=etag, **headers)
            request.send(data)

    return serve


def cut(after: int, data: bytes = DATA, etag: str | None = '"v1"') -> Behaviour:
    """Announces everything (from where it was asked), sends ``after`` bytes, and hangs up."""

    def serve(request: Request) -> None:
        start = request.start
        headers = {} if etag is None else {"ETag": etag}
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        request.head("206 Partial Content" if start else "200 OK", Content_Length=len(data) - start, **headers)
        request.send(data[start : start + after])

    return serve


def status(line: str, **headers: object) -> Behaviour:
    """An error status with a short page."""
    return lambda request: (request.head(line, Content_Length=5, **headers), request.send(b"sorry"))[0]


def stall(after: int, seconds: float = 1.0) -> Behaviour:
    """Announces everything, sends ``after`` bytes and then nothing."""

    def serve(request: Request) -> None:
        request.head("200 OK", Content_Length=len(DATA), ETag='"v1"')
        request.send(DATA[:after])
        time.sleep(seconds)

    return serve


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    started = Server()
    yield started
    started.close()


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    """The behaviours and the data that they serve, for test modules, which cannot import this file."""
    return SimpleNamespace(DATA=DATA, QUICK=QUICK, good=good, cut=cut, status=status, stall=stall, Server=Server)
