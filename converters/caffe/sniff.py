"""What a file that should be a .caffemodel or .prototxt really is, told from its first bytes."""

from __future__ import annotations

from ssdconv.errors import FormatError

_MAGICS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive", "unpack it first; a .pth or .npz file is not a Caffe model"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "save the Caffe snapshot as BINARYPROTO, not HDF5"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull` in its repository"),
    (b"%PDF", "a PDF document", "this is not a Caffe model"),
)
_HTML = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--", b"<script", b"<body")
_TEXT_STARTS = (b"name:", b"name :", b"layer", b"input:", b"input :", b"input_", b"#", b"force_backward", b"state")


def refuse_strangers(head: bytes, where: str, *, text: bool) -> None:
    """Raise when ``head``, the first bytes of a file, belong to something that is known not to be Caffe's.

    Args:
        head: the first kilobyte.
        where: file name for the message.
        text: True when a .prototxt is expected, False when a .caffemodel is.

    Raises:
        FormatError: a web page, an archive, or the other one of Caffe's two formats.
    """
    wanted = "a .prototxt (text)" if text else "a .caffemodel (binary)"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(_HTML):
        raise FormatError(
            "this is a web page saved as a file",
            where=where,
            expected=wanted,
            got=f"starts with {_show(head)}",
            hint="the download server answered with a page (log-in, quota or error); download the file again",
        )
    for magic, name, hint in _MAGICS:
        if head.startswith(magic):
            raise FormatError(f"this is {name}", where=where, expected=wanted, hint=hint)
    if text and b"\0" in head:
        raise FormatError(
            "this is a binary file", where=where, expected=wanted, hint="are prototxt and caffemodel swapped?"
        )
    if not text and start.startswith(_TEXT_STARTS) and _is_text(head):
        raise FormatError(
            "this is a text file", where=where, expected=wanted, hint="are prototxt and caffemodel swapped?"
        )


def _is_text(head: bytes) -> bool:
    return not any(byte < 9 or 13 < byte < 32 for byte in head)


def _show(head: bytes) -> str:
    return repr(head[:24].decode("latin-1"))
