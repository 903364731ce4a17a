"""What verbs print: results as text or JSON on stdout, progress on stderr."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ssdconv.text import console, printable, printable_json

if TYPE_CHECKING:
    from ssdconv.converters.convert import FileReport
    from ssdconv.converters.tensors import Drop

SLOW_SECONDS = 2.0
MANY = 3
"""Tensors left out for one reason that are named one by one."""


def plain(value: Any) -> Any:
    """``value`` as strict JSON data: numbers that JSON cannot hold become ``"NaN"``, ``"Infinity"``, ``"-Infinity"``;
    anything that is not data becomes its text."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return [plain(entry) for entry in value]
    for method in ("tolist", "to_json"):
        if hasattr(value, method):
            return plain(getattr(value, method)())
    return str(value)


def print_json(data: object) -> None:
    """One JSON document on stdout."""
    print(printable_json(json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False)))


def print_tail(report: FileReport) -> None:
    """The end of every conversion's report: what was left out, warnings (on stderr), hash and files."""
    for line in left_out(report.drops):
        print(line)
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"source sha256 {report.source_sha256}")
    print("\n".join(f"wrote {path}" for path in report.outputs) + f" in {report.seconds:.2f} s")


def left_out(drops: Iterable[Drop]) -> Iterator[str]:
    """What a conversion left out, a line per tensor; one line for all with the same reason where they are many (``--json`` has all)."""
    reasons: dict[str, list[str]] = {}
    for drop in drops:
        reasons.setdefault(drop.reason, []).append(drop.source)
    for reason, names in reasons.items():
        if len(names) > MANY:
            yield f"left out {len(names)} tensors, {names[0]} … {names[-1]}: {reason}"
        else:
            yield from (f"left out {name}: {reason}" for name in names)


def table(rows: Sequence[Sequence[object]], head: Sequence[str], *, right: Sequence[int] = ()) -> str:
    """Columns aligned by spaces, one line per row.

    Args:
        rows: cells, printed with ``str``.
        head: column titles.
        right: indices of the columns to align at the right.
    """
    text = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in text) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in text
    )


@contextmanager
def working(what: str) -> Iterator[None]:
    """Shows ``what`` with the time elapsed on stderr once the work takes long; a terminal only, silent otherwise."""
    if not sys.stderr.isatty():
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_show_after, args=(what, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show_after(what: str, stop: threading.Event) -> None:
    if stop.wait(SLOW_SECONDS):
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        bar.add_task(printable(what), total=None)
        stop.wait()


@contextmanager
def counting(what: str, total: int) -> Iterator[Any]:
    """A progress bar on stderr with the time left; yields a function to call after each finished step.

    Silent when stderr is not a terminal or there is only one step.
    """
    if not sys.stderr.isatty() or total < 2:
        yield lambda: None
        return
    from rich.progress import Progress

    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(what), total=total)
        yield lambda: bar.advance(task)


@contextmanager
def following() -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar on stderr for work that reports (text, steps done, steps in all); None on anything but a terminal.

    Nothing shows before the work has taken ``SLOW_SECONDS``.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress

    started = time.monotonic()
    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)

        def tell(text: str, done: int, total: int) -> None:
            late = time.monotonic() - started > SLOW_SECONDS
            bar.update(task, description=printable(text), completed=done, total=total, visible=late)

        yield tell
