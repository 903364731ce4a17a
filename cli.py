"""The ``ssdconv`` command: finds the verb, parses its arguments, runs it, ends with its exit code.

When something goes wrong there is one clean message and the right exit code.
"""

from __future__ import annotations

import difflib
import errno
import os
import signal
import sys
import threading
import traceback
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import FrameType

from ssdconv import __version__
from ssdconv.commands import (
    compare,
    convert,
    data,
    detect,
    diagnose,
    diff,
    doctor,
    export,
    inspect,
    networks,
    oracle,
    published,
    train,
    verify,
    zoo,
)
from ssdconv.commands.arguments import refuse_special
from ssdconv.commands.output import print_json
from ssdconv.commands.verb import Verb, overview, verb_of, verb_parser
from ssdconv.errors import EXIT_INTERRUPTED, EXIT_OK, MissingError, OutputError, SsdconvError, UsageError
from ssdconv.text import guarded, printable, raw

MODULES = (
    inspect,
    verify,
    diagnose,
    diff,
    compare,
    published,
    detect,
    export,
    train,
    data,
    zoo,
    networks,
    oracle,
    doctor,
)
EXIT_INTERNAL = 70

EXIT_BROKEN_PIPE = 141

EXIT_TERMINATED = 143

_WRITE_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ssdconv`` with ``argv`` (default: the process's arguments) and return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    with _ending_cleanly(), guarded():
        try:
            code = _run(args)
            sys.stdout.flush()
        except SystemExit as end:  # argparse, after --help
            code = end.code if isinstance(end.code, int) else EXIT_OK
        except BaseException as error:  # noqa: BLE001 - the one place where every error ends
            code = report(error, as_json="--json" in args, debug="--debug" in args)
    return code


def parse(argv: Sequence[str]) -> tuple[Verb, Namespace]:
    """The verb and its arguments of a command line such as ``["inspect", "x.caffemodel"]``.

    Raises:
        UsageError: unknown verb or argument, or one is missing.
    """
    verb = find_verb(argv[0])
    return verb, verb_parser(verb).parse_known_checked(argv[1:])


def _run(args: list[str]) -> int:
    if args[:1] == ["help"]:
        args = [*args[1:2], "--help"]
    if not args or args[0] in ("-h", "--help"):
        print(overview(verbs().values()))
        return EXIT_OK
    if args[0] in ("-V", "--version"):
        print(f'{{"ssdconv": "{__version__}"}}' if "--json" in args else f"ssdconv {__version__}")
        return EXIT_OK
    verb, namespace = parse(args)
    refuse_special(namespace)
    return verb.run(namespace)


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """Within the block, the first SIGTERM, SIGHUP or SIGINT raises, and later ones do not tear the cleaning up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asks = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in asks}

    def stop(number: int, frame: FrameType | None) -> None:
        for ask in asks:
            signal.signal(ask, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@cache
def verbs() -> dict[str, Verb]:
    """All verbs by name, in the order in which ``--help`` lists them; importing them imports neither torch nor numpy.

    Raises:
        ValueError: two verbs have the same name.
    """
    listed = [
        *convert.verbs(),
        *map(verb_of, MODULES),
    ]
    table: dict[str, Verb] = {}
    for verb in listed:
        if verb.name in table:
            raise ValueError(f"two verbs are called {verb.name!r}")
        table[verb.name] = verb
    return table


def find_verb(name: str) -> Verb:
    """The verb called ``name``.

    Raises:
        UsageError: there is none; the hint names the nearest one.
    """
    table = verbs()
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name.lower(), table, 1, 0.5)
    raise UsageError(
        f"there is no command {name!r}",
        where="ssdconv",
        hint=f"did you mean `ssdconv {close[0]}`?" if close else "`ssdconv --help` lists the commands",
    )


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
        _say_error("interrupted" if isinstance(error, KeyboardInterrupt) else "terminated")
        return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_TERMINATED
    known = as_ssdconv_error(error)
    if known is None:
        what = f"{type(error).__name__}: {error}"
        _say_error(f"this is a bug in ssdconv: {what}")
        if not debug:
            _say_error("  hint: run it again with --debug and report the traceback, please", label=False)
        if as_json:
            print_json({"error": {"code": "InternalError", "what": what, "exit_code": EXIT_INTERNAL}})
        return EXIT_INTERNAL
    _say_error(str(known))
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


def _say_error(message: str, *, label: bool = True) -> None:
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    prefix = "" if not label else ("\x1b[31merror:\x1b[0m " if colour else "error: ")
    print(prefix + printable(message, lines=True), file=raw(sys.stderr))
