"""The ``ssdconv`` command: parses the arguments, runs one verb, ends with its exit code."""

from __future__ import annotations

import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from ssdconv import __version__
from ssdconv.commands import catalogue, failure
from ssdconv.commands.parser import overview, verb_parser
from ssdconv.commands.verb import Verb
from ssdconv.errors import EXIT_OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ssdconv`` with ``argv`` (default: the process's arguments) and return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    _end_cleanly_on_sigterm()
    try:
        code = _run(args)
        sys.stdout.flush()
    except SystemExit as end:  # argparse, after --help
        code = end.code if isinstance(end.code, int) else EXIT_OK
    except BaseException as error:  # noqa: BLE001 - the one place where every error ends
        code = failure.report(error, as_json="--json" in args, debug="--debug" in args)
    return code


def parse(argv: Sequence[str]) -> tuple[Verb, Namespace]:
    """The verb and its arguments of a command line such as ``["inspect", "x.caffemodel"]``.

    Raises:
        UsageError: unknown verb or argument, or one is missing.
    """
    verb = catalogue.find(argv[0])
    return verb, verb_parser(verb).parse_known_checked(argv[1:])


def _run(args: list[str]) -> int:
    if args[:1] == ["help"]:
        args = [*args[1:2], "--help"]
    if not args or args[0] in ("-h", "--help"):
        print(overview(catalogue.verbs().values()))
        return EXIT_OK
    if args[0] in ("-V", "--version"):
        print(f'{{"ssdconv": "{__version__}"}}' if "--json" in args else f"ssdconv {__version__}")
        return EXIT_OK
    verb, namespace = parse(args)
    return verb.run(namespace)


def _end_cleanly_on_sigterm() -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        raise failure.Terminated

    if threading.current_thread() is threading.main_thread():
        with suppress(ValueError):
            signal.signal(signal.SIGTERM, stop)
