"""Requests, and pages that are no files."""

from __future__ import annotations

import urllib.request

import pytest

from ssdconv.fetch.http import Client, Refused, _Redirects, complaint, confirmed, drive_address, drive_id, is_page


@pytest.mark.parametrize("target", ["http://b.example/x", "ftp://b.example/x", "file:///etc/hostname"])
def test_https_never_leads_to_less(target: str) -> None:
    request = urllib.request.Request("https://a.example/x")
    with pytest.raises(Refused, match="not followed"):
        _Redirects().redirect_request(request, None, 302, "Found", {}, target)  # type: ignore[arg-type]
    followed = _Redirects().redirect_request(request, None, 302, "Found", {}, "https://b.example/x")  # type: ignore[arg-type]
    assert followed is not None and followed.full_url == "https://b.example/x"


def test_http_may_lead_to_https() -> None:
    request = urllib.request.Request("http://a.example/x")
    followed = _Redirects().redirect_request(request, None, 301, "Moved", {}, "https://a.example/x")  # type: ignore[arg-type]
    assert followed is not None


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://a.example/x", "a.bin", "http:///x"])
def test_only_http_addresses_are_asked(url: str) -> None:
    with pytest.raises(Refused, match="not an http address"):
        Client(1.0).get(url)


@pytest.mark.parametrize(
    ("kind", "head", "page"),
    [
        ("text/html; charset=utf-8", b"\0\1", True),
        ("application/octet-stream", b"\xef\xbb\xbf\n <!DOCTYPE HTML>", True),
        ("", b"<html lang=en>", True),
        ("", b"<HEAD>", True),
        ("application/octet-stream", b"PK\x03\x04", False),
        ("text/plain", b'name: "net"', False),
        ("", b"", False),
    ],
)
def test_pages_are_told_from_files(kind: str, head: bytes, page: bool) -> None:
    assert is_page(kind, head) is page


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://drive.google.com/open?id=0Bz_x-1", "0Bz_x-1"),
        ("https://drive.google.com/file/d/13sv5gJ3/view?usp=sharing", "13sv5gJ3"),
        (drive_address("abc"), "abc"),
        ("https://drive.google.com/drive/folders/1XN", None),
        ("https://example.org/open?id=abc", None),
    ],
)
def test_drive_ids(url: str, found: str | None) -> None:
    assert drive_id(url) == found


FORM = b"""<html><form id="download-form" action="%s"><input type="hidden" name="id" value="a&amp;b">
<input type="hidden" name="confirm" value="t"><input type="submit" value="Download anyway"></form>
<form action="/other"><input type="hidden" name="evil" value="1"></form></html>"""


def test_the_form_is_filled_in() -> None:
    page = FORM % b"https://drive.usercontent.google.com/download"
    target = confirmed(page, drive_address("x"))
    assert target == "https://drive.usercontent.google.com/download?id=a%26b&confirm=t"


@pytest.mark.parametrize("action", [b"https://evil.example/x", b"http://drive.google.com/x", b"javascript:x"])
def test_forms_that_lead_elsewhere_are_not_followed(action: bytes) -> None:
    assert confirmed(FORM % action, drive_address("x")) is None


def test_other_pages_are_not_confirmed() -> None:
    assert confirmed(b"<html><form action='/x'></form></html>", drive_address("x")) is None


@pytest.mark.parametrize(
    ("page", "told"),
    [
        (b"<title>Google Drive - Quota exceeded</title>", "quota"),
        (b"Sorry: too many users have viewed this file", "quota"),
        (b"<a href='https://accounts.google.com/x'>", "sign in"),
        (b"<html><title> 404! </title>", "'404!'"),
        (b"\xff\xfe<html>", "web page"),
    ],
)
def test_complaints_say_what_to_do(page: bytes, told: str) -> None:
    assert told in complaint(page)
