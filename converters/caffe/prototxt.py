"""Read and write .prototxt files: a NetParameter in protobuf's text format.

Fields that our schema does not know are listed, where protobuf's own ``allow_unknown_field`` drops them without a word: the text is split
into tokens, followed through the schema, and unknown fields, comments and blobs are replaced by their line ends, so that line
numbers stay right for ``text_format``, which does the parsing proper.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import text_format

from ssdconv.converters.caffe.net import (
    MAX_LAYERS,
    CaffeLayer,
    CaffeNet,
    Reader,
    fill,
    inputs_of,
    layer_of_message,
    shown,
)
from ssdconv.converters.caffe.schema import messages
from ssdconv.converters.caffe.sniff import refuse_strangers
from ssdconv.converters.opened import open_regular
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.ssd_ref.gate import reader

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


MAX_BYTES = 4 << 20  # the largest known prototxts are below 1 MiB


@reader
def read_prototxt(path: Path) -> CaffeNet:
    """Read a .prototxt: V2 ``layer`` or V1 ``layers``, the latter upgraded to V2 terms.

    Args:
        path: the file, UTF-8 (comments may be in any encoding).

    Returns:
        The net without blobs. Fields that Caffe's SSD branch does not know are left out and listed in ``unknown``.

    Raises:
        MissingError: no such file.
        FormatError: not a prototxt, damaged, or beyond every real net's size; names file and line.
    """
    where = str(path)
    with open_regular(Path(path)) as stream:
        data = stream.read(MAX_BYTES + 1)
    refuse_strangers(data[:1024], where, text=True)
    if len(data) > MAX_BYTES:
        raise FormatError("the file is larger than any prototxt", where=where, expected=f"<= {MAX_BYTES} bytes")
    return parse_prototxt(data, where)


def parse_prototxt(data: bytes, where: str) -> CaffeNet:
    """``read_prototxt`` of bytes already in memory; ``where`` names them in messages."""
    kinds = messages()
    pruner = Pruner(data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape"), where)
    text = pruner.run(kinds["Net"].DESCRIPTOR)
    if pruner.layers > MAX_LAYERS:
        raise FormatError("more layers than any network has", where=where, expected=f"<= {MAX_LAYERS}")
    stray = re.search(r"[\udc80-\udcff]", text)
    if stray:
        raise pruner.error("text that is not UTF-8", stray.start(), hint="save the file as UTF-8")
    net = kinds["Net"]()
    try:
        text_format.Parse(text, net)
    except text_format.ParseError as error:
        raise _located(error, where) from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # not seen, but not ours to promise
        raise FormatError(f"not a valid prototxt: {error}", where=where) from None
    return _net(net, pruner, where)


def _located(error: text_format.ParseError, where: str) -> FormatError:
    line = error.GetLine()
    text = re.sub(r"^\d+:\d+ : ", "", str(error))
    text = re.sub(r"Message type \"ssdconv\.caffe\.(\w+)\"", r"Caffe's \1 parameters", text)
    return FormatError(
        f"not a valid prototxt: {text[:300]}", where=f"{where}, line {line}" if line is not None else where
    )


def _net(net: Any, pruner: Pruner, where: str) -> CaffeNet:
    if net.layer and net.layers:
        raise FormatError("the file mixes V1 'layers' and V2 'layer'", where=where)
    if not net.layer and not net.layers:
        raise FormatError("the file holds no layers", where=where, expected="layer { ... } entries")
    reader = Reader(where)
    v1 = bool(net.layers)
    layers = tuple(layer_of_message(m, i, reader, v1=v1) for i, m in enumerate(net.layers if v1 else net.layer))
    for index, field in pruner.unknown:
        reader.note("net" if index < 0 else f"layer {shown(layers[index].name) or f'#{index}'}", field)
    name = reader.text(net.name, "net name")
    return CaffeNet(name, inputs_of(net, layers, reader), layers, reader.unknown)


def write_prototxt(net: CaffeNet, path: Path) -> None:
    """Write ``net`` as a .prototxt (V2 ``layer``), the same bytes for the same net; blobs are not part of it.

    Raises:
        FormatError: a parameter that Caffe's schema does not have.
        OutputError: the file cannot be written; an older one stays as it was.
    """
    text = prototxt_text(net)
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(text)


def prototxt_text(net: CaffeNet) -> bytes:
    """``net`` in prototxt syntax, UTF-8.

    Raises:
        FormatError: a parameter that Caffe's schema does not have.
    """
    text: str = text_format.MessageToString(net_message(net), as_utf8=True)
    return text.encode()


def net_message(net: CaffeNet, *, layers: bool = True) -> Any:
    """``net`` as a schema message, without blobs and, with ``layers`` False, without layers.

    Inputs that come from Input layers are not repeated in ``input``.
    """
    message = messages()["Net"](name=net.name.encode("utf-8"))
    made = {top for layer in net.layers if layer.type == "Input" for top in layer.tops}
    given = {name: shape for name, shape in net.inputs.items() if name not in made}
    for name, shape in given.items():
        message.input.append(name.encode("utf-8"))
        if all(given.values()):
            message.input_shape.add().dim.extend(shape)
    if layers:
        for layer in net.layers:
            message.layer.append(layer_message(layer))
    return message


def layer_message(layer: CaffeLayer) -> Any:
    """One ``CaffeLayer`` as a V2 schema message, without blobs.

    Raises:
        FormatError: a parameter that Caffe's schema does not have.
    """
    place = f"layer {layer.name}"
    message = messages()["Layer"]()
    data: dict[str, Any] = {"name": layer.name, "type": layer.type, "bottom": layer.bottoms, "top": layer.tops}
    if layer.shared:
        data["param"] = [{"name": name} if name else {} for name in layer.shared]
    if layer.phase:
        data["include"] = [{"phase": layer.phase}]
    fill(message, {**data, **layer.params}, place)
    return message
