"""Scripted faults: whatever a server does, the file is right or absent, and a rerun against a good server succeeds."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssdconv.errors import DownloadError, OutputError
from ssdconv.fetch.digest import Expected
from ssdconv.fetch.download import fetch

PAGE = b"<!DOCTYPE html><html><head><title>Error</title></head><body>%s</body></html>"
QUOTA = PAGE % b"Too many users have viewed or downloaded this file recently. Quota exceeded."


def raw(answer: bytes) -> Callable[[Any], None]:
    """Sends exactly these bytes, whatever was asked."""
    return lambda request: request.send(answer)


def plain(data: bytes, *, length: int | None = -1, **headers: object) -> Callable[[Any], None]:
    """A server that knows neither ranges nor validators; ``length`` None leaves Content-Length away."""
    told = {} if length is None else {"Content_Length": len(data) if length == -1 else length}
    return lambda request: (request.head("200 OK", **told, **headers), request.send(data))[0]


def wrong_piece(data: bytes, shift: int) -> Callable[[Any], None]:
    """Answers a range request with a piece that starts elsewhere, and says so."""

    def serve(request: Any) -> None:
        start = max(request.start + shift, 0)
        request.head(
            "206 Partial Content",
            Content_Length=len(data) - start,
            Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}",
            ETag='"v1"',
        )
        request.send(data[start:])

    return serve


def lying_piece(data: bytes) -> Callable[[Any], None]:
    """Claims the range that was asked for, keeps the ETag, and sends other bytes."""

    def serve(request: Any) -> None:
        start = request.start
        where = f"bytes {start}-{len(data) - 1}/{len(data)}"
        request.head("206 Partial Content", Content_Length=len(data) - start, Content_Range=where, ETag='"v1"')
        request.send(bytes(len(data) - start))

    return serve


def redirect(target: str, code: str = "302 Found") -> Callable[[Any], None]:
    return lambda request: request.head(code, Location=target.format(port=request.server.port), Content_Length=0)


def drip_header(request: Any) -> None:
    """A header that never ends, a byte now and then."""
    request.send(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(200):
        request.send(b"a")
        time.sleep(0.1)


def drip(data: bytes, pause: float, step: int = 10) -> Callable[[Any], None]:
    """Some bytes now and then: never a timeout, never an end."""

    def serve(request: Any) -> None:
        request.head("200 OK", Content_Length=len(data), ETag='"v1"')
        for i in range(60):
            request.send(data[i * step : i * step + step])
            time.sleep(pause)

    return serve


def confirm_page(action: str = "/download", old: bool = False) -> bytes:
    if old:
        return (
            PAGE % b'<a id="uc-download-link" href="/uc?export=download&amp;confirm=AbC&amp;id=1">Download anyway</a>'
        )
    form = f'<form id="download-form" action="{action}" method="get"><input type="hidden" name="id" value="1">'
    return PAGE % (form.encode() + b'<input type="hidden" name="confirm" value="t"></form>')


def asks_first(lab: Any, page: bytes) -> Callable[[Any], None]:
    """Gives the file only where ``confirm`` is in the address, as Google Drive does for large files."""

    def serve(request: Any) -> None:
        if "confirm=" in request.path:
            lab.good()(request)
        else:
            plain(page, Content_Type="text/html; charset=utf-8")(request)

    return serve


def chunked(data: bytes, whole: bool) -> bytes:
    body = b"%x\r\n%s\r\n" % (len(data), data) + (b"0\r\n\r\n" if whole else b"")
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + body


Case = tuple[Callable[[Any], list[Any]], str]
OK = ""
FAULTS: dict[str, Case] = {
    # connections
    "refuses to talk": (lambda lab: [raw(b"")], "failed"),
    "hangs up once": (lambda lab: [raw(b""), lab.good()], OK),
    "speaks another protocol": (lambda lab: [raw(b"SSH-2.0-OpenSSH_9.2\r\n")], "failed"),
    "endless header": (lambda lab: [raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n")], "failed"),
    "silent": (lambda lab: [lambda request: time.sleep(0.6)], "in time"),
    "silent once": (lambda lab: [lambda request: time.sleep(0.6), lab.good()], OK),
    "stalls in the middle, then good": (lambda lab: [lab.stall(70_000), lab.good()], OK),
    "stalls always": (lambda lab: [lab.stall(0)], "in time"),
    "drips": (lambda lab: [drip(lab.DATA, 0.05)], "fewer than"),
    # statuses
    "404": (lambda lab: [lab.status("404 Not Found")], "404"),
    "403": (lambda lab: [lab.status("403 Forbidden")], "403"),
    "410 for good": (lambda lab: [lab.status("410 Gone")], "410"),
    "500 once": (lambda lab: [lab.status("500 Internal Server Error"), lab.good()], OK),
    "503 twice": (lambda lab: [lab.status("503 Busy"), lab.status("503 Busy"), lab.good()], OK),
    "503 always": (lambda lab: [lab.status("503 Busy")], "503"),
    "429 with Retry-After": (lambda lab: [lab.status("429 Slow down", Retry_After=0), lab.good()], OK),
    "500 in the middle of a resume": (lambda lab: [lab.cut(50_000), lab.status("502 Bad"), lab.good()], OK),
    "204": (lambda lab: [raw(b"HTTP/1.1 204 No Content\r\n\r\n")], "204"),
    # lengths
    "announces too few bytes": (lambda lab: [plain(lab.DATA[:-1])], "199999 bytes instead"),
    "announces too many bytes": (lambda lab: [plain(lab.DATA + b"x")], "200001 bytes instead"),
    "empty file": (lambda lab: [plain(b"")], "0 bytes instead"),
    "cut without a length": (lambda lab: [plain(lab.DATA[:120_000], length=None)], "ended after"),
    "whole without a length": (lambda lab: [plain(lab.DATA, length=None)], OK),
    "too many without a length": (lambda lab: [plain(lab.DATA * 2, length=None)], "more than"),
    "length that is no number": (lambda lab: [plain(lab.DATA, length=None, Content_Length="many")], OK),
    "chunked": (lambda lab: [raw(chunked(lab.DATA, True))], OK),
    "chunked and cut": (lambda lab: [raw(chunked(lab.DATA[:9000], False)), lab.good()], OK),
    # cuts and resumes
    "cut once": (lambda lab: [lab.cut(80_000), lab.good()], OK),
    "cut before the first byte": (lambda lab: [lab.cut(0), lab.good()], OK),
    "cut before the last byte": (lambda lab: [lab.cut(199_999), lab.good()], OK),
    "cut always": (lambda lab: [lab.cut(0)], "ended after 0"),
    "cut every 20 kB": (lambda lab: [lab.cut(20_000)], OK),
    "range ignored": (lambda lab: [lab.cut(80_000), plain(lab.DATA)], OK),
    "cut without validator": (lambda lab: [lab.cut(80_000, etag=None), lab.good()], OK),
    "weak ETag": (lambda lab: [lab.cut(80_000, etag='W/"v1"'), lab.good(etag='W/"v1"')], OK),
    "changed ETag": (lambda lab: [lab.cut(80_000, bytes(200_000), '"v0"'), lab.good()], OK),
    "changed ETag, If-Range ignored": (
        lambda lab: [lab.cut(80_000, bytes(200_000), '"v0"'), wrong_piece(lab.DATA, 0), lab.good()],
        OK,
    ),
    "another piece": (lambda lab: [lab.cut(80_000), wrong_piece(lab.DATA, -10), lab.good()], OK),
    "another piece always": (lambda lab: [lab.cut(80_000), wrong_piece(lab.DATA, 10)], "not asked for"),
    "a piece unasked": (lambda lab: [wrong_piece(lab.DATA, 5)], "not asked for"),
    "everything as a piece, unasked": (lambda lab: [wrong_piece(lab.DATA, 0)], "not asked for"),
    "a piece without Content-Range": (
        lambda lab: [lab.cut(80_000), raw(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n\r\nabc"), lab.good()],
        OK,
    ),
    "a piece of other bytes": (lambda lab: [lab.cut(80_000), lying_piece(lab.DATA), lab.good()], OK),
    "416 in a resume": (lambda lab: [lab.cut(80_000), lab.status("416 No"), lab.good()], OK),
    # contents
    "one bit wrong": (lambda lab: [plain(bytes([lab.DATA[0] ^ 1]) + lab.DATA[1:])], "sha256"),
    "zeros": (lambda lab: [plain(bytes(200_000))], "sha256"),
    "compressed unasked": (lambda lab: [plain(lab.DATA, Content_Encoding="gzip")], "compressed"),
    "a web page": (lambda lab: [plain(PAGE % b"moved", Content_Type="text/html")], "web page"),
    "a web page that calls itself a file": (
        lambda lab: [plain(PAGE % b"hi", Content_Type="application/octet-stream")],
        "web page",
    ),
    "a web page in a resume": (lambda lab: [lab.cut(80_000), plain(QUOTA, Content_Type="text/html")], "quota"),
    "a sign-in page": (lambda lab: [plain(PAGE % b"Sign in to continue", Content_Type="text/html")], "sign in"),
    # Google Drive
    "quota page": (lambda lab: [plain(QUOTA, Content_Type="text/html")], "quota"),
    "confirm page": (lambda lab: [asks_first(lab, confirm_page())], OK),
    "old confirm page": (lambda lab: [asks_first(lab, confirm_page(old=True))], OK),
    "confirm page again and again": (lambda lab: [plain(confirm_page(), Content_Type="text/html")], "again and again"),
    "confirm page to elsewhere": (
        lambda lab: [plain(confirm_page("https://example.org/x"), Content_Type="text/html")],
        "web page",
    ),
    # redirects
    "redirect": (lambda lab: [redirect("http://127.0.0.1:{port}/other"), lab.good()], OK),
    "redirect in circles": (lambda lab: [redirect("http://127.0.0.1:{port}/weights.bin")], "302"),
    "redirect to a file": (lambda lab: [redirect("file:///etc/hostname")], "not allowed"),
    "redirect without target": (lambda lab: [raw(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n")], "302"),
}


def expected(lab: Any) -> Expected:
    return Expected(len(lab.DATA), "sha256", hashlib.sha256(lab.DATA).hexdigest())


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"weights.bin.lock"}


def test_a_disk_that_fills_up_in_the_middle_of_a_block(
    server: Any, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk takes less than it is given before it refuses; neither may pass for the whole file."""
    server.script = [lab.good()]
    target = tmp_path / "weights.bin"

    class Full(io.FileIO):
        room = 150_000

        def write(self, data: Any) -> int:
            count = min(len(data), Full.room)
            if not count:
                raise OSError(errno.ENOSPC, "No space left on device")
            Full.room -= count
            return super().write(memoryview(data)[:count])

    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode="r", *a, **k: Full(self, "x") if mode == "xb" else real(self, mode, *a, **k)
    )
    with pytest.raises(OutputError, match="No space left"):
        fetch([server.url], target, Expected(), options=lab.QUICK)
    assert not target.exists()
    Full.room = 1 << 20
    assert fetch([server.url], target, Expected(), options=lab.QUICK).sha256 == expected(lab).value
    assert target.read_bytes() == lab.DATA


def test_what_is_hashed_is_what_lies_on_the_disk(
    server: Any, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = [lab.good()]
    real = os.fsync

    def spoil(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").readlink().suffix == ".part":
            os.pwrite(handle, b"spoilt", 1000)
        real(handle)

    monkeypatch.setattr(os, "fsync", spoil)
    with pytest.raises(DownloadError, match="sha256"):
        fetch([server.url], tmp_path / "weights.bin", expected(lab), options=lab.QUICK)


@pytest.mark.parametrize("name", ["weights.bin.part", "weights.bin.part.json", "weights.bin.lock"])
def test_links_in_the_place_of_our_own_files_are_not_followed(name: str, server: Any, lab: Any, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / name).symlink_to(tmp_path / "elsewhere")
    server.script = [lab.good()]
    with contextlib.suppress(OutputError):
        fetch([server.url], tmp_path / "here" / "weights.bin", expected(lab), options=lab.QUICK)
    assert (tmp_path / "elsewhere").read_text() == "precious"


@pytest.mark.parametrize(
    ("behaviour", "trouble"),
    [(drip_header, "in time"), (drip(bytes(200_000), 0.05, 800), "too slow")],
    ids=["its header", "faster than the window minds"],
)
def test_a_server_that_drips(
    behaviour: Callable[[Any], None], trouble: str, server: Any, lab: Any, tmp_path: Path
) -> None:
    server.script = [behaviour]
    before = time.monotonic()
    with pytest.raises(DownloadError, match=trouble):
        fetch([server.url], tmp_path / "weights.bin", expected(lab), options=replace(lab.QUICK, timeout=0.1))
    assert time.monotonic() - before < 60  # it would be 20 s a try without an end


def test_addresses_that_cannot_be_parsed(lab: Any, tmp_path: Path) -> None:
    for url in ("https://[::1", "http://127.0.0.1:99999/x", "http://127.0.0.1:0/x", "http:///x"):
        with pytest.raises(DownloadError):
            fetch([url], tmp_path / "weights.bin", expected(lab), options=lab.QUICK)


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str, server: Any, lab: Any, tmp_path: Path) -> None:
    script, trouble = FAULTS[name]
    target = tmp_path / "weights.bin"
    server.script = script(lab)
    if trouble:
        with pytest.raises(DownloadError, match=trouble):
            fetch([server.url], target, expected(lab), options=lab.QUICK)
        assert not target.exists()
    else:
        found = fetch([server.url], target, expected(lab), options=lab.QUICK)
        assert (found.path, found.size, found.url) == (target, len(lab.DATA), server.url)
    server.script = [lab.good()]
    found = fetch([server.url], target, expected(lab), options=lab.QUICK)
    assert target.read_bytes() == lab.DATA
    assert found.sha256 == hashlib.sha256(lab.DATA).hexdigest()
    assert left(tmp_path) == {"weights.bin"}


def test_there_are_enough_faults() -> None:
    assert len(FAULTS) >= 30


@pytest.mark.parametrize("cut_at", range(0, 200_000, 65_536))
def test_a_resume_asks_for_the_rest_only(cut_at: int, server: Any, lab: Any, tmp_path: Path) -> None:
    server.script = [lab.cut(cut_at + 1), lab.good()]
    fetch([server.url], tmp_path / "weights.bin", expected(lab), options=lab.QUICK)
    first, second = server.requests
    assert "range" not in first.headers
    assert (second.headers["range"], second.headers["if-range"]) == (f"bytes={cut_at + 1}-", '"v1"')


def test_another_process_goes_on_where_one_died(server: Any, lab: Any, tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    server.script = [lab.cut(150_000), lab.status("404 gone")]
    with pytest.raises(DownloadError):
        fetch([server.url], target, expected(lab), options=lab.QUICK)
    assert (tmp_path / "weights.bin.part").stat().st_size == 150_000
    server.script = [lab.good()]
    fetch([server.url], target, expected(lab), options=lab.QUICK)
    assert server.requests[-1].headers["range"] == "bytes=150000-"
    assert target.read_bytes() == lab.DATA


def test_a_damaged_part_is_thrown_away(server: Any, lab: Any, tmp_path: Path) -> None:
    target, part = tmp_path / "weights.bin", tmp_path / "weights.bin.part"
    server.script = [lab.cut(150_000), lab.status("404 gone")]
    with pytest.raises(DownloadError):
        fetch([server.url], target, expected(lab), options=lab.QUICK)
    part.write_bytes(bytes(150_000))
    server.script = [lab.good()]
    fetch([server.url], target, expected(lab), options=lab.QUICK)
    assert target.read_bytes() == lab.DATA
    assert "range" not in server.requests[-1].headers


def test_without_checksum_a_part_of_a_dead_process_is_not_trusted(server: Any, lab: Any, tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    server.script = [lab.cut(150_000), lab.status("404 gone")]
    with pytest.raises(DownloadError):
        fetch([server.url], target, Expected(), options=lab.QUICK)
    server.script = [lab.good()]
    fetch([server.url], target, Expected(), options=lab.QUICK)
    assert "range" not in server.requests[-1].headers
    assert target.read_bytes() == lab.DATA


def test_without_checksum_a_file_of_unknown_length_is_refused(server: Any, lab: Any, tmp_path: Path) -> None:
    server.script = [plain(lab.DATA, length=None)]
    with pytest.raises(DownloadError, match="tells no length"):
        fetch([server.url], tmp_path / "weights.bin", Expected(), options=lab.QUICK)


def test_without_checksum_plain_http_is_refused(tmp_path: Path, lab: Any) -> None:
    with pytest.raises(DownloadError, match="plain http"):
        fetch(["http://192.0.2.1/weights.bin"], tmp_path / "weights.bin", Expected(), options=lab.QUICK)


@pytest.mark.parametrize("length", [True, False])
def test_no_more_than_the_limit_is_taken(length: bool, server: Any, lab: Any, tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    server.script = [plain(lab.DATA, length=-1 if length else None)]
    known = replace(expected(lab), size=None)
    with pytest.raises(DownloadError, match="more than"):
        fetch([server.url], target, known, options=replace(lab.QUICK, limit=100_000))
    assert left(tmp_path) == set()


def test_addresses_are_tried_in_order(server: Any, lab: Any, tmp_path: Path) -> None:
    other = lab.Server()
    server.script, other.script = [plain(bytes(200_000))], [lab.good()]
    found = fetch([server.url, other.url], tmp_path / "weights.bin", expected(lab), options=lab.QUICK)
    assert found.url == other.url
    assert (len(server.requests), len(other.requests)) == (1, 1)
    other.close()


def test_a_part_of_one_address_is_not_continued_from_another(server: Any, lab: Any, tmp_path: Path) -> None:
    other = lab.Server()
    server.script, other.script = [lab.cut(90_000, bytes(200_000)), lab.status("404 gone")], [lab.good()]
    fetch([server.url, other.url], tmp_path / "weights.bin", expected(lab), options=lab.QUICK)
    assert "range" not in other.requests[0].headers
    other.close()


def test_the_error_tells_every_address_and_the_next_step(server: Any, lab: Any, tmp_path: Path) -> None:
    server.script = [lab.status("404 Not Found")]
    with pytest.raises(DownloadError) as caught:
        fetch([server.url, server.url + "?2"], tmp_path / "weights.bin", expected(lab), options=lab.QUICK)
    assert f"{server.url}: it answers 404" in str(caught.value)
    assert f"{server.url}?2: it answers 404" in str(caught.value)
    assert "--mirror" in str(caught.value)


def test_what_is_there_is_not_fetched_again(server: Any, lab: Any, tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    target.write_bytes(lab.DATA)
    server.script = [lab.status("500 no")]
    assert fetch([server.url], target, expected(lab), options=lab.QUICK).url == ""
    assert server.requests == []


def test_a_wrong_file_that_is_there_is_replaced(server: Any, lab: Any, tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    target.write_bytes(lab.DATA[:-1] + b"\0")
    server.script = [lab.good()]
    fetch([server.url], target, expected(lab), options=lab.QUICK)
    assert target.read_bytes() == lab.DATA


def test_a_checksum_prefix_is_checked(server: Any, lab: Any, tmp_path: Path) -> None:
    server.script = [plain(lab.DATA)]
    value = hashlib.sha256(lab.DATA).hexdigest()[:8]
    fetch([server.url], tmp_path / "weights.bin", Expected(None, "sha256", value), options=lab.QUICK)
    wrong = ("0" if value[0] != "0" else "1") + value[1:]
    with pytest.raises(DownloadError, match="sha256"):
        fetch([server.url], tmp_path / "other.bin", Expected(None, "sha256", wrong), options=lab.QUICK)


@pytest.mark.parametrize("algorithm", ["sha1", "md5"])
def test_other_checksums(algorithm: str, server: Any, lab: Any, tmp_path: Path) -> None:
    server.script = [plain(lab.DATA)]
    value = hashlib.new(algorithm, lab.DATA).hexdigest()
    found = fetch([server.url], tmp_path / "weights.bin", Expected(None, algorithm, value), options=lab.QUICK)
    assert found.sha256 == hashlib.sha256(lab.DATA).hexdigest()
    with pytest.raises(DownloadError, match=algorithm):
        fetch([server.url], tmp_path / "b", Expected(None, algorithm, value[::-1]), options=lab.QUICK)


def test_two_at_once_fetch_once(server: Any, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssdconv.ssd_ref.files.PATIENCE", 0.05)

    def slow(request: Any) -> None:
        time.sleep(0.2)
        lab.good()(request)

    server.script = [slow]
    target, told, found = tmp_path / "weights.bin", [], []

    def one() -> None:
        wait = fetch([server.url], target, expected(lab), options=lab.QUICK, progress=lambda *a: told.append(a[0]))
        found.append(wait.sha256)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [hashlib.sha256(lab.DATA).hexdigest()] * 2
    assert len(server.requests) == 1
    assert any("waiting for another process" in text for text in told)


def test_progress_ends_at_the_whole(server: Any, lab: Any, tmp_path: Path) -> None:
    server.script = [lab.cut(80_000), lab.good()]
    told: list[tuple[str, int, int]] = []
    fetch([server.url], tmp_path / "weights.bin", expected(lab), options=lab.QUICK, progress=lambda *a: told.append(a))
    assert told[-1] == ("weights.bin", len(lab.DATA), len(lab.DATA))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_a_proxy_of_the_environment_is_used(
    server: Any, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("no_proxy", "")
    server.script = [lab.good()]
    fetch(["http://weights.invalid/a.bin"], tmp_path / "weights.bin", expected(lab), options=lab.QUICK)
    assert server.requests[0].path == "http://weights.invalid/a.bin"


def test_user_and_password_go_to_their_host_only(server: Any, lab: Any, tmp_path: Path) -> None:
    server.script = [redirect("http://localhost:{port}/other"), lab.good()]
    url = server.url.replace("://", "://me:s%40crt@")
    fetch([url], tmp_path / "weights.bin", expected(lab), options=lab.QUICK)
    assert server.requests[0].headers["authorization"] == "Basic bWU6c0BjcnQ="
    assert "authorization" not in server.requests[1].headers


def test_a_folder_that_cannot_be_written(server: Any, lab: Any, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with pytest.raises((OutputError, NotADirectoryError)):
        fetch([server.url], blocked / "weights.bin", expected(lab), options=lab.QUICK)


def test_without_checksum_a_changed_file_is_not_glued_together(server: Any, lab: Any, tmp_path: Path) -> None:
    """The server changes the file between two requests and ignores If-Range; only the ETag tells."""
    server.script = [lab.cut(80_000, bytes(200_000), '"v0"'), wrong_piece(lab.DATA, 0), lab.good()]
    fetch([server.url], tmp_path / "weights.bin", Expected(), options=lab.QUICK)
    assert (tmp_path / "weights.bin").read_bytes() == lab.DATA


def test_a_stall_loses_nothing_that_came(server: Any, lab: Any, tmp_path: Path) -> None:
    def stops_twice(request: Any) -> None:
        request.head("200 OK", Content_Length=len(lab.DATA), ETag='"v1"')
        request.send(lab.DATA[:30_000])
        time.sleep(0.1)
        request.send(lab.DATA[30_000:70_000])
        time.sleep(0.6)

    server.script = [stops_twice, lab.good()]
    fetch([server.url], tmp_path / "weights.bin", expected(lab), options=lab.QUICK)
    assert server.requests[1].headers["range"] == "bytes=70000-"


def test_a_size_alone_is_checked(server: Any, lab: Any, tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    server.script = [plain(lab.DATA)]
    with pytest.raises(DownloadError, match="200000 bytes instead of 199999"):
        fetch([server.url], target, Expected(199_999), options=lab.QUICK)
    assert left(tmp_path) == set()
    target.write_bytes(lab.DATA[:-1])
    assert fetch([server.url], target, Expected(200_000), options=lab.QUICK).url == server.url
