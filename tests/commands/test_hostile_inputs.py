"""Crafted files through the command line: a clear error with exit code 3, soon, and no control character on the terminal."""

from __future__ import annotations

import json
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssdconv import cli
from ssdconv.ssd_ref.networks.registry import network


def safetensors(text: str) -> bytes:
    """A whole file of one tensor with our description in its metadata."""
    head = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"ssdconv": text}}
    body = json.dumps(head).encode()
    return struct.pack("<Q", len(body)) + body + bytes(4)


def described(provenance: Any, config: Any = None, version: Any = 1) -> bytes:
    """``safetensors`` with a description that lies."""
    told = json.loads(network("ssd300_voc", "caffe").to_json()) if config is None else config
    return safetensors(json.dumps({"version": version, "config": told, "provenance": provenance}))


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def torch_zip(stream: bytes, path: Path) -> None:
    """A file in torch's zip format with this pickle and one storage of four bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (("data.pkl", stream), ("version", b"3"), ("byteorder", b"little"), ("data/0", bytes(4))):
            archive.writestr(f"a/{name}", data)


def tensor(
    size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, name: str = "w", more: bytes = b""
) -> bytes:
    """A state dict of one tensor with any size and stride."""
    sizes, strides = (b"(" + b"".join(map(number, t)) + b"t" for t in (size, stride))
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(1) + b"tQ"
    rest = sizes + strides + b"\x89ccollections\nOrderedDict\n)RtR"
    return (
        b"\x80\x02}"
        + text(name)
        + b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + number(offset)
        + rest
        + more
        + b"s."
    )


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def proto(key: int, value: int | bytes) -> bytes:
    """A protobuf field."""
    if isinstance(value, int):
        return bytes([key << 3]) + varint(value)
    return bytes([key << 3 | 2]) + varint(len(value)) + value


def frozen_graph(held: bytes) -> bytes:
    """A GraphDef of a placeholder and a Const with this TensorProto."""
    value = proto(5, proto(1, b"value") + proto(2, proto(8, held)))
    return proto(1, proto(1, b"x") + proto(2, b"Placeholder")) + proto(1, proto(1, b"c") + proto(2, b"Const") + value)


NASTY = "a\ud800\x1b]0;title\x07\x1b[2J\u202e"
PICKLES = {
    "a stride of 2^61": tensor((2,), (2**61,)),
    "a shape of 0 by 2^62": tensor((0, 2**62), (2**62, 1)),
    "a negative side": tensor((-1,), (1,)),
    "an offset of 2^62": tensor((1,), (1,), offset=2**62),
    "a name of control characters": tensor((1,), (1,), name=NASTY),
    "a state set on a tensor": tensor((1,), (1,), more=b"}b"),
    "a state set on a number": b"\x80\x02K\x01}b.",
    "an append to nothing": b"\x80\x02]a.",
    "a call of the system": b"\x80\x02cos\nsystem\n(X\x02\0\0\0lstR.",
    "a name of control characters that is called": b"\x80\x02cos\x1b[2J\nsys\x07tem\n)R.",
    "ours, and empty": b"\x80\x02}(" + text("ssdconv") + text("{}") + text("state_dict") + b"}u.",
}
FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "deep metadata": ("x.safetensors", lambda: safetensors("[" * 100_000)),
    "metadata of control characters": ("x.safetensors", lambda: safetensors(NASTY)),
    "a provenance that is a list": ("x.safetensors", lambda: described([1, 2])),
    "parts of a provenance that are no tables": (
        "x.safetensors",
        lambda: described({"training": "x", "evidence": "y", "settings": 3, "prototxt": 4, "request": []}),
    ),
    "evidence of control characters": (
        "x.safetensors",
        lambda: described({"evidence": [{"link": "tensors", "basis": NASTY, "text": NASTY}]}),
    ),
    "a config that is a list": ("x.safetensors", lambda: described({}, [])),
    "a version that is a list": ("x.safetensors", lambda: described({}, version=[])),
    "a layer of 2^61 channels": (
        "x.safetensors",
        lambda: described(
            {},
            json.loads(
                network("ssd300_voc", "caffe").to_json().replace('"out_channels":256', f'"out_channels":{2**61}')
            ),
        ),
    ),
    "a scalar Const of one integer": (
        "x.pb",
        lambda: frozen_graph(proto(1, 3) + proto(2, b"") + proto(7, 5)),
    ),
    "a Const of 2^62 numbers": ("x.pb", lambda: frozen_graph(proto(1, 1) + proto(2, proto(2, proto(1, 2**62))))),
    "a graph of nothing": ("x.pb", lambda: proto(1, proto(1, b"x") + proto(2, b"Placeholder"))),
    "NUL and bytes that are no text": (
        "x.prototxt",
        lambda: b'name: "a\\000b" layer { name: "x\\377" type: "Input" top: "d" }',
    ),
    "a deep prototxt": ("x.prototxt", lambda: b"layer {" * 20_000),
    "a caffemodel of three bytes": ("x\x1b[2J.caffemodel", lambda: b"\x0a\x03abc"),
    "deep COCO": ("x.json", lambda: b'{"images": ' + b"[" * 50_000),
    "YAML that is no text": ("x.yaml", lambda: b"a: \xff"),
}


def lines_of(path: Path, folder: Path) -> list[list[str]]:
    """The command lines that somebody would give such a file to."""
    name = str(path)
    if path.suffix in (".json", ".yaml"):
        return [["train", "--network", "ssd300_voc", "--dataset", name, "--out", str(folder / "run")]]
    lines = [["inspect", name], ["inspect", name, "--json"], ["convert", name, str(folder / "out.pth")]]
    if path.suffix in (".pth", ".safetensors"):
        photo = folder / "photo.png"
        photo.touch()
        lines += [["detect", str(photo), "--weights", name], ["verify", name, "--source", name], ["diff", name, name]]
        lines += [["export", name, "--onnx", str(folder / "out.onnx")]]
    return lines


def checked(path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in lines_of(path, folder):
        before = time.process_time()
        code = cli.main(line)
        captured = capsys.readouterr()
        # inspect may well describe what nothing else can use
        assert code in ((0, 3) if line[0] in ("inspect", "diff") else (2, 3)), (line, captured.err)
        assert "a bug in ssdconv" not in captured.err
        assert "weights_only=False" not in captured.err
        assert not [c for c in captured.out + captured.err if c != "\n" and not c.isprintable()]
        assert time.process_time() - before < 30  # refusals take milliseconds; the rest is imports
    assert not (folder / "out.pth").exists()


@pytest.mark.parametrize("name", PICKLES)
def test_pickles(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch_zip(PICKLES[name], tmp_path / "x.pth")
    checked(tmp_path / "x.pth", tmp_path, capsys)


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, make = FILES[name]
    (tmp_path / file).write_bytes(make())
    checked(tmp_path / file, tmp_path, capsys)
