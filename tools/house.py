"""The picture of the house in CONTRIBUTING.md, made from the code's imports: ``python tools/house.py`` writes it, ``--check`` compares.

A room is a folder of the package; below ``converters`` and ``parity`` every folder is one, and what stands in them directly is the core of
its own. Modules at the top are rooms too. An arrow says that some file of a room imports from another, also inside of functions; what is
imported by a name put together at run time is not seen. The drawing leaves out arrows that follow from others, the table has all.
Numbers are as of the last writing: comparing allows them a fifth, so that not every edit asks for a new picture.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- house:begin, made by tools/house.py -->", "<!-- house:end -->"
SPLIT = ("converters", "parity")
"""Folders whose folders are rooms of their own."""
APART = {"bench", "docs", "tests", "tools", "workers"}
"""Folders that are no part of the package; ``workers`` run in other interpreters."""
EVERYWHERE = ("errors", "text")
"""Rooms that any room may point to; they are not drawn, nor listed."""
LEEWAY = 0.2


def room_of(file: Path) -> str:
    """The room of a file below the root."""
    parts = file.parts
    if len(parts) == 1:
        return file.stem
    return "/".join(parts[:2]) if parts[0] in SPLIT and len(parts) > 2 else parts[0]


def rooms(root: Path = ROOT) -> dict[str, list[Path]]:
    """Every room's files, relative to the root."""
    found: dict[str, list[Path]] = {}
    tops = [f for f in root.glob("*/__init__.py") if f.parent.name not in APART]
    for file in sorted([*root.glob("*.py"), *(f for top in tops for f in top.parent.rglob("*.py"))]):
        inside = file.relative_to(root)
        if not APART.intersection(inside.parts) and inside.name != "__main__.py":
            found.setdefault(room_of(inside), []).append(inside)
    found.pop("__init__", None)
    return found


def imported(file: Path) -> set[str]:
    """Dotted names below ``ssdconv`` that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("ssdconv.") for name in found if name.startswith("ssdconv.")}


def arrows(root: Path = ROOT) -> dict[str, set[str]]:
    """Room -> the rooms that it imports from."""
    every = rooms(root)
    found: dict[str, set[str]] = {}
    for room, files in every.items():
        names = {name for file in files for name in imported(root / file)}
        targets = set()
        for name in names:
            parts = name.split(".")
            split = "/".join(parts[:2])
            targets.add(split if parts[0] in SPLIT and split in every else parts[0])
        found[room] = targets & every.keys() - {room, *EVERYWHERE}
    return found


def reached(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Room -> all rooms that arrows lead to."""
    found = {room: set(targets) for room, targets in graph.items()}
    for middle in graph:
        for room in graph:
            if middle in found[room]:
                found[room] |= found[middle]
    return found


def drawn(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that do not follow from others; rooms that point to each other, by any way, stand for one."""
    below = reached(graph)

    def together(a: str, b: str) -> bool:
        return b in below[a] and a in below[b]

    def follows(a: str, b: str) -> bool:
        between = (c for c in below[a] if c != b and not together(a, c) and not together(c, b))
        return not together(a, b) and any(b in below[c] for c in between)

    return [(a, b) for a in graph for b in sorted(graph[a]) if not follows(a, b)]


def purpose(room: str, files: list[Path], root: Path = ROOT) -> str:
    """The first sentence of a room's docstring."""
    first = min(files, key=lambda file: (file.name != "__init__.py", len(file.parts)))
    text = " ".join(
        (ast.get_docstring(ast.parse((root / first).read_text(encoding="utf-8"))) or "").split("\n\n")[0].split()
    )
    return text.split(". ")[0].rstrip(".").replace("|", "\\|")


def picture(root: Path = ROOT) -> str:
    """The drawing and the table, in Markdown."""
    every, graph = rooms(root), arrows(root)
    shown = [room for room in every if room not in EVERYWHERE]
    names = {room: re.sub(r"\W", "_", room) for room in shown}
    alike: dict[tuple[str, ...], list[str]] = {}
    edges = drawn({room: graph[room] for room in shown})
    for room in shown:  # the sources stand side by side: those with the same arrows share a box
        around = (*sorted(b for a, b in edges if a == room), "<", *sorted(a for a, b in edges if b == room))
        alike.setdefault((room.rpartition("/")[0] or room, *around), []).append(room)
    box = {room: group[0] for group in alike.values() for room in group}
    lines = ["```mermaid", "flowchart TD"]
    lines += [f'    {names[group[0]]}["{"<br>".join(group)}"]' for group in alike.values()]
    pairs = dict.fromkeys((names[box[a]], names[box[b]]) for a, b in edges)
    lines += [f"    {a} {'<-->' if (b, a) in pairs else '-->'} {b}" for a, b in pairs if a < b or (b, a) not in pairs]
    lines += ["```", "", "| room | what it is | files | lines | points to |", "|---|---|---:|---:|---|"]
    for room in shown:
        count = sum(len((root / file).read_text(encoding="utf-8").splitlines()) for file in every[room])
        targets = ", ".join(f"`{target}`" for target in sorted(graph[room])) or "–"
        row = (f"`{room}`", purpose(room, every[room], root), len(every[room]), f"{count:,}", targets)
        lines.append(f"| {' | '.join(map(str, row))} |")
    everywhere = " and ".join(f"`{room}`" for room in EVERYWHERE)
    return "\n".join([*lines, "", f"Every room may point to {everywhere}, too."])


def alike(old: str, new: str) -> bool:
    """Whether two pictures are the same, but for numbers that differ by a fifth or by two."""
    number = re.compile(r"(?<=\| )[\d,]+(?= \|)")
    if number.sub("#", old) != number.sub("#", new):
        return False
    pairs = zip(*([int(n.replace(",", "")) for n in number.findall(text)] for text in (old, new)), strict=True)
    return all(abs(a - b) <= max(2, LEEWAY * b) for a, b in pairs)


def held(page: str) -> tuple[str, str, str]:
    """What stands before, between and behind the markers.

    Raises:
        SystemExit: the markers are not there.
    """
    start, stop = page.find(BEGIN), page.find(END)
    if start < 0 or stop < start:
        raise SystemExit(f"no markers {BEGIN!r} … {END!r}")
    return page[:start], page[start + len(BEGIN) : stop].strip("\n"), page[stop + len(END) :]


def main() -> int:
    """Write the picture, or compare; 1 where it differs and only comparing was asked."""
    before, old, behind = held(PAGE.read_text(encoding="utf-8"))
    new = picture()
    if "--check" in sys.argv[1:]:
        print("as the imports say" if alike(old, new) else f"{PAGE.name} differs: run python tools/house.py")
        return int(not alike(old, new))
    PAGE.write_text(f"{before}{BEGIN}\n{new}\n{END}{behind}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
