"""What a verb of the ``ssdconv`` command is made of, its parser, and the grouped top-level help.

A verb is a module of this package with ``NAME``, ``GROUP``, ``HELP``, ``EXAMPLES``, ``configure`` and ``run``; the verbs
that convert to and from a source are generated from the registry of sources instead.
"""

from __future__ import annotations

import argparse
import difflib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn, Protocol

from ssdconv.errors import UsageError

Group = Literal["convert", "prove", "use", "train", "housekeeping"]
GROUPS: tuple[Group, ...] = ("convert", "prove", "use", "train", "housekeeping")


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        name: what the user types after ``ssdconv``.
        group: heading under which ``ssdconv --help`` lists it.
        help: one line.
        examples: complete command lines, shown by ``ssdconv VERB --help`` and parsed by the tests.
        configure: declares the verb's arguments; imports nothing heavy.
        run: does the work, prints the result on stdout, returns the exit code.
    """

    name: str
    group: Group
    help: str
    examples: tuple[str, ...]
    configure: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]


class VerbModule(Protocol):
    """A module that describes one verb."""

    NAME: str
    GROUP: Group
    HELP: str
    EXAMPLES: tuple[str, ...]

    def configure(self, parser: ArgumentParser, /) -> None: ...

    def run(self, args: Namespace, /) -> int: ...


def verb_of(module: VerbModule) -> Verb:
    """The verb that a module describes."""
    return Verb(module.NAME, module.GROUP, module.HELP, module.EXAMPLES, module.configure, module.run)


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
