"""Text from files and servers, made safe to show: no control characters, escape sequences, or signs that turn the reading order.

Tensor, layer, class and file names, provenance, status lines: whatever was not written here may hold characters that move a
terminal's cursor, hide a line or show "cod.exe" for "exe.doc". They are shown as ``\\xNN`` or ``\\uNNNN``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_BAD = (
    *range(0x20),
    *range(0x7F, 0xA0),
    0x061C,
    *range(0x200B, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2070),
    0xFEFF,
    *range(0xFFF9, 0xFFFC),
    *range(0xD800, 0xE000),
)
"""Controls of both sets, zero-width and bidirectional marks, line separators, halves of surrogate pairs."""
_LINE = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _BAD}
_BLOCK = {code: shown for code, shown in _LINE.items() if code not in (0x0A, 0x09)}
_JSON = {code: f"\\u{code:04x}" for code in _BAD if code not in (0x0A, 0x09)}
_MARKUP = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]|"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def printable(text: str, *, lines: bool = False) -> str:
    """``text`` with every unsafe character written out.

    Args:
        text: anything.
        lines: keep line ends and tabs, for text of several lines.
    """
    return text.translate(_BLOCK if lines else _LINE)


def printable_json(text: str) -> str:
    """A JSON document with unsafe characters as JSON's own escapes: the same data."""
    return text.translate(_JSON)


class Markdown(str):
    """Text that is Markdown already: ``markdown_text`` leaves it."""


def markdown_text(text: object) -> Markdown:
    """Text for a line or table cell of Markdown: nothing in it is markup, HTML or a control character."""
    if isinstance(text, Markdown):
        return text
    shown = " ".join(printable(str(text), lines=True).split())
    return Markdown(shown.translate(_MARKUP))


def markdown_code(text: object) -> Markdown:
    """A name in Markdown's code style, for a line or a table cell."""
    shown = " ".join(printable(str(text), lines=True).split())
    return Markdown("`" + shown.replace("`", "'").replace("|", "¦") + "`")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """A table of Markdown whose cells are text where they are not ``Markdown``.

    Args:
        left: so many columns are set left, the others right.
    """
    lines = [map(markdown_text, cells) for cells in (head, *rows)]
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (lines[0], rule, *lines[1:]))


class _Guard:
    """A text stream that writes what ``printable`` leaves; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(printable(text, lines=True))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def raw(stream: TextIO) -> TextIO:
    """The stream behind a guard, for what builds its own escape sequences from safe text."""
    inner: TextIO = stream.__dict__["_stream"] if isinstance(stream, _Guard) else stream
    return inner


@contextmanager
def guarded() -> Iterator[None]:
    """Within the block, whatever is printed on stdout and stderr goes through ``printable``."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Guard(raw(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def console(*, stderr: bool = False) -> Console:
    """rich's console whose styles reach the terminal and whose text is ``printable``."""
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
    from rich.segment import Segment

    made = Console(file=raw(sys.stderr if stderr else sys.stdout), highlight=False)

    class Shown:
        def __init__(self, inner: ConsoleRenderable) -> None:
            self.inner = inner

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for text, style, control in console.render(self.inner, options):
                yield Segment(text if control else printable(text, lines=True), style, control)

    class Hook(RenderHook):
        def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
            return [Shown(each) for each in renderables]

    made.push_render_hook(Hook())
    return made
