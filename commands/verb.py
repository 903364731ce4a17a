"""What a verb of the ``ssdconv`` command is made of.

A verb is a module of this package with ``NAME``, ``GROUP``, ``HELP``, ``EXAMPLES``, ``configure`` and ``run``; the verbs
that convert to and from a source are generated from the registry of sources instead.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

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
