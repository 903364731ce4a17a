"""How the command line ends when something goes wrong: one clean message, the right exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback

from ssdconv.commands.output import print_json
from ssdconv.errors import EXIT_INTERRUPTED, MissingError, OutputError, SsdconvError
from ssdconv.text import printable, raw

EXIT_INTERNAL = 70
EXIT_BROKEN_PIPE = 141
EXIT_TERMINATED = 143
_WRITE_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG)


class Terminated(BaseException):
    """The process was asked to end (SIGTERM, SIGHUP); raised so that temporary files are removed on the way out."""


def report(error: BaseException, *, as_json: bool, debug: bool) -> int:
    """Tell the user about ``error`` and return the exit code.

    The message goes to stderr; with ``as_json`` the error also goes to stdout as ``{"error": {...}}``.
    """
    if isinstance(error, BrokenPipeError):
        # The reader of our output is gone: keep Python from complaining when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    if debug:
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt | Terminated):
        _say("interrupted" if isinstance(error, KeyboardInterrupt) else "terminated")
        return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_TERMINATED
    known = as_ssdconv_error(error)
    if known is None:
        what = f"{type(error).__name__}: {error}"
        _say(f"this is a bug in ssdconv: {what}")
        if not debug:
            _say("  hint: run it again with --debug and report the traceback, please", label=False)
        if as_json:
            print_json({"error": {"code": "InternalError", "what": what, "exit_code": EXIT_INTERNAL}})
        return EXIT_INTERNAL
    _say(str(known))
    if as_json:
        print_json({"error": {**known.to_json(), "exit_code": known.exit_code}})
    return known.exit_code


def as_ssdconv_error(error: BaseException) -> SsdconvError | None:
    """The error as one of ours where its cause lies with files, memory or the installation; None for a bug."""
    if isinstance(error, SsdconvError):
        return error
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("ssdconv"):
        return MissingError(
            f"the Python package {error.name!r} is not installed", hint=f"python -m pip install {error.name}"
        )
    if isinstance(error, OSError) and error.strerror:
        where = None if error.filename is None else os.fsdecode(error.filename)
        kind = OutputError if error.errno in _WRITE_ERRORS else SsdconvError
        return kind(error.strerror[0].lower() + error.strerror[1:], where=where)
    if isinstance(error, MemoryError):
        return SsdconvError("out of memory", hint="close other programs, or use a machine with more memory")
    return None


def _say(message: str, *, label: bool = True) -> None:
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    prefix = "" if not label else ("\x1b[31merror:\x1b[0m " if colour else "error: ")
    print(prefix + printable(message, lines=True), file=raw(sys.stderr))
