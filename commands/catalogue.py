"""Every verb of the ``ssdconv`` command, in the order in which ``--help`` lists them."""

from __future__ import annotations

import difflib
from functools import cache

from ssdconv.commands import (
    caffe2npz,
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
    sources,
    train,
    verify,
    zoo,
)
from ssdconv.commands.verb import Verb, verb_of
from ssdconv.errors import UsageError


@cache
def verbs() -> dict[str, Verb]:
    """All verbs by name; importing them imports neither torch nor numpy.

    Raises:
        ValueError: two verbs have the same name.
    """
    listed = [
        *sources.verbs(),
        verb_of(caffe2npz),
        verb_of(convert),
        verb_of(inspect),
        verb_of(verify),
        verb_of(diagnose),
        verb_of(diff),
        verb_of(compare),
        verb_of(published),
        verb_of(detect),
        verb_of(export),
        verb_of(train),
        verb_of(data),
        verb_of(zoo),
        verb_of(networks),
        verb_of(oracle),
        verb_of(doctor),
    ]
    table: dict[str, Verb] = {}
    for verb in listed:
        if verb.name in table:
            raise ValueError(f"two verbs are called {verb.name!r}")
        table[verb.name] = verb
    return table


def find(name: str) -> Verb:
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
