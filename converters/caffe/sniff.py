"""What a file that should be a .caffemodel or .prototxt really is, told from its first bytes."""

from __future__ import annotations

import re

from ssdconv.errors import FormatError

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_MAGICS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive", "unpack it first; a .pth or .npz file is not a Caffe model"),
    (HDF5_MAGIC, "an HDF5 file without Caffe's /data/<layer>/<number>", "weights of Keras are for `ssdconv keras2pt`"),
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
    if not text and is_state(head):
        raise state_of_training(where, _learned_net(head))
    if not text and _MEAN.match(head):
        raise FormatError(
            "this is a picture's mean (.binaryproto) or another single blob",
            where=where,
            expected=wanted,
            hint="the weights are in a .caffemodel; the mean can be written into transform_param as mean_value",
        )
    if text and b"\0" in head:
        raise FormatError(
            "this is a binary file", where=where, expected=wanted, hint="are prototxt and caffemodel swapped?"
        )
    if not text and start.startswith(_TEXT_STARTS) and _is_text(head):
        raise FormatError(
            "this is a text file", where=where, expected=wanted, hint="are prototxt and caffemodel swapped?"
        )


# SolverState: 1 iter (a number), 2 learned_net (text), 3 history. BlobProto: 1 to 4 its sides (numbers), 5 data.
_STATE = re.compile(rb"\x08[\x80-\xff]{0,9}[\x00-\x7f]\x12(?P<length>[\x80-\xff]?[\x01-\x7f])", re.DOTALL)
_MEAN = re.compile(rb"\x08[\x80-\xff]{0,9}[\x00-\x7f]\x10[\x80-\xff]{0,9}[\x00-\x7f]\x18", re.DOTALL)


def is_state(head: bytes) -> bool:
    """Whether a file's first bytes are those of a .solverstate."""
    return _STATE.match(head) is not None


def state_of_training(where: str, learned_net: str = "") -> FormatError:
    """The error for a .solverstate, for the caller to raise; ``learned_net`` is the weight file that it names."""
    name = learned_net.replace("\\", "/").rpartition("/")[2]
    return FormatError(
        "this is the state of a training run (.solverstate), which holds the solver's history and no network",
        where=where,
        expected="a .caffemodel or .caffemodel.h5",
        hint=f"the weights of that moment are in {name}"
        if name
        else "the weights are in the .caffemodel saved with it",
    )


def _learned_net(head: bytes) -> str:
    match = _STATE.match(head)
    assert match is not None
    low, *high = match["length"]
    length = (low & 127) | (high[0] << 7 if high else 0)
    name = head[match.end() : match.end() + length].decode("utf-8", "replace")
    return name[-100:] if name.isprintable() else ""


def _is_text(head: bytes) -> bool:
    return not any(byte < 9 or 13 < byte < 32 for byte in head)


def _show(head: bytes) -> str:
    return repr(head[:24].decode("latin-1"))
