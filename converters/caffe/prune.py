"""Take the fields that our schema does not know out of a prototxt, and list them.

protobuf's own ``allow_unknown_field`` drops them without a word. Here the text is split into tokens, followed through the
schema, and unknown fields, comments and blobs are replaced by their line ends, so that line numbers stay right for
``text_format``, which does the parsing proper.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ssdconv.errors import FormatError

MAX_TOKENS = 250_000  # the largest known prototxts have about half
MAX_DEPTH = 32
MAX_LINES = 500_000
MAX_STRING = 1 << 16
MAX_WORD = 256
_MESSAGE = 11
_TOKEN = re.compile(
    r"""(?P<blank>(?:[ \t\r\n\f\v]++|\#[^\n]*+)++)
      | (?P<string>"(?:[^"\\\n]++|\\.)*+"|'(?:[^'\\\n]++|\\.)*+')
      | (?P<word>[A-Za-z0-9_.+-]++)
      | (?P<mark>[{}<>:;,\[\]/])""",
    re.VERBOSE,
)
_CLOSER = {"{": "}", "<": ">"}


class Token(NamedTuple):
    """One token: kind "string", "word" or "mark" ("end" behind the last), its text and place."""

    kind: str
    text: str
    start: int
    end: int


@dataclass
class _Level:
    """One open message: its descriptor (None inside an unknown field), its name for reports, and its closer."""

    descriptor: Any
    path: str
    closer: str
    layer: int = -1


class Pruner:
    """One pass over one prototxt.

    Attributes:
        unknown: (layer index or -1, dotted name) of each unknown field.
        layers: count of layers.
    """

    def __init__(self, text: str, where: str) -> None:
        self._text = text
        self._where = where
        self._blanks: list[tuple[int, int]] = []
        self.unknown: list[tuple[int, str]] = []
        self.layers = 0

    def error(self, what: str, at: int, **facts: Any) -> FormatError:
        """A FormatError that names file and line."""
        return FormatError(what, where=f"{self._where}, line {self.line(at)}", **facts)

    def line(self, at: int) -> int:
        """Line number, from 1, of offset ``at``."""
        return self._text.count("\n", 0, at) + 1

    def tokens(self) -> Iterator[Token]:
        """Tokens without blanks and comments; comments are marked to be blanked out.

        Raises:
            FormatError: a character or an open string that no prototxt has; too many or too long tokens or lines.
        """
        if self._text.count("\n") > MAX_LINES:
            raise self.error("the text has more lines than any network's", 0, expected=f"<= {MAX_LINES}")
        text, at, count = self._text, 0, 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                what = "a string is not closed on its line" if text[at] in "\"'" else "unexpected character"
                raise self.error(what, at, got=repr(text[at]))
            kind = str(match.lastgroup)
            if kind != "blank":
                count += 1
                if count > MAX_TOKENS:
                    raise self.error("the text is longer than any network's", at, expected=f"<= {MAX_TOKENS} words")
                if match.end() - at > (MAX_STRING if kind == "string" else MAX_WORD):
                    raise self.error(f"a {kind} is too long", at, got=f"{match.end() - at} characters")
                yield Token(kind, match.group(), at, match.end())
            elif match.end() - at > MAX_WORD or "#" in match.group():
                self._blanks.append((at, match.end()))
            at = match.end()
        yield Token("end", "", len(text), len(text))

    def run(self, net: Any) -> str:
        """The text with everything unknown to the message descriptor ``net`` blanked out.

        Raises:
            FormatError: text that is no prototxt, or nests too deeply.
        """
        stream = self.tokens()
        token = next(stream)
        stack = [_Level(net, "", "end")]
        dropping: tuple[int, int] | None = None  # depth and start of the unknown field being left out
        while True:
            level = stack[-1]
            if token.text == level.closer or token.kind == level.closer:
                stack.pop()
                if not stack:
                    break
                token = self._separator(stream, next(stream))
                if dropping and dropping[0] == len(stack):
                    self._blanks.append((dropping[1], token.start))
                    dropping = None
                continue
            if token.kind != "word":
                got = repr(token.text) if token.text else "the end of the file"
                raise self.error("expected a field name", token.start, got=got)
            name, start = token.text, token.start
            child, dropped = self._known(level, name)
            if dropped and dropping is None:
                dropping = len(stack), start
            token = next(stream)
            colon = token.text == ":" and token.kind == "mark"
            if colon:
                token = next(stream)
            if token.kind == "mark" and token.text in _CLOSER:
                if len(stack) >= MAX_DEPTH:
                    raise self.error("messages are nested too deeply", token.start, expected=f"<= {MAX_DEPTH} levels")
                layer = level.layer
                if len(stack) == 1 and name in ("layer", "layers"):
                    layer, self.layers = self.layers, self.layers + 1
                path = f"{level.path}{name}." if len(stack) > 1 or layer < 0 else ""
                stack.append(_Level(None if dropped else child, path, _CLOSER[token.text], layer))
                token = next(stream)
                continue
            if not colon:
                raise self.error(f"expected ':' or '{{' after {name!r}", token.start, got=repr(token.text))
            token = self._separator(stream, self._value(stream, token))
            if dropping and dropping[0] == len(stack):
                self._blanks.append((dropping[1], token.start))
                dropping = None
        return self._blanked()

    def _known(self, level: _Level, name: str) -> tuple[Any, bool]:
        """Descriptor of the message that field ``name`` holds (None for scalars), and whether to leave it out."""
        if level.descriptor is None:
            return None, True
        field = level.descriptor.fields_by_name.get(name)
        if field is None or name == "blobs":
            self.unknown.append((level.layer, f"{level.path}{name}"))
            return None, True
        return (field.message_type if field.type == _MESSAGE else None), False

    def _value(self, stream: Iterator[Token], token: Token) -> Token:
        """Step over a scalar, adjacent strings, or a list of scalars; returns the token behind it."""
        if token.kind == "string":
            while token.kind == "string":
                token = next(stream)
            return token
        if token.kind == "word":
            return next(stream)
        if token.text != "[":
            raise self.error(
                "expected a value", token.start, got=repr(token.text) if token.text else "the end of the file"
            )
        token = next(stream)
        while token.text != "]":
            if token.kind not in ("word", "string") and token.text != ",":
                got = repr(token.text) if token.text else "the end of the file"
                raise self.error("expected a list of plain values", token.start, got=got)
            token = next(stream)
        return next(stream)

    @staticmethod
    def _separator(stream: Iterator[Token], token: Token) -> Token:
        return next(stream) if token.text in (",", ";") and token.kind == "mark" else token

    def _blanked(self) -> str:
        pieces, at = [], 0
        for start, end in sorted(self._blanks):
            if start < at:
                continue  # a comment inside an unknown field
            pieces += [self._text[at:start], "\n" * self._text.count("\n", start, end) or " "]
            at = end
        return "".join([*pieces, self._text[at:]])
