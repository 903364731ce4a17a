"""The ``ssdconv`` command: parses the arguments, runs one verb, ends with its exit code."""

from __future__ import annotations

import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ssdconv import __version__
from ssdconv.commands import catalogue, failure
from ssdconv.commands.parser import overview, verb_parser
from ssdconv.commands.verb import Verb
from ssdconv.errors import EXIT_OK
from ssdconv.text import guarded


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
        raise KeyboardInterrupt if number == signal.SIGINT else failure.Terminated

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
