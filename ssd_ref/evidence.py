"""Who says what about a network: six links, each with its claims, and notices with a code.

A converted network is the source's only as far as somebody who is not the converter says so. Every checkpoint carries a
``Claim`` for each thing that was settled on the way; a verdict adds what its oracle ran. Plain data, no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import msgspec

from ssdconv.errors import FormatError

Link = Literal["tensors", "architecture", "pixels", "priors", "detection rule", "classes"]
LINKS: tuple[Link, ...] = ("tensors", "architecture", "pixels", "priors", "detection rule", "classes")

Basis = Literal["stated", "source framework", "original code", "rebuilt", "user", "assumed"]
"""Who says so, in words: ``BASES``."""
BASES: dict[Basis, str] = {
    "stated": "stated in the file",
    "source framework": "run by the source framework from the file's own graph",
    "original code": "run by the project's original code",
    "rebuilt": "rebuilt from facts",
    "user": "given by the user",
    "assumed": "assumed",
}
INDEPENDENT: frozenset[Basis] = frozenset({"stated", "source framework", "original code"})
"""Bases that do not rest on the converter's own reading."""
STRENGTH: tuple[Basis, ...] = ("assumed", "rebuilt", "user", "stated", "source framework", "original code")
"""Bases, the weakest first: a link is as strong as the weakest thing that was settled for it."""


@dataclass(frozen=True)
class Claim:
    """One thing that was settled about a network.

    Attributes:
        link: which of ``LINKS`` it belongs to.
        basis: who says so.
        text: what was taken, as a sentence without its basis ("heads padded SAME, the project's code since 2018-02").
        key: the setting that changes it (``--set KEY=VALUE``); "" where nothing can.
        value: what was taken, as it would be given to ``--set``.
        others: further values that ``--set`` offers.
        effect: what another value would change, measured where possible ("priors move by up to 0.063 of the image").
    """

    link: Link
    basis: Basis
    text: str
    key: str = ""
    value: str = ""
    others: tuple[str, ...] = ()
    effect: str = ""

    def __str__(self) -> str:
        said = f"{BASES[self.basis]}: {self.text}"
        if self.key and self.others:
            said += f"; --set {self.key}={'|'.join(self.others)} for another reading"
        return said


PIXELS_ASSUMED = "pixels.assumed"
"""Code of a notice that mean and scale, or one of them, are assumed since the source does not tell them."""
PIXELS_RESIZE = "pixels.resize"
"""Code of a notice that images are resized otherwise than the source did."""
PRIORS_UNTOLD = "priors.untold"
"""Code of a notice that the source does not tell its priors."""
INPUT_GIVEN = "input.given"
"""Code of a notice that the user gave the input size, which the source does not tell."""
RULE_ASSUMED = "rule.assumed"
"""Code of a notice that thresholds, or the background class, are assumed since the source has no detection layer."""


class Notice(str):
    """A warning with a code; prints as its text. Code that has to tell warnings apart goes by ``code``, never by text."""

    code: str

    def __new__(cls, code: str, text: str) -> Self:
        """A warning of kind ``code`` ("pixels.mean.assumed") that reads ``text``."""
        made = super().__new__(cls, text)
        made.code = code
        return made

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        """For copies and pickles."""
        return self.code, str(self)


def code_of(warning: str) -> str:
    """The code of a warning; "" for one without."""
    return getattr(warning, "code", "")


def of_link(claims: Iterable[Claim], link: Link) -> tuple[Claim, ...]:
    """The claims of one link, the weakest first."""
    return tuple(sorted((c for c in claims if c.link == link), key=lambda c: STRENGTH.index(c.basis)))


def lines(claims: Sequence[Claim]) -> list[tuple[Link, str]]:
    """(link, what was settled and by whom) of every claim, in the links' order, the weakest first within a link."""
    return [(link, str(claim)) for link in LINKS for claim in of_link(claims, link)]


def to_plain(claims: Iterable[Claim]) -> list[dict[str, Any]]:
    """Claims as JSON-ready data."""
    return [msgspec.to_builtins(c, enc_hook=str) for c in claims]


def from_plain(data: Sequence[Any]) -> tuple[Claim, ...]:
    """``to_plain``'s data as claims.

    Raises:
        FormatError: not claims.
    """
    try:
        return msgspec.convert(list(data), tuple[Claim, ...])
    except (msgspec.ValidationError, TypeError) as error:
        raise FormatError(f"not evidence of a network: {error}") from None
