"""Read and write .prototxt files: a NetParameter in protobuf's text format."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from ssdconv.converters.caffe.net import CaffeLayer, CaffeNet
from ssdconv.converters.caffe.plain import Reader, fill
from ssdconv.converters.caffe.prune import Pruner
from ssdconv.converters.caffe.schema import messages
from ssdconv.converters.caffe.sniff import refuse_strangers
from ssdconv.converters.caffe.upgrade import MAX_LAYERS, inputs_of, layer_of, shown
from ssdconv.converters.opened import open_regular
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.files import atomic_path

MAX_BYTES = 4 << 20  # the largest known prototxts are below 1 MiB


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
    layers = tuple(layer_of(m, i, reader, v1=v1) for i, m in enumerate(net.layers if v1 else net.layer))
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
