"""What a verdict rests on, link by link: who says so, what this run compared, and where the checkpoint says something else.

A link is as strong as the weakest thing that was settled for it (``ssd_ref.evidence.STRENGTH``). What an oracle runs replaces what the
plan rebuilt from facts or read from the file; what was assumed, or given by the user, stays so whoever runs it: the oracle was told the
same. A rebuilt oracle shares the converter's facts, so its agreement proves arithmetic and no more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ssdconv.ssd_ref.evidence import BASES, INDEPENDENT, LINKS, STRENGTH, Basis, Claim, Link, of_link

WORDS: Mapping[Link, str] = {"tensors": "weights", "architecture": "layers"}
"""How the headline calls a link, where not by its name."""
LONGEST = 160
"""Characters of reasons in a headline, beyond which it names the first alone."""
SETTLED_ELSEWHERE: frozenset[Basis] = frozenset({"assumed", "user"})
"""Bases that an oracle's run does not improve: it was given the same. A project's original code is given only what ``ran`` lists."""


@dataclass(frozen=True)
class LinkResult:
    """One link of one verdict.

    Attributes:
        link: which.
        basis: who says so; None where nobody does.
        text: what that says.
        compared: what this run compared of it; "" where nothing was.
        differs: fields of the checkpoint's config that are not what the source file gives, and both values.
        claims: everything that was settled about it, the weakest first.
    """

    link: Link
    basis: Basis | None
    text: str = ""
    compared: str = ""
    differs: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()

    def __bool__(self) -> bool:
        return not self.differs

    @property
    def independent(self) -> bool:
        """Whether it rests on nothing of the converter's own."""
        return self.basis in INDEPENDENT

    @property
    def weak(self) -> bool:
        """Whether ``--strict`` refuses it: assumed, rebuilt, or nobody says."""
        return not self.independent and self.basis != "user"

    @property
    def says(self) -> str:
        """Who says so, in words."""
        return BASES[self.basis] if self.basis is not None else "nobody says"


def link_results(
    settled: Sequence[Claim],
    ran: Sequence[Claim],
    compared: Mapping[Link, str],
    differs: Mapping[Link, Sequence[str]],
    alone: Collection[Link] = (),
) -> tuple[LinkResult, ...]:
    """The table of a verdict, a row per link.

    Args:
        settled: what the plan of the source file settled.
        ran: what the oracle runs, and which of the plan's assumptions it had to be told.
        compared: what this run compared; an oracle has no say in a link that was not.
        differs: fields in which the checkpoint's config is not the source file's.
        alone: links of which the oracle was told nothing that was assumed or given.
    """
    rows = []
    for link in LINKS:
        claims = of_link(settled, link)
        run = next((c for c in ran if c.link == link and c.basis not in SETTLED_ELSEWHERE and compared.get(link)), None)
        if run is not None:
            own = run.basis == "original code" or link in alone
            claims = of_link(
                (run, *(c for c in claims if c in ran or (c.basis in SETTLED_ELSEWHERE and not own))), link
            )
        weakest = claims[0] if claims else None
        every = of_link((*(() if run is None else (run,)), *settled), link)
        basis, text = (weakest.basis, _said(claims)) if weakest is not None else (None, "")
        rows.append(LinkResult(link, basis, text, compared.get(link, ""), tuple(differs.get(link, ())), every))
    return tuple(rows)


def _said(claims: Sequence[Claim]) -> str:
    """The texts of the weakest claims."""
    return "; ".join(dict.fromkeys(c.text for c in claims if c.basis == claims[0].basis))


def headline(links: Sequence[LinkResult]) -> str:
    """What a passed verdict may say: "same network" only where every link is independent of the converter.

    Args:
        links: the table; an empty one (of an older version's report) bears nothing but that the runs agree.
    """
    if not links:
        return "both sides agree; who vouches for what was not recorded"
    proven = [r for r in links if r.independent]
    rest = [r for r in links if not r.independent]
    absent = [r.link for r in links if r.link != "classes" and not r.compared and r.link not in ("pixels",)]
    untold = f"; not compared in this run: {_listed(absent)}" if absent else ""
    if not rest and not absent:
        return "same network"
    parts = [
        f"same {_listed([WORDS.get(r.link, r.link) for r in proven if r.compared or r.link in ('pixels', 'classes')])}"
    ]
    for basis in (*reversed(STRENGTH[:3]), None):
        found = [r for r in rest if r.basis == basis]
        if not found:
            continue
        words = _listed([WORDS.get(r.link, r.link) for r in found])
        told = _short([c.text for r in found for c in r.claims if c.basis == basis and c.text in r.text])
        verb = BASES[basis] if basis is not None else "vouched for by nobody"
        parts.append(f"{words} {verb}" + (f" ({told})" if told and basis in ("assumed", "user") else ""))
    return "; ".join(parts) + untold


def _short(texts: Sequence[str]) -> str:
    """The texts, or the first of them where all are too long for a headline."""
    kept = list(dict.fromkeys(texts))
    whole = "; ".join(kept)
    return whole if len(whole) <= LONGEST or len(kept) < 2 else f"{kept[0]}; and {len(kept) - 1} more, see the table"


def _listed(words: Iterable[str]) -> str:
    *most, last = list(words) or ["nothing"]
    return f"{', '.join(most)} and {last}" if most else last


def weak_links(links: Sequence[LinkResult]) -> tuple[LinkResult, ...]:
    """What ``--strict`` refuses: links that are assumed, rebuilt by this project, or that nobody vouches for."""
    return tuple(r for r in links if r.weak)
