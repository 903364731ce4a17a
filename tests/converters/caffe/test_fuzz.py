"""Structure-aware fuzzing of both Caffe parsers: only SsdconvError may escape, and what is accepted is what protobuf reads.

Mutants are made on the tree of fields (so that most stay well formed and reach deep code) and on bytes and tokens. The seed
is fixed; a failing mutant's bytes are in the assertion.
"""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from ssdconv.converters.caffe.prototxt import parse_prototxt
from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.converters.caffe.schema import messages
from ssdconv.errors import SsdconvError

COUNTS = [pytest.param(1_000, 1), pytest.param(100_000, 2, marks=pytest.mark.slow)]
EXTREMES = [0, 1, 2, 3, 5, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
NUMBERS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15, 100, 101, 106, 143, 144, 149, 200, 203, 206, 1001, 2**29 - 1]

Node = list[Any]  # [number, wire, payload]: payload is an int, bytes, or a list of nodes


def parse(data: bytes) -> list[Node] | None:
    """Bytes as a tree of nodes, None where they are no message."""
    nodes: list[Node] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    try:
        while at < len(data):
            tag = varint()
            number, wire = tag >> 3, tag & 7
            if number == 0 or number > 300 or wire not in (0, 1, 2, 5):
                return None
            if wire == 0:
                nodes.append([number, wire, varint()])
                continue
            size = {1: 8, 5: 4}.get(wire) or varint()
            body = data[at : at + size]
            if len(body) != size:
                return None
            at += size
            inner = (
                parse(body) if (wire == 2 and number not in (1, 3, 4, 5, 6)) or (wire == 2 and number == 2) else None
            )
            nodes.append([number, wire, inner if inner else body])
    except IndexError:
        return None
    return nodes


def dump(emit: Any, nodes: list[Node]) -> bytes:
    out = b""
    for number, wire, payload in nodes:
        out += emit.tag(number, wire)
        body = dump(emit, payload) if isinstance(payload, list) else payload
        if isinstance(body, int):
            out += emit.varint(body)
        else:
            out += (emit.varint(len(body)) if wire == 2 else b"") + body
    return out


def every(nodes: list[Node]) -> list[tuple[list[Node], int]]:
    """All (parent, index) of a tree."""
    found = []
    for i, node in enumerate(nodes):
        found.append((nodes, i))
        if isinstance(node[2], list):
            found += every(node[2])
    return found


def copy(nodes: list[Node]) -> list[Node]:
    return [[n, w, copy(p) if isinstance(p, list) else p] for n, w, p in nodes]


def mutate_tree(rng: random.Random, nodes: list[Node], others: list[list[Node]]) -> None:
    places = every(nodes)
    if not places:
        return
    parent, i = rng.choice(places)
    node = parent[i]
    action = rng.randrange(9)
    if action == 0:
        del parent[i]
    elif action == 1:
        parent.insert(rng.randrange(len(parent) + 1), copy([node])[0])
    elif action == 2:
        node[0] = rng.choice(NUMBERS)
    elif action == 3:
        other, j = rng.choice(every(rng.choice(others)))
        parent.insert(i, copy([other[j]])[0])
    elif action == 4:
        node[1:] = [0, rng.choice(EXTREMES)]
    elif action == 5:
        node[1:] = [rng.choice([(1, 8), (5, 4), (2, 4), (2, 0), (2, 8)])[0], rng.randbytes(8)]
        node[2] = node[2][: {1: 8, 5: 4}.get(node[1], rng.randrange(9))]
    elif action == 6 and isinstance(node[2], bytes) and node[1] == 2:
        node[2] = rng.choice([node[2] * 2, node[2][:-1], node[2][:-4], node[2] + b"\0\0\x80\x3f", rng.randbytes(6)])
    elif action == 7:
        j = rng.randrange(len(parent))
        parent[i], parent[j] = parent[j], parent[i]
    else:
        parent[i : i + 1] = [copy([node])[0] for _ in range(rng.choice([2, 3, 70]))]


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(out) + 1)
        action = rng.randrange(6)
        if action == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif action == 1 and at < len(out):
            out[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif action == 2:
            del out[at : at + rng.choice([1, 1, 4, 20])]
        elif action == 3:
            out[at:at] = rng.randbytes(rng.choice([1, 2, 5]))
        elif action == 4:
            out[at:at] = out[max(0, at - 30) : at]
        else:
            del out[at:]
        if not out:
            break
    return bytes(out)


def v1_net(emit: Any) -> bytes:
    blob = emit.legacy(2, 1, 1, 2) + emit.floats(1, 2, 3, 4)
    layer = emit.v1_layer("c", 4, emit.sub(2, "data"), emit.sub(1001, "w"), emit.sub(10, emit.int(1, 2)), blobs=(blob,))
    return emit.sub(1, "v1") + emit.sub(3, "data") + b"".join(emit.int(4, d) for d in (1, 1, 2, 2)) + layer * 1


def protobuf_tensors(data: bytes) -> dict[str, bytes] | None:
    """What google.protobuf and Caffe's rule (double_data first) make of a file; None where protobuf refuses it."""
    net = messages()["Net"]()
    try:
        net.ParseFromString(data)
    except DecodeError:
        return None
    out = {}
    for layer in [*net.layer, *net.layers]:
        for i, blob in enumerate(layer.blobs):
            values = np.array(blob.double_data, "<f8") if blob.double_data else np.array(blob.data, "<f4")
            out[f"{layer.name.decode()}/{i}"] = plain_bytes(values)
    return out


def plain_bytes(values: np.ndarray[Any, Any]) -> bytes:
    """Bytes with one kind of NaN: older protobufs change the payload of NaNs on their way to Python."""
    return np.where(np.isnan(values), values.dtype.type(np.nan), values).tobytes()


@pytest.mark.parametrize(("count", "seed"), COUNTS)
def test_caffemodel_mutants(emit, tmp_path, count, seed):
    rng = random.Random(seed)
    bases = [emit.small(), v1_net(emit)]
    trees = [parse(data) for data in bases]
    assert all(tree and dump(emit, tree) == data for tree, data in zip(trees, bases, strict=True))
    path = Path(tmp_path / "m.caffemodel")
    handle = os.open(path, os.O_CREAT | os.O_RDWR)
    accepted = refused_by_protobuf = 0
    for _ in range(count):
        k = rng.randrange(len(bases))
        data = bases[k]
        if rng.random() < 0.7:
            tree = copy(trees[k])
            for _ in range(rng.choice([1, 1, 2, 4])):
                mutate_tree(rng, tree, trees)
            data = dump(emit, tree)
        if rng.random() < 0.4:
            data = mutate_bytes(rng, data)
        os.pwrite(handle, data, 0)  # not write_bytes: some file systems flush a file that is emptied and written again
        os.ftruncate(handle, len(data))
        start = time.process_time()
        try:
            with read_caffemodel(path) as table:
                got = {name: tensor.load() for name, tensor in table.items()}
                assert all(got[name].shape == tensor.shape for name, tensor in table.items()), data.hex()
        except SsdconvError as error:
            assert str(path) in str(error), data.hex()
            continue
        except Exception as error:  # noqa: BLE001
            pytest.fail(f"{type(error).__name__}: {error} escaped for {data.hex()}")
        finally:
            assert time.process_time() - start < 2, data.hex()
        accepted += 1
        expected = protobuf_tensors(data)
        refused_by_protobuf += expected is None
        if expected is not None:
            assert {name: plain_bytes(array) for name, array in got.items()} == expected, data.hex()
    assert count * 0.1 < accepted < count * 0.9, "the mutants no longer reach both outcomes"
    assert refused_by_protobuf <= accepted * 0.01
    os.close(handle)


SAMPLE = """name: "n" # comment
input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: 'c' type: "Convolution" bottom: "data" top: "c" param { name: "w" lr_mult: 1 }
  convolution_param { num_output: 4 kernel_size: [3, 1] pad: 1 weight_filler < type: "xavier" value: 1e-3 > }
  include { phase: TEST } }
layer { name: "p" type: "PriorBox" bottom: "c" bottom: "data" top: "p"
  prior_box_param { min_size: 30.0 variance: 0.1 flip: true } unknown_thing { a: 1; b { } } }
"""
V1_SAMPLE = """layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" param: "w" blobs_lr: 1
  convolution_param { num_output: 2 kernel_size: 3 } include: { phase: TRAIN } }
layers { name: "d" type: DATA data_param { source: "x" scale: 0.5 } }
"""
WORDS = [
    "{", "}", "<", ">", "[", "]", ":", ";", ",", "#", '"', "'", "\\", '"\\377"', '"\\', "-", "1e999", "-1", "0x", "nan",
    "4294967296", "18446744073709551616", "-9223372036854775809", "true", "layer", "layers", "layer {", "blobs", "blobs {",
    "name", "type", "param", "inf", "1.5.5", "CONVOLUTION", "\n", "\0", "\xff", "input", "input_dim", "phase", "[a.b]",
    "type_url", "é", '"\\u12"', '"\\x"', '"a" "b"', "99999999999999999999999999", "{" * 50, "0777", "08", "1f", "..",
]  # fmt: skip


@pytest.mark.parametrize(("count", "seed"), COUNTS)
def test_prototxt_mutants(count, seed):
    rng = random.Random(seed)
    bases = [re.findall(r'"[^"]*"|[\w.]+|[ \n]+|.', text) for text in (SAMPLE, V1_SAMPLE)]
    accepted = 0
    for _ in range(count):
        tokens = list(rng.choice(bases))
        for _ in range(rng.choice([1, 1, 2, 4])):
            at = rng.randrange(len(tokens))
            action = rng.randrange(6)
            if action == 0:
                del tokens[at : at + rng.choice([1, 1, 3, 30])]
            elif action == 1:
                tokens.insert(at, rng.choice(WORDS))
            elif action == 2:
                tokens[at] = rng.choice(WORDS)
            elif action == 3:
                tokens[at : at + 1] = [tokens[at]] * rng.choice([2, 3, 40])
            elif action == 4:
                other = rng.randrange(len(tokens))
                tokens[at], tokens[other] = tokens[other], tokens[at]
            else:
                tokens[at:at] = tokens[at : at + 12]
            if not tokens:
                break
        data = "".join(tokens).encode(rng.choice(["utf-8", "utf-8", "latin-1"]))
        start = time.process_time()
        try:
            net = parse_prototxt(data, "m.prototxt")
            assert net.layers, data.hex()
            accepted += 1
        except SsdconvError as error:
            assert "m.prototxt" in str(error), data.hex()
        except Exception as error:  # noqa: BLE001
            pytest.fail(f"{type(error).__name__}: {error} escaped for {data.hex()}")
        assert time.process_time() - start < 2, data.hex()
    assert count * 0.1 < accepted < count * 0.9, "the mutants no longer reach both outcomes"
