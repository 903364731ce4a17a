"""Web pages that come instead of files: told from files, and Google Drive's pages understood.

Drive answers with a page that has a form (or, before 2022, a link with ``confirm=``) when a file is too large to be scanned
for viruses, and with another page when too many people have fetched it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

DRIVE_HOSTS = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")
LIMIT = 1 << 18
"""Bytes of a page that are looked at."""


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
