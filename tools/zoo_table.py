"""The table of the zoo in README.md, made from zoo.json: ``python tools/zoo_table.py`` writes it, ``--check`` only compares."""

from __future__ import annotations

import sys
from pathlib import Path

from ssdconv.fetch import scores
from ssdconv.zoo import entries

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- zoo:begin, made by tools/zoo_table.py -->", "<!-- zoo:end -->"
HEAD = ("weights", "source", "paper", "the source's own", "here: layers", "here: mAP", "checksum")


def table() -> str:
    """The table in Markdown, between its markers."""
    rows = [HEAD, ("---",) * len(HEAD)]
    for entry in entries().values():
        r = entry.record
        fetchable = scores.checksum(r) if scores.available(r) else "no address of a file"
        rows.append(
            (f"`{r.name}`", r.source, scores.paper(r), scores.own(r), scores.proof(r), scores.here(r), fetchable)
        )
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([BEGIN, *lines, END])


def inserted(text: str) -> str:
    """``text`` with the table between its markers made anew.

    Raises:
        SystemExit: the markers are not there.
    """
    start, stop = text.find(BEGIN), text.find(END)
    if start < 0 or stop < start:
        raise SystemExit(f"{README.name} has no markers {BEGIN!r} … {END!r}")
    return text[:start] + table() + text[stop + len(END) :]


def main() -> int:
    """Write the table, or compare; 1 where it differs and only comparing was asked."""
    old = README.read_text()
    new = inserted(old)
    if "--check" in sys.argv[1:]:
        print("as zoo.json says" if old == new else "README.md differs: run python tools/zoo_table.py")
        return int(old != new)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
