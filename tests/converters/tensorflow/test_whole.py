"""Detection graphs from their own nodes: what is none, damaged or hostile is refused, and fast. Real ones: ``parity/oracles``."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ssdconv.converters.protobuf_wire import LEN, Wire, encode_varint
from ssdconv.converters.tensorflow.evaluate import Evaluator, FrozenGraph
from ssdconv.converters.tensorflow.graphdef import graph_nodes
from ssdconv.converters.tensorflow.whole import network_of
from ssdconv.errors import FormatError, SsdconvError, UsageError


def field(number: int, body: bytes) -> bytes:
    return encode_varint(number << 3 | LEN) + encode_varint(len(body)) + body


def node(name: str, op: str, *inputs: str, **attributes: bytes) -> bytes:
    body = field(1, name.encode()) + field(2, op.encode()) + b"".join(field(3, i.encode()) for i in inputs)
    return field(1, body + b"".join(field(5, field(1, k.encode()) + field(2, v)) for k, v in attributes.items()))


def floats(*values: float) -> bytes:
    """AttrValue of a float32 vector."""
    shape = field(2, field(2, b"\x08" + encode_varint(len(values))))
    return field(8, b"\x08\x01" + shape + field(4, np.array(values, "<f4").tobytes()))


def whole(*nodes: bytes) -> None:
    data = b"".join(nodes)
    constants, found = graph_nodes(Wire(data, "x"), len(data))
    network_of(found, constants, {}, "x")


HEADS = (
    node("image", "Placeholder", shape=field(7, b"".join(field(2, b"\x08" + encode_varint(s)) for s in (1, 8, 8, 3)))),
    node("loc", "ConcatV2", "c", "c", "axis"),
    node("conf", "ConcatV2", "c", "c", "axis"),
    node("axis", "Const", value=floats(1.0)),
    node("w", "Const", value=floats(1.0)),
    node("nms", "NonMaxSuppressionV3", "loc", "conf", "w", "w", "w"),
)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ((node("a", "Identity", "b"), node("b", "Identity", "a")), "no NonMaxSuppression"),
        ((*HEADS[1:], node("c", "Conv2D", "c2", "w"), node("c2", "Relu", "c")), "where images come in"),
        ((*HEADS, node("c", "Conv2D", "s", "w"), node("s", "Add", "image", "r"), node("r", "Relu", "c")), "circle"),
        (
            (*HEADS, node("c", "Conv2D", "f", "w"), node("f", "FakeQuantWithMinMaxVars", "image")),
            "FakeQuantWithMinMaxVars",
        ),
        ((*HEADS, node("c", "Conv2D", "nobody", "w")), "no node makes"),
    ],
)
def test_graphs_that_are_none_are_refused(nodes: tuple[bytes, ...], said: str) -> None:
    with pytest.raises((FormatError, UsageError), match=said):
        whole(*nodes)


def test_a_million_nodes_are_refused_fast() -> None:
    data = node("n", "NoOp") * 1_000_000
    started = time.perf_counter()
    with pytest.raises(FormatError, match="too many nodes"):
        graph_nodes(Wire(data, "x"), len(data))
    assert time.perf_counter() - started < 20


def test_a_long_chain_needs_no_stack() -> None:
    chain = [node(f"n{k}", "Identity", f"n{k - 1}") for k in range(1, 20_000)]
    data = b"".join((node("n0", "Const", value=floats(3.0)), *chain))
    constants, found = graph_nodes(Wire(data, "x"), len(data))
    assert Evaluator(FrozenGraph(found, constants, "x")).value("n19999").tolist() == [3.0]


def test_a_value_larger_than_any_is_refused() -> None:
    data = b"".join((
        node("v", "Const", value=floats(1.0)),
        node("d", "Const", value=field(8, b"\x08\x03" + field(2, field(2, b"\x08\x02")) + field(4, np.array([1 << 20, 1 << 20], "<i4").tobytes()))),
        node("f", "Fill", "d", "v"),
    ))  # fmt: skip
    constants, found = graph_nodes(Wire(data, "x"), len(data))
    with pytest.raises(SsdconvError, match="larger than any"):
        Evaluator(FrozenGraph(found, constants, "x")).value("f")
