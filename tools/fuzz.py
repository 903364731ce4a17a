"""Fuzz every reader of input files: ``make fuzz``, or ``python tools/fuzz.py [--mutants N] [--seconds S] [READER …]``.

atheris (libFuzzer) guides the first of the mutants by what code of ours they reach, and keeps those that reached more; the others
are made from these without measuring, which is several times faster. Most are made by mutators that know the format and mend its
checksums and lengths, so that they get past them. A mutant fails that lets anything but an ordinary error of ours through (an
``UnreadableError`` is one that nobody foresaw), whose error does not name the file, that takes more than 10 CPU seconds or more than
2 GB, or that kills the process. Each kind of failure is kept once, as the file and what it did, in ``.cache/fuzz/found``.

Every reader runs in a process of its own. What was done is kept: the next run goes on where the last one stopped, until ``--mutants``
are done for each reader. Exit code 1 where something was found.
"""

from __future__ import annotations

import argparse
import atexit
import importlib.util
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CPU_SECONDS, MEMORY = 10.0, 2 << 30
MAX_LENGTH = 1 << 16
EVERY = 200
"""Mutants between two notes of what was done."""
EDGES = (
    0,
    1,
    2,
    7,
    31,
    127,
    128,
    255,
    256,
    0x7FFF,
    0xFFFF,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    1 << 62,
    (1 << 64) - 1,
)
Mutator = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        file: what the mutant is called.
        seeds: whole good files.
        read: takes a path to one; raises what the reader raises.
        mutate: knows the format; None: libFuzzer's own mutations only.
        more: files beside it.
        own: the format is parsed by code of this project, not by a library.
    """

    file: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], Any]
    mutate: Mutator | None = None
    own: bool = True
    more: Callable[[], dict[str, bytes]] = dict


# ---------------------------------------------------------------------------------------------------------------- mutators


def edit(data: bytes, rng: random.Random) -> bytes:
    """One to three edits: flipped bits, edge values, cuts, insertions, repeated blocks."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, kind = rng.randrange(len(out) + 1), rng.randrange(7)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            size = rng.choice((2, 4, 8))
            out[at : at + size] = (rng.choice(EDGES) & ((1 << 8 * size) - 1)).to_bytes(
                size, rng.choice(("little", "big"))
            )
        elif kind == 3:
            del out[at : at + rng.choice((1, 1, 4, 16))]
        elif kind == 4:
            out[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
        elif kind == 5:
            out[at:at] = out[max(0, at - rng.randint(1, 40)) : at] * rng.choice((1, 1, 30))
        else:
            start = rng.randrange(len(out) + 1)
            out[at : at + 16] = out[start : start + 16]
    return bytes(out[:MAX_LENGTH])


def words(pattern: str, fresh: tuple[str, ...]) -> Mutator:
    """Mutates a text by its tokens."""
    split = re.compile(pattern, re.DOTALL)

    def mutate(data: bytes, rng: random.Random) -> bytes:
        tokens = split.findall(data.decode("utf-8", "surrogateescape")) or [""]
        for _ in range(rng.choice((1, 1, 2, 4))):
            at, kind = rng.randrange(len(tokens)), rng.randrange(6)
            if kind == 0:
                del tokens[at : at + rng.choice((1, 1, 3, 20))]
            elif kind == 1:
                tokens.insert(at, rng.choice(fresh))
            elif kind == 2:
                tokens[at] = rng.choice(fresh)
            elif kind == 3:
                tokens[at:at] = tokens[at : at + rng.randint(1, 12)] * rng.choice((1, 2, 50))
            elif kind == 4:
                other = rng.randrange(len(tokens))
                tokens[at], tokens[other] = tokens[other], tokens[at]
            else:
                tokens[at] = edit(tokens[at].encode("utf-8", "surrogateescape"), rng).decode("utf-8", "surrogateescape")
            if not tokens:
                return b""
        return "".join(tokens).encode("utf-8", "surrogateescape")[:MAX_LENGTH]

    return mutate


NUMBERS = ("0", "-1", "1e999", "-0.0", "NaN", "4294967296", "1e-320", "9223372036854775808", "1" * 400, "0.5")
TEXTS = ('""', '"\\ud800"', '"\\u0000"', '"a\\u001b[2J"', '"' + "x" * 300 + '"', '"../../x"', '"/dev/zero"')
JSON_WORDS = (
    *NUMBERS,
    *TEXTS,
    "null",
    "true",
    "false",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "{}",
    "[]",
    "[" * 2000,
    '{"a":' * 2000,
)
json_words = words(r'"(?:[^"\\]|\\.)*"|[\w.+-]+|\s+|.', JSON_WORDS)
yaml_words = words(
    r"[\w.]+|[ \n]+|.",
    (*NUMBERS, "&a ", "*a", "<<: *a", "- ", ": ", "\n", "? ", "!!python/object:os.system ", "|", "'", "[" * 500),
)
xml_words = words(
    r"<[^>]*>|[^<]+", (*NUMBERS, "<object>", "</object>", "<bndbox>", "<!DOCTYPE a [<!ENTITY b 'c'>]>", "&b;", "&amp;", "<a>" * 3000, "<?x?>")
)  # fmt: skip
PROTO_WORDS = (
    *NUMBERS, "{", "}", "<", ">", "[", "]", ":", ";", "#", '"', "'", "layer {", "layers {", "param", "name", "type", "inf", '"\\377"', "blobs {",
    "top:", "bottom:", "dim: 0 ", "include { phase: TEST }", "{" * 300, "0x1F", "1.5.5",
)  # fmt: skip
prototxt_words = words(r'"[^"]*"|[\w.]+|[ \n]+|.', PROTO_WORDS)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def fields_of(data: bytes) -> list[list[Any]] | None:
    """[number, wire type, value] of a protobuf message; None where the bytes are none."""
    found: list[list[Any]] = []
    at = 0
    try:
        while at < len(data):
            tag, at = read_varint(data, at)
            wire = tag & 7
            if not 0 < tag >> 3 < 1 << 12 or wire not in (0, 1, 2, 5):
                return None
            if wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                size, at = read_varint(data, at)
            if wire == 0:
                found.append([tag >> 3, 0, size])
                continue
            if at + size > len(data):
                return None
            found.append([tag >> 3, wire, data[at : at + size]])
            at += size
    except IndexError:
        return None
    return found


def protobuf(data: bytes, rng: random.Random, depth: int = 0) -> bytes:
    """Mutates one field somewhere in the tree; the lengths around it are mended."""
    fields = fields_of(data)
    if not fields or depth > 12:
        return edit(data, rng)
    at, kind = rng.randrange(len(fields)), rng.randrange(14)
    one = fields[at]
    if kind == 0:
        del fields[at]
    elif kind == 1:
        fields.insert(at, list(one))
    elif kind == 2:
        one[0] = rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 100, 101, 106, 143, rng.randrange(1, 300)))
    elif kind == 3:
        one[1:] = [0, rng.choice(EDGES)]
    elif kind == 4:
        fields[at : at + 1] = [list(one)] * rng.choice((2, 3, 60))
    elif kind == 5:
        other = rng.randrange(len(fields))
        fields[at], fields[other] = fields[other], fields[at]
    elif one[1] == 0:
        one[2] = rng.choice((*EDGES, one[2] + 1, one[2] - 1 if one[2] else 0))
    else:
        one[2] = (
            protobuf(one[2], rng, depth + 1)
            if one[1] == 2 and kind < 13
            else edit(one[2], rng)[: {1: 8, 5: 4}.get(one[1], 1 << 16)]
        )
        one[2] = one[2].ljust({1: 8, 5: 4}.get(one[1], 0), b"\0")
    out = b""
    for number, wire, value in fields:
        out += varint(number << 3 | wire) + (
            varint(value) if wire == 0 else (varint(len(value)) if wire == 2 else b"") + value
        )
    return out[:MAX_LENGTH]


def zipped(inside: Mutator) -> Mutator:
    """Mutates one member of a zip file (or the directory); checksums, sizes and offsets are right again."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.2:
            return edit(data, rng)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as held:
                members = [(info.filename, held.read(info), info.compress_type) for info in held.infolist()]
        except Exception:  # noqa: BLE001 - a mutant that is no zip file any more
            return edit(data, rng)
        if not members:
            return edit(data, rng)
        at, kind = rng.randrange(len(members)), rng.randrange(10)
        name, content, packing = members[at]
        if kind == 0:
            del members[at]
        elif kind == 1:
            members.append((name, content, packing))
        elif kind == 2:
            members[at] = (edit(name.encode(), rng).decode("latin-1").replace("\0", "_")[:200] or "x", content, packing)
        elif kind == 3:
            members[at] = (name, content, 8 - packing if packing in (0, 8) else 0)
        else:
            members[at] = (name, inside(content, rng), packing)
        out = io.BytesIO()
        import warnings

        with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as made:
            warnings.simplefilter("ignore")
            for name, content, packing in members:
                made.writestr(zipfile.ZipInfo(name), content, packing if packing in (0, 8) else 0)
        return out.getvalue()[:MAX_LENGTH]

    return mutate


def npy(data: bytes, rng: random.Random) -> bytes:
    """Mutates the header of a .npy file, whose length is mended, or its bytes."""
    if data[:6] != b"\x93NUMPY" or rng.random() < 0.3:
        return edit(data, rng)
    wide = 4 if data[6:7] != b"\x01" else 2
    size = int.from_bytes(data[8 : 8 + wide], "little")
    head, body = data[8 + wide : 8 + wide + size], data[8 + wide + size :]
    head = npy_words(head, rng)
    return data[:8] + (len(head) & ((1 << 8 * wide) - 1)).to_bytes(wide, "little") + head + body


npy_words = words(
    r"'[^']*'|\w+|.",
    (*NUMBERS, "'|O'", "'<f2'", "'>f8'", "True", "(", ")", ",", "'<U9'", "[('a', '<f4')]", "shape", "1" * 5000),
)


def with_length(inside: Mutator, size: int) -> Mutator:
    """A length of ``size`` bytes, that many bytes of header, a body: safetensors."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        length = int.from_bytes(data[:size], "little")
        if rng.random() < 0.2 or length > len(data):
            return edit(data, rng)
        head = inside(data[size : size + length], rng)
        return (len(head).to_bytes(size, "little") + head + data[size + length :])[:MAX_LENGTH]

    return mutate


def nested_json(data: bytes, rng: random.Random) -> bytes:
    """JSON some of whose strings hold JSON, as the metadata of our checkpoints do."""
    try:
        held = json.loads(data)
        meta = held["__metadata__"]
        key = rng.choice(list(meta))
        if rng.random() < 0.7:
            meta[key] = json_words(meta[key].encode(), rng).decode("utf-8", "replace")
            return json.dumps(held).encode()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        pass
    return json_words(data, rng)


def masked_crc(data: bytes) -> bytes:
    from ssdconv.converters.tensorflow.table import crc32c, masked

    return struct.pack("<I", masked(crc32c(data)))


def read_varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def block_of(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A block of a TensorFlow table, its checksum included; no key shares its beginning with the one before."""
    body = b"".join(varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in entries)
    stored = body + struct.pack("<IIB", 0, 1, 0)
    return stored + masked_crc(stored)


def entries_of(data: bytes, start: int, size: int) -> list[tuple[bytes, bytes]]:
    """The entries of an uncompressed block."""
    restarts = struct.unpack_from("<I", data, start + size - 4)[0]
    found: list[tuple[bytes, bytes]] = []
    at, end, key = start, start + size - 4 * restarts - 4, b""
    while at < end and len(found) < 200:
        shared, at = read_varint(data, at)
        fresh, at = read_varint(data, at)
        length, at = read_varint(data, at)
        key = key[:shared] + data[at : at + fresh]
        found.append((key, data[at + fresh : at + fresh + length]))
        at += fresh + length
    return found


def table(data: bytes, rng: random.Random) -> bytes:
    """Mutates an entry of a TensorFlow table, mostly as the protobuf message that it is; handles and checksums are mended."""
    try:
        at, places = len(data) - 48, []
        for _ in range(2):
            start, at = read_varint(data, at)
            size, at = read_varint(data, at)
            places.append((start, size))
        entries = []
        for _, handle in entries_of(data, *places[1]):
            start, at = read_varint(handle, 0)
            entries += entries_of(data, start, read_varint(handle, at)[0])
        at, kind = rng.randrange(len(entries)), rng.randrange(12)
        key, value = entries[at]
    except (IndexError, ValueError, struct.error):
        return edit(data, rng)
    if kind == 0:
        return edit(data, rng)
    if kind == 1:
        del entries[at]
    elif kind == 2:
        entries.insert(at, (key + bytes([rng.randrange(256)]), value))
    elif kind == 3:
        entries[at] = edit(key, rng), value
    else:
        entries[at] = key, protobuf(value, rng)
    if kind != 4:
        entries.sort()
    cut = rng.randrange(len(entries) + 1)
    out, index = b"", []
    for part in (entries[:cut], entries[cut:]):
        if part:
            index.append((part[-1][0], varint(len(out)) + varint(len(block_of(part)) - 5)))
            out += block_of(part)
    last = block_of(index)
    handles = varint(0) + varint(0) + varint(len(out)) + varint(len(last) - 5)
    return (out + last + handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))[:MAX_LENGTH]


def chunks(data: bytes, rng: random.Random) -> bytes:
    """Mutates a chunk of a PNG, whose length and checksum are mended; anything else as bytes."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or rng.random() < 0.2:
        return edit(data, rng)
    found: list[list[bytes]] = []
    at = 8
    while at + 12 <= len(data) and len(found) < 100:
        size = int.from_bytes(data[at : at + 4], "big")
        found.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + size]])
        at += 12 + size
    if not found:
        return edit(data, rng)
    one, kind = rng.choice(found), rng.randrange(6)
    if kind == 0:
        found.remove(one)
    elif kind == 1:
        found.insert(rng.randrange(len(found)), list(one))
    elif kind == 2:
        one[0] = rng.choice(
            (
                b"IHDR",
                b"IDAT",
                b"IEND",
                b"eXIf",
                b"tRNS",
                b"PLTE",
                b"acTL",
                b"zTXt",
                edit(one[0], rng)[:4].ljust(4, b"x"),
            )
        )
    elif kind == 3 and one[0] == b"IDAT":
        try:
            one[1] = zlib.compress(edit(zlib.decompress(one[1]), rng))
        except zlib.error:
            one[1] = edit(one[1], rng)
    else:
        one[1] = edit(one[1], rng)
    return (
        data[:8] + b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in found)
    )[:MAX_LENGTH]


def state(data: bytes, rng: random.Random) -> bytes:
    """A state of a training run, whose checksum is mended."""
    line, _, body = data.partition(b"\n")
    body = zipped(edit)(body, rng)
    return line[:-64] + sha256(body).hexdigest().encode() + b"\n" + body


def tarred(data: bytes, rng: random.Random) -> bytes:
    """Bytes of a tar file; the checksums of its headers are mended."""
    out = bytearray(edit(data, rng))
    for at in range(0, len(out) - 511, 512):
        if out[at + 257 : at + 262] == b"ustar":
            out[at + 148 : at + 156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
    return bytes(out)


def any_torch(data: bytes, rng: random.Random) -> bytes:
    if data[:2] == b"PK":
        return zipped(edit)(data, rng)
    return tarred(data, rng) if data[257:262] == b"ustar" else edit(data, rng)


# ---------------------------------------------------------------------------------------------------------------- readers


def beside(path: str) -> ModuleType:
    """A module of the tests, for the small files that it makes without the code under test."""
    name = "fuzz_" + re.sub(r"\W", "_", path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights(source: str) -> Callable[[Path], None]:
    """Reads every tensor, then (of every eighth file) plans the conversion."""

    def read(path: Path) -> None:
        from ssdconv.converters import registry
        from ssdconv.converters.plan import Request
        from ssdconv.errors import SsdconvError
        from ssdconv.ssd_ref.gate import UnreadableError

        module = registry.source(source).module
        with module.read(path) as held:
            for tensor in held.values():
                if tensor.nbytes <= 1 << 26:
                    tensor.load()
            if path.stat().st_size % 8 == 0:  # it takes much longer than reading
                try:
                    module.plan(held, Request())
                except UnreadableError:
                    raise
                except SsdconvError:
                    pass  # about a layer: whoever called adds the file

    return read


def caffemodels() -> list[bytes]:
    emit = beside("tests/converters/caffe/conftest.py").Emit
    return [emit.small(), beside("tests/converters/caffe/test_fuzz.py").v1_net(emit)]


def prototxts() -> list[bytes]:
    fuzz = beside("tests/converters/caffe/test_fuzz.py")
    deploy = """name: "d" input: "data" input_shape { dim: 1 dim: 3 dim: 20 dim: 20 }
layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 4 kernel_size: 3 pad: 1 stride: 2 } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "l" type: "Convolution" bottom: "c" top: "l" convolution_param { num_output: 16 kernel_size: 3 pad: 1 } }
layer { name: "lp" type: "Permute" bottom: "l" top: "lp" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "lf" type: "Flatten" bottom: "lp" top: "lf" flatten_param { axis: 1 } }
layer { name: "k" type: "Convolution" bottom: "c" top: "k" convolution_param { num_output: 8 kernel_size: 3 pad: 1 } }
layer { name: "kp" type: "Permute" bottom: "k" top: "kp" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "kf" type: "Flatten" bottom: "kp" top: "kf" flatten_param { axis: 1 } }
layer { name: "p" type: "PriorBox" bottom: "c" bottom: "data" top: "p" prior_box_param { min_size: 5 max_size: 9 aspect_ratio: 2 flip: true
  clip: false variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 } }
layer { name: "ml" type: "Concat" bottom: "lf" top: "ml" concat_param { axis: 1 } }
layer { name: "mk" type: "Concat" bottom: "kf" top: "mk" concat_param { axis: 1 } }
layer { name: "mp" type: "Concat" bottom: "p" top: "mp" concat_param { axis: 2 } }
layer { name: "rs" type: "Reshape" bottom: "mk" top: "rs" reshape_param { shape { dim: 0 dim: -1 dim: 2 } } }
layer { name: "s" type: "Softmax" bottom: "rs" top: "s" softmax_param { axis: 2 } }
layer { name: "sf" type: "Flatten" bottom: "s" top: "sf" flatten_param { axis: 1 } }
layer { name: "o" type: "DetectionOutput" bottom: "ml" bottom: "sf" bottom: "mp" top: "o" detection_output_param { num_classes: 2
  share_location: true background_label_id: 0 nms_param { nms_threshold: 0.45 top_k: 400 } code_type: CENTER_SIZE keep_top_k: 200
  confidence_threshold: 0.01 } }
"""
    return [fuzz.SAMPLE.encode(), fuzz.V1_SAMPLE.encode(), deploy.encode()]


def read_prototxt(path: Path) -> None:
    from ssdconv.converters.caffe.graph import graph_config
    from ssdconv.converters.caffe.prototxt import read_prototxt
    from ssdconv.errors import SsdconvError
    from ssdconv.ssd_ref.gate import UnreadableError

    net = read_prototxt(path)
    try:
        graph_config(net, name=net.name or path.stem)
    except UnreadableError:
        raise
    except SsdconvError:
        pass  # about a layer: whoever called adds the file


def npzs() -> list[bytes]:
    import numpy as np

    found = []
    arrays: dict[str, Any] = {
        "extractor/conv1_1/W": np.ones((2, 3, 1, 1), "f4"),
        "b": np.zeros(3, ">f8"),
        "s": np.int64(7),
    }
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, **arrays)
        found.append(stream.getvalue())
    return found


def pths() -> list[bytes]:
    from collections import OrderedDict

    import torch

    kept, found = OrderedDict(a=torch.ones(2, 3).t(), b=torch.zeros(3).half()), []
    for new in (True, False):
        stream = io.BytesIO()
        torch.save({"state_dict": kept, "epoch": 3}, stream, _use_new_zipfile_serialization=new)
        found.append(stream.getvalue())
    return [*found, beside("tests/converters/pytorch/conftest.py").tar_bytes(OrderedDict(a=torch.ones(2, 3)))]


def tables() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return [beside("tests/converters/tensorflow/conftest.py").small(Path(folder))[0].read_bytes()]


def old_tables() -> list[bytes]:
    packing = beside("tests/converters/tensorflow/conftest.py")
    held = type("Packing", (), {"table": staticmethod(packing.table), "block": staticmethod(packing.block)})
    return [beside("tests/converters/tensorflow/test_fuzz.py").v1_table(held)]


def table_data() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        index, _ = beside("tests/converters/tensorflow/conftest.py").small(Path(folder))
        return {"m.ckpt.data-00000-of-00001": index.with_name("small.ckpt.data-00000-of-00001").read_bytes()}


def h5s() -> list[bytes]:
    packing = beside("tests/converters/keras/conftest.py")
    held = type(
        "Packing", (), {"save_weights": staticmethod(packing.save_weights), "save_v3": staticmethod(packing.save_v3)}
    )
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.h5"
        beside("tests/converters/keras/test_fuzz.py").small(path, held)
        found.append(path.read_bytes())
    return found


def keras_models() -> list[bytes]:
    def layer(kind: str, name: str, inputs: list[str], **config: Any) -> dict[str, Any]:
        bound = [[[source, 0, 0, {}] for source in inputs]] if inputs else []
        return {"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": bound}

    layers = [
        layer("InputLayer", "in", [], batch_input_shape=[None, 20, 20, 3]),
        layer(
            "Conv2D",
            "c",
            ["in"],
            filters=4,
            kernel_size=[3, 3],
            strides=[1, 1],
            padding="same",
            activation="relu",
            use_bias=True,
        ),
        layer("MaxPooling2D", "p", ["c"], pool_size=[2, 2], strides=[2, 2], padding="valid"),
        layer("Conv2D", "d", ["p"], filters=8, kernel_size=[3, 3], strides=[1, 1], padding="same", activation="linear"),
        layer("Reshape", "r", ["d"], target_shape=[-1, 4]),
        layer("Concatenate", "k", ["r", "r"], axis=1),
    ]
    config = {"name": "m", "layers": layers, "input_layers": [["in", 0, 0]], "output_layers": [["k", 0, 0]]}
    return [json.dumps({"class_name": "Functional", "config": config, "keras_version": "2.2.4"}).encode()]


def read_keras_model(path: Path) -> None:
    from ssdconv.converters.keras.model_config import parse

    parse(path.read_bytes(), str(path))


def safetensors() -> list[bytes]:
    from ssdconv.ssd_ref.networks.registry import network

    told = {
        "version": 1,
        "config": json.loads(network("ssd7", "keras").to_json()),
        "provenance": {"file": "x", "evidence": []},
    }
    head = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"ssdconv": json.dumps(told)}}
    body = json.dumps(head).encode()
    return [struct.pack("<Q", len(body)) + body + bytes(4)]


def read_inspect(path: Path) -> None:
    from ssdconv.converters.inspect import inspect

    inspect(path).text()


def configs() -> list[bytes]:
    from ssdconv.ssd_ref.networks.registry import network

    return [network("ssd7", "keras").to_json().encode(), network("ssd300_voc", "caffe").to_json().encode()]


def read_config(path: Path) -> None:
    from ssdconv.commands.train_setup import read_config

    read_config(path)


def specs() -> list[bytes]:
    text = """input: {height: 300, width: 300}
pixels: {order: BGR, mean: [104, 117, 123]}
priors: {variances: [0.1, 0.1, 0.2, 0.2]}
classes: [a, b]
"""
    return [text.encode()]


def read_spec(path: Path) -> None:
    from ssdconv.converters.spec import read_spec

    read_spec(path)


def descriptions() -> list[bytes]:
    return [
        b"format: voc\nclasses: [dog, cat]\ntrain: {images: a, annotations: b}\nval: val.txt\n",
        b'train: "a.json"\nval: b.json\n',
    ]


def read_description(path: Path) -> None:
    from ssdconv.data.custom import read_description

    read_description(path)


def cocos() -> list[bytes]:
    one = {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 20, "height": 10},
            {"id": 2, "file_name": "b.jpg", "width": 9, "height": 9},
        ],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}],
        "categories": [{"id": 3, "name": "dog"}, {"id": 5, "name": "cat"}],
    }
    return [json.dumps(one).encode()]


def read_coco(path: Path) -> None:
    from ssdconv.data.coco import open_coco

    held = open_coco(annotations=path)
    for index in range(min(len(held), 20)):
        held[index]


def results() -> list[bytes]:
    return [json.dumps([{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}] * 2).encode()]


def read_results(path: Path) -> None:
    from ssdconv.parity.accuracy.files import read_coco_results

    read_coco_results(path, ("dog", "cat"), (3, 5))


def streams() -> list[bytes]:
    head = {"format": "ssdconv-detections", "version": 1, "dataset": "d", "network": "n", "classes": ["a", "b"]}
    lines = [head, {"image_id": "1", "detections": [[0, 0.5, 1, 2, 3, 4]]}, {"image_id": "2", "detections": []}]
    return ["".join(json.dumps(line) + "\n" for line in lines).encode()]


def read_stream(path: Path) -> None:
    from ssdconv.parity.accuracy.files import read_stream

    read_stream([path])


def comp4s() -> list[bytes]:
    return [b"000001 0.5 1 2 3 4\n000002 0.25 1.5 2 3e1 4\n"]


def read_comp4(path: Path) -> None:
    from ssdconv.parity.accuracy.files import read_voc_detections

    read_voc_detections(path.parent, ["dog"])


def voc_xmls() -> list[bytes]:
    text = """<annotation><filename>a.jpg</filename><size><width>20</width><height>10</height><depth>3</depth></size><object>
<name>dog</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object></annotation>
"""
    return [text.encode()]


def read_annotation(path: Path) -> None:
    from ssdconv.data.voc import object_names, read_annotation

    object_names(path)
    read_annotation(path, "a", None, {"dog": 0}, None)


def images() -> list[bytes]:
    import cv2
    import numpy as np

    picture = np.arange(16 * 12 * 3, dtype=np.uint8).reshape(16, 12, 3)
    found = [cv2.imencode(kind, picture)[1].tobytes() for kind in (".png", ".jpg", ".bmp", ".webp", ".tiff")]
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    jpeg = found[1]
    return [*found, jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]]


def read_image(path: Path) -> None:
    from ssdconv.ssd_ref.image_file import image_head, read_image

    image_head(path)
    read_image(path)


def states() -> list[bytes]:
    import torch

    from ssdconv.train.run_folder import HEAD

    stream = io.BytesIO()
    torch.save(
        {
            "model": {"a": torch.ones(2)},
            "optimizer": {"state": {}},
            "progress": {"step": 1},
            "random": torch.zeros(4, dtype=torch.uint8),
        },
        stream,
    )
    body = stream.getvalue()
    return [HEAD + sha256(body).hexdigest().encode() + b"\n" + body]


def read_state(path: Path) -> None:
    from ssdconv.train.run_folder import read_state

    read_state(path)


def zoos() -> list[bytes]:
    held = json.loads((ROOT / "zoo.json").read_text())
    return [json.dumps({"version": 1, "records": held["records"][:2]}).encode()]


def read_zoo(path: Path) -> None:
    from ssdconv.fetch.record import read

    read(path)


def symbols() -> list[bytes]:
    nodes: list[dict[str, Any]] = [
        {"op": "null", "name": "data", "inputs": []},
        {"op": "null", "name": "conv0_weight", "inputs": []},
    ]
    nodes.append(
        {"op": "Convolution", "name": "conv0", "attrs": {"kernel": "(1, 1)"}, "inputs": [[0, 0, 0], [1, 0, 0]]}
    )
    return [json.dumps({"nodes": nodes, "arg_nodes": [0, 1], "heads": [[2, 0, 0]]}).encode()]


def read_symbol(path: Path) -> None:
    from ssdconv.converters.gluon.symbol import read_symbol

    read_symbol(path)


def archives() -> list[bytes]:
    import tarfile

    found = []
    for kind in ("w", "w:gz"):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=kind) as held:
            info = tarfile.TarInfo("a/w.bin")
            info.size = 100
            held.addfile(info, io.BytesIO(bytes(100)))
        found.append(stream.getvalue())
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a/w.bin", bytes(100))
    return [*found, stream.getvalue()]


def mutate_archive(data: bytes, rng: random.Random) -> bytes:
    return zipped(edit)(data, rng) if data[:2] == b"PK" else tarred(data, rng)


def read_archive(path: Path) -> None:
    from ssdconv.fetch.archive import extract
    from ssdconv.fetch.digest import Expected

    extract(path, "a/w.bin", path.with_name("out"), Expected(), limit=1 << 20)


def reports() -> list[bytes]:
    words = ("network", "source", "weights", "weights_sha256", "source_file", "source_sha256", "oracle")
    from ssdconv.ssd_ref.evidence import BASES

    link = {"link": "tensors", "basis": next(iter(BASES)), "text": "t"}
    return [
        json.dumps(
            {**dict.fromkeys(words, "x"), "inputs": [], "versions": {"a": "1"}, "links": [link], "seconds": 1.5}
        ).encode()
    ]


def read_report(path: Path) -> None:
    from ssdconv.parity.report.layers import load

    load(path)


TARGETS: dict[str, Target] = {
    "caffemodel": Target("m.caffemodel", caffemodels, weights("caffe"), protobuf),
    "prototxt": Target("m.prototxt", prototxts, read_prototxt, prototxt_words),
    "params": Target(
        "m.params", lambda: [beside("tests/converters/gluon/conftest.py").small()], weights("gluon"), edit
    ),
    "npz": Target("m.npz", npzs, weights("chainer"), zipped(npy)),
    "pth": Target("m.pth", pths, weights("pytorch"), any_torch),
    "tf-table": Target("m.ckpt.index", tables, weights("tensorflow"), table, more=table_data),
    "tf-table-v1": Target("m.ckpt", old_tables, weights("tensorflow"), table),
    "frozen-graph": Target(
        "m.pb", lambda: [beside("tests/converters/tensorflow/test_fuzz.py").graph()], weights("tensorflow"), protobuf
    ),
    "hdf5": Target("m.h5", h5s, weights("keras"), edit, own=False),
    "keras-model": Target("m.json", keras_models, read_keras_model, json_words),
    "safetensors": Target("m.safetensors", safetensors, read_inspect, with_length(nested_json, 8), own=False),
    "config": Target("config.json", configs, read_config, json_words),
    "symbol": Target("m-symbol.json", symbols, read_symbol, json_words),
    "spec": Target("m.yaml", specs, read_spec, yaml_words),
    "data-set": Target("m.yaml", descriptions, read_description, yaml_words),
    "coco": Target("m.json", cocos, read_coco, json_words),
    "coco-results": Target("m.json", results, read_results, json_words),
    "stream": Target("m.jsonl", streams, read_stream, json_words),
    "comp4": Target(
        "comp4_det_test_dog.txt", comp4s, read_comp4, words(r"\S+|\s", (*NUMBERS, " ", "\n", "nan", "inf"))
    ),
    "voc-xml": Target("m.xml", voc_xmls, read_annotation, xml_words),
    "image": Target("m.png", images, read_image, chunks, own=False),
    "state": Target("step-000000001.state", states, read_state, state, own=False),
    "zoo-record": Target("zoo.json", zoos, read_zoo, json_words),
    "archive": Target("m.tar", archives, read_archive, mutate_archive, own=False),
    "report": Target("report.json", reports, read_report, json_words),
}


# ---------------------------------------------------------------------------------------------------------------- the child


def signature(error: BaseException) -> str:
    """The kind of an error and where in our code it came from."""
    while type(error).__name__ == "UnreadableError" and error.__cause__ is not None:
        error = error.__cause__
    ours = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if str(ROOT) in f.filename and not f.filename.endswith(("fuzz.py", "gate.py"))
    ]
    return (
        f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else type(error).__name__
    )


def scratch(name: str) -> Path:
    """Where a reader's mutant lies; in memory where that is possible."""
    base = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
    return base / f"ssdconv-fuzz-{os.getuid()}-{name}"


def memory_now(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s*(\d+)", text)[1]) * 1024  # type: ignore[index]


def child(
    name: str, notes: Path, found: Path, corpus: Path, runs: int, seconds: int, seed: int, *, guided: bool
) -> None:
    """Run one reader, guided by libFuzzer or over what that found; notes say how far it came."""
    import atheris

    with atheris.instrument_imports(include=["ssdconv"]) if guided else nullcontext():
        import ssdconv.cli  # noqa: F401
        from ssdconv.errors import FormatError, SsdconvError
        from ssdconv.ssd_ref.gate import UnreadableError
    target = TARGETS[name]
    folder = scratch(name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / target.file
    for file, data in target.more().items():
        (folder / file).write_bytes(data)
    with atheris.instrument_imports(include=["ssdconv"]) if guided else nullcontext():
        for number, data in enumerate(target.seeds()):
            (corpus / f"seed-{number}").write_bytes(data)
            path.write_bytes(data)
            with suppress(SsdconvError):
                target.read(path)
    resource.setrlimit(resource.RLIMIT_AS, (memory_now("VmSize") + MEMORY,) * 2)
    base, told = memory_now("VmRSS"), json.loads(notes.read_text())
    told["base"] = base
    known = {one["what"] for one in told["found"]}
    start = time.monotonic()

    def note() -> None:
        nonlocal start
        told["peak"] = max(told["peak"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - base)
        told["seconds"] += time.monotonic() - start
        start = time.monotonic()
        temporary = notes.with_suffix(".tmp")
        temporary.write_text(json.dumps(told, indent=1))
        temporary.replace(notes)

    def keep(what: str, data: bytes, text: str) -> None:
        if what in known:
            return
        known.add(what)
        place = found / f"{name}-{sha256(data).hexdigest()[:12]}{path.suffix}"
        place.write_bytes(data)
        told["found"].append({"what": what, "file": place.name, "mutant": told["mutants"], "seed": seed})
        place.with_name(place.name + ".txt").write_text(
            f"{what}\nreader {name}, seed {seed}, mutant {told['mutants']}\n\n{text}"
        )
        note()

    handle = os.open(path, os.O_CREAT | os.O_RDWR)

    def one(data: bytes) -> None:
        os.pwrite(handle, data, 0)  # not written anew: some file systems flush a file that is emptied and written again
        os.ftruncate(handle, len(data))
        told["mutants"] += 1
        before = time.process_time()
        try:
            target.read(path)
            told["accepted"] += 1
        except UnreadableError as error:
            keep(signature(error), data, "".join(traceback.format_exception(error)))
        except SsdconvError as error:
            if isinstance(error, FormatError) and path.name not in str(error) and name != "archive":
                keep(f"names no file: {signature(error)}", data, str(error))
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            keep(signature(error), data, "".join(traceback.format_exception(error)))
        took = time.process_time() - before
        if took > told["worst"]:
            told["worst"] = took
            if took > CPU_SECONDS:
                keep("more CPU seconds than allowed", data, f"{took:.1f} s")
        if told["mutants"] % EVERY == 0:
            note()

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if target.mutate is None or rng.random() < 0.4:
            return bytes(atheris.Mutate(data, size))
        made = target.mutate(bytes(data), rng)
        return made[:size]

    if not guided:
        pool = [file.read_bytes() for file in sorted(corpus.iterdir())]
        rng, end = random.Random(seed), time.monotonic() + seconds
        while runs > 0 and time.monotonic() < end:
            runs -= 1
            data = rng.choice(pool)
            # The process is killed, and with it what never ends, after this much more CPU time.
            signal.setitimer(signal.ITIMER_PROF, 3 * CPU_SECONDS)
            one(target.mutate(data, rng) if target.mutate is not None and rng.random() < 0.75 else edit(data, rng))
        note()
        shutil.rmtree(folder, ignore_errors=True)
        return
    options = [
        f"-runs={runs}",
        f"-seed={seed}",
        "-timeout=120",
        f"-rss_limit_mb={(base + MEMORY) >> 20}",
        f"-max_len={MAX_LENGTH}",
    ]
    options += [
        f"-artifact_prefix={found / (name + '-')}",
        "-print_final_stats=1",
        "-verbosity=0",
        f"-max_total_time={seconds}",
    ]
    atexit.register(note)
    atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


# ---------------------------------------------------------------------------------------------------------------- the parent


def fuzz(name: str, cache: Path, mutants: int, seconds: float, guide: float) -> dict[str, Any]:
    """Go on with one reader until it had ``mutants`` mutants or ``seconds`` are over; what is known about it."""
    found, corpus, notes = cache / "found", cache / "corpus" / name, cache / f"{name}.json"
    for folder in (found, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    if not notes.exists():
        fresh = {
            "mutants": 0,
            "accepted": 0,
            "seconds": 0.0,
            "worst": 0.0,
            "peak": 0,
            "base": 0,
            "found": [],
            "starts": 0,
        }
        notes.write_text(json.dumps(fresh))
    end = time.monotonic() + seconds
    while True:
        told = json.loads(notes.read_text())
        left, time_left = mutants - told["mutants"], end - time.monotonic()
        if left <= 0 or time_left < 1 or told["starts"] > 200:
            return dict(told)
        told["starts"] += 1
        notes.write_text(json.dumps(told, indent=1))
        seed, guided = told["starts"], told["mutants"] < mutants * guide
        if guided:  # whole notes, since libFuzzer ends the process without a word
            left = -(-max(int(mutants * guide) - told["mutants"], 1) // EVERY) * EVERY + 1
        command = [
            sys.executable,
            __file__,
            "--child",
            name,
            *(["--guided"] if guided else []),
            "--mutants",
            str(left),
            "--seconds",
            str(int(time_left) + 1),
            "--seed",
            str(seed),
        ]
        with (cache / f"{name}.log").open("wb") as log:
            done = subprocess.run([*command, "--cache", str(cache)], stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            told = json.loads(notes.read_text())
            last = (cache / f"{name}.log").read_text(errors="replace")[-1500:]
            told["found"].append(
                {
                    "what": f"the process ended with {done.returncode}",
                    "file": "see " + name + ".log",
                    "mutant": told["mutants"],
                    "seed": seed,
                }
            )
            notes.write_text(json.dumps(told, indent=1))
            (found / f"{name}-end-{seed}.txt").write_text(last)
            if (scratch(name) / TARGETS[name].file).exists():
                shutil.copyfile(
                    scratch(name) / TARGETS[name].file, found / f"{name}-end-{seed}{Path(TARGETS[name].file).suffix}"
                )
            if told["mutants"] == 0:
                return dict(told)


def line(name: str, told: dict[str, Any]) -> str:
    rate = told["mutants"] / told["seconds"] if told["seconds"] else 0.0
    kind = "ours" if TARGETS[name].own else "a library"
    return (
        f"| {name} | {kind} | {told['mutants']:,} | {told['accepted']:,} | {rate:,.0f} | {told['worst']:.2f} | "
        f"{max(told['peak'], 0) / 1e6:.0f} | {len(told['found'])} |"
    )


HEAD = "| reader | parsed by | mutants | accepted | mutants/s | worst CPU s | worst MB | kinds of failure |\n|---|---|---|---|---|---|---|---|"


def main() -> int:
    """Fuzz the readers named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument(
        "--mutants", type=int, default=1_000_000, help="per reader, in all runs together (default: 1,000,000)"
    )
    parser.add_argument("--seconds", type=float, default=1e7, help="of this run, per reader")
    parser.add_argument("--guide", type=float, default=0.02, help="part of the mutants that are guided (default: 0.02)")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".cache" / "fuzz", help="what is kept (default: .cache/fuzz)"
    )
    parser.add_argument("--table", action="store_true", help="only print what was done so far")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--guided", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    cache = args.cache.resolve()
    if args.child:
        child(
            args.child,
            cache / f"{args.child}.json",
            cache / "found",
            cache / "corpus" / args.child,
            args.mutants,
            int(args.seconds),
            args.seed,
            guided=args.guided,
        )
        return 0
    for name in args.readers:
        if name not in TARGETS:
            parser.error(f"no reader {name!r}")
    if not args.table and importlib.util.find_spec("atheris") is None:
        print(
            "atheris is not installed; it has wheels for Linux: python -m pip install 'ssdconv[fuzz]'", file=sys.stderr
        )
        return 4
    print(HEAD, flush=True)
    failures = 0
    for name in args.readers or TARGETS:
        notes = cache / f"{name}.json"
        if args.table:
            if notes.exists():
                print(line(name, json.loads(notes.read_text())))
            continue
        told = fuzz(name, cache, args.mutants, args.seconds, args.guide)
        print(line(name, told), flush=True)
        for one in told["found"]:
            failures += 1
            print(
                f"    {one['what']}: {cache / 'found' / one['file']} (seed {one['seed']}, mutant {one['mutant']})",
                file=sys.stderr,
                flush=True,
            )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
