"""The table of the zoo in README.md and the JSON Schema of zoo files: ``python tools/zoo_table.py`` writes both.

The table is made from zoo.json, the schema from the types that zoo files are read with; ``--check`` only compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ssdconv.fetch import record
from ssdconv.zoo import entries

README = Path(__file__).resolve().parents[1] / "README.md"
SCHEMA = README.parent / "fetch" / "zoo.schema.json"
BEGIN, END = "<!-- zoo:begin, made by tools/zoo_table.py -->", "<!-- zoo:end -->"
HEAD = ("weights", "source", "paper", "the source's own", "here: layers", "here: mAP", "checksum")


def table() -> str:
    """The table in Markdown, between its markers."""
    rows = [HEAD, ("---",) * len(HEAD)]
    for entry in entries().values():
        r = entry.record
        fetchable = record.checksum_kind(r) if record.has_address(r) else "no address of a file"
        rows.append(
            (
                f"`{r.name}`",
                r.source,
                record.paper_score(r),
                record.own_score(r),
                record.layers_proven(r),
                record.measured_score(r),
                fetchable,
            )
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
    """Write both files, or compare; 1 where one differs and only comparing was asked."""
    wanted = {
        README: inserted(README.read_text()),
        SCHEMA: json.dumps(record.schema(), indent=1, ensure_ascii=False) + "\n",
    }
    different = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        print(
            "\n".join(f"{path.name} differs: run python tools/zoo_table.py" for path in different) or "as zoo.json says"
        )
        return int(bool(different))
    for path in different:
        path.write_text(wanted[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
