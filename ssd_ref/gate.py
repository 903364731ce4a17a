"""The one gate that every input file passes: regular files only, a size limit by kind, no surprise from a reader.

A pipe or device is refused without waiting on it, a file larger than its kind ever is before a byte is read, and whatever a
parser throws at odd content becomes an error with the file's name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from ssdconv.errors import FormatError, MissingError, SsdconvError

Kind = Literal["weights", "state", "coco", "detections", "image", "annotation", "list", "description", "document"]
LIMITS: dict[Kind, int] = {
    "weights": 1 << 40,
    "state": 1 << 36,
    "coco": 2 << 30,
    "detections": 4 << 30,
    "image": 256 << 20,
    "annotation": 8 << 20,
    "list": 64 << 20,
    "description": 1 << 20,
    "document": 64 << 20,
}
"""Bytes that a file of a kind may have. A VOC annotation has 1 kB, COCO's largest file 0.5 GB, a caffemodel 0.1 to 0.5 GB."""
MAX_PIXELS = 1 << 27
"""Pixels of an image: 134 million, four times what cameras give; a small file can claim billions."""
MAX_ALIASES = 8
"""Aliases in a YAML file; each may double what the one before it unpacked."""
MAX_DEPTH, MAX_PARTS = 40, 100_000
"""Of a YAML file: nested collections, and scalars and ends of collections in all."""
MAX_CLASSES = 20_000
"""Classes that a data set may have: twice ImageNet-22k's would not be detected any more."""
Reader = TypeVar("Reader", bound=Callable[..., Any])


class UnreadableError(FormatError):
    """A file that made a parser fail in a way that nobody foresaw: refused, and a reason to mend the parser."""


def open_input(path: str | Path, kind: Kind, what: str = "file") -> BufferedReader:
    """Open an input file for reading.

    Args:
        path: of a regular file, or a link to one.
        kind: decides how large it may be.
        what: word for messages: "no such image file".

    Raises:
        MissingError: there is no such file.
        FormatError: a folder, pipe or device, unreadable, empty, or larger than any file of its kind.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"no such {what}", where=str(path), hint="check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FormatError(f"the {what} cannot be opened: {reason}", where=str(path)) from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(f"the {what} cannot be read: not a regular file", where=str(path))
        if status.st_size > LIMITS[kind]:
            raise FormatError(
                f"too large for a {what}",
                where=str(path),
                expected=f"at most {LIMITS[kind]:,} bytes",
                got=f"{status.st_size:,}",
            )
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_input(path: str | Path, kind: Kind, what: str = "file") -> bytes:
    """The bytes of an input file; errors as in ``open_input``."""
    with open_input(path, kind, what) as stream, reading(path):
        return stream.read()


def read_text(path: str | Path, kind: Kind, what: str = "file") -> str:
    """The text of an input file in UTF-8, with or without byte order mark; errors as in ``open_input``.

    Raises:
        FormatError: it is not UTF-8, or holds NUL bytes.
    """
    try:
        text = read_input(path, kind, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"the {what} is no text in UTF-8", where=str(path), got=f"byte {error.start}") from None
    if "\0" in text:
        raise FormatError(f"the {what} holds NUL bytes", where=str(path))
    return text


def load_yaml(text: str, path: str | Path) -> Any:
    """Plain data from YAML; anchors may be used, but not multiplied.

    Raises:
        FormatError: merge keys, more than ``MAX_ALIASES`` aliases (a few hundred bytes of them unpack to gigabytes), or deeper or
            more parts than any description has (PyYAML's time grows with their product).
        yaml.YAMLError: not YAML.
    """
    import yaml

    loader = getattr(
        yaml, "CSafeLoader", yaml.SafeLoader
    )  # libyaml where PyYAML has it: twenty times faster, the same data
    aliases = depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=loader), 1):
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if aliases > MAX_ALIASES or (isinstance(event, yaml.ScalarEvent) and event.value == "<<"):
            raise FormatError(
                "this YAML repeats its parts", where=str(path), expected=f"no merge keys, at most {MAX_ALIASES} aliases"
            )
        if depth > MAX_DEPTH or count > MAX_PARTS:
            raise FormatError(
                "this YAML is deeper or longer than any description",
                where=str(path),
                expected=f"at most {MAX_PARTS:,} parts, {MAX_DEPTH} deep",
            )
    return yaml.load(text, Loader=loader)  # a safe one: plain data only


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Within the block, whatever a parser lets through becomes an UnreadableError with the file's name."""
    try:
        yield
    except (SsdconvError, KeyboardInterrupt, GeneratorExit):
        raise
    except MemoryError as error:
        raise UnreadableError("the file asks for more memory than there is", where=str(path)) from error
    except RecursionError as error:
        raise UnreadableError("the file is nested too deeply", where=str(path)) from error
    except OSError as error:
        raise UnreadableError(f"the file cannot be read: {error.strerror or error}", where=str(path)) from error
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError, RuntimeError) as error:
        text = str(error).partition("\n")[0][:200]
        raise UnreadableError(
            f"the file cannot be read: {type(error).__name__}{': ' if text else ''}{text}",
            where=str(path),
            hint="it is damaged or not what its name says; if other programs read it, please report it",
        ) from error


def reader(function: Reader) -> Reader:
    """A function that reads the file of its first argument: whatever escapes it becomes an error with the file's name."""

    @wraps(function)
    def inner(path: str | Path, *args: Any, **kwargs: Any) -> Any:
        with reading(path):
            return function(path, *args, **kwargs)

    return cast(Reader, inner)
