"""Argument parsing: one parser per verb, errors as ``UsageError`` with a hint, and the grouped top-level help."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import NoReturn

from ssdconv.commands.verb import GROUPS, Verb
from ssdconv.errors import UsageError

EXIT_CODES = (
    "exit codes: 0 ok · 1 parity or verification failed · 2 usage · 3 bad or unsafe input,\n"
    "            or output not writable · 4 missing oracle, data or weights · 5 not compared"
)


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises instead of exiting and suggests the nearest option."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, where=self.prog, hint=f"`{self.prog} --help` shows the arguments")

    def parse_known_checked(self, args: Sequence[str]) -> argparse.Namespace:
        """The parsed arguments.

        Raises:
            UsageError: an argument is unknown, missing or malformed.
        """
        known, rest = self.parse_known_args(args)
        if not rest:
            return known
        options = [name for action in self._actions for name in action.option_strings]
        close = difflib.get_close_matches(rest[0].split("=")[0], options, 1, 0.6)
        raise UsageError(
            f"unknown argument {rest[0]!r}",
            where=self.prog,
            hint=f"did you mean {close[0]}?" if close else f"`{self.prog} --help` shows the arguments",
        )


def verb_parser(verb: Verb) -> Parser:
    """The parser of one verb: its own arguments, then ``--json`` and ``--debug``, then its examples."""
    parser = Parser(
        prog=f"ssdconv {verb.name}",
        description=f"{verb.help[0].upper()}{verb.help[1:]}.",
        epilog="examples:\n" + "\n".join(f"  {line}" for line in verb.examples) + f"\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verb.configure(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print the result (or the error) as JSON on stdout")
    output.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def overview(verbs: Iterable[Verb]) -> str:
    """The text of ``ssdconv --help``: all verbs, grouped."""
    listed = list(verbs)
    width = max(len(verb.name) for verb in listed)
    lines = [
        "usage: ssdconv COMMAND [ARGUMENT ...]",
        "",
        "Old SSD detector weights in, a PyTorch SSD out, with the proof that it is the same network.",
    ]
    for group in GROUPS:
        rows = [f"  {verb.name:<{width}}  {verb.help}" for verb in listed if verb.group == group]
        lines += ["", f"{group}:", *rows] if rows else []
    lines += [
        "",
        "`ssdconv COMMAND --help` shows a command's arguments with examples; every command knows --json.",
        "`ssdconv --version` prints the version.",
        "",
        EXIT_CODES,
    ]
    return "\n".join(lines)
