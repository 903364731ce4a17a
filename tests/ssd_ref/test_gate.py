"""The gate: what is no regular file, or larger or deeper than its kind ever is, ends in a clear error at once."""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ssdconv.commands.train_setup import read_config
from ssdconv.converters.gluon.symbol import read_symbol
from ssdconv.data.coco import open_coco
from ssdconv.data.custom import read_description
from ssdconv.data.voc import object_names
from ssdconv.errors import FormatError, MissingError, SsdconvError
from ssdconv.parity.accuracy.files import read_coco_results, read_stream
from ssdconv.parity.report.layers import load as load_report
from ssdconv.ssd_ref import checkpoint, gate
from ssdconv.ssd_ref.gate import UnreadableError, load_yaml, open_input, read_text, reader, reading
from ssdconv.ssd_ref.image_file import image_head, read_image
from ssdconv.train.run_folder import RunFolder, read_state

READERS: dict[str, Callable[[Path], Any]] = {
    "weights": checkpoint.read,
    "image": read_image,
    "image head": image_head,
    "coco": lambda path: open_coco(annotations=path),
    "description": read_description,
    "annotation": object_names,
    "state": read_state,
    "detections": lambda path: read_stream([path]),
    "config": read_config,
    "report": load_report,
    "symbol": read_symbol,
    "coco results": lambda path: read_coco_results(path, {}, ()),
}


@pytest.mark.parametrize("name", READERS)
def test_pipes_devices_and_folders_are_refused_at_once(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for path in (tmp_path / "pipe.json", Path("/dev/zero"), Path("/dev/null"), tmp_path / "folder.json"):
        with pytest.raises(SsdconvError):
            READERS[name](path)
    with pytest.raises(MissingError):
        READERS[name](tmp_path / "absent.json")


@pytest.mark.parametrize("name", ["image", "coco", "description", "annotation", "detections", "coco results"])
def test_a_file_larger_than_its_kind_is_not_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # a hole: takes no disk
    with pytest.raises(FormatError, match="too large"):
        READERS[name](path)


def png(width: int, height: int) -> bytes:
    """A small PNG that claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "webp", "tiff"])
def test_an_image_may_not_claim_billions_of_pixels(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"bomb.{kind}"
    data = bytearray(cv2.imencode(f".{kind}", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    if kind == "png":
        data = bytearray(png(40_000, 40_000))
    elif kind == "jpg":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    elif kind == "bmp":
        data[18:26] = struct.pack("<ii", 60_000, -60_000)
    elif kind == "tiff":
        at = struct.unpack_from("<I", data, 4)[0]
        for entry in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12):
            if struct.unpack_from("<H", data, entry)[0] in (256, 257):
                struct.pack_into("<HII", data, entry + 2, 4, 1, 100_000)
    if kind == "webp":  # its format ends at 16,383 pixels a side: within OpenCV's own limit, too many for ours
        assert gate.MAX_PIXELS < 16_383**2
        return
    path.write_bytes(bytes(data))
    with pytest.raises(FormatError):
        read_image(path)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x]\nb: &b [*a, *a, *a, *a]\nc: [*b, *b, *b, *b, *b]",
        "a: &a {k: 1}\nb:\n  <<: *a",
    ],
)
def test_yaml_that_multiplies_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="repeats"):
        load_yaml(text, "x.yaml")


@pytest.mark.parametrize("text", ["[" * 60_000, "a: " + "{b: " * 9_000, "- " * 30_000, "a: 1\n" * 60_000])
def test_yaml_that_takes_minutes_is_refused_at_once(text: str) -> None:
    start = time.process_time()
    with pytest.raises(FormatError, match="deeper or longer"):
        load_yaml(text, "x.yaml")
    assert time.process_time() - start < 2


def test_yaml_with_an_anchor_is_read() -> None:
    assert load_yaml("a: &a [1, 2]\nb: *a", "x.yaml") == {"a": [1, 2], "b": [1, 2]}


def test_deep_json_is_refused(tmp_path: Path) -> None:
    deep = "[" * 200_000
    (tmp_path / "a.json").write_text(deep)
    (tmp_path / "b.json").write_text(deep + "\n")
    with pytest.raises(FormatError):
        READERS["detections"](tmp_path / "b.json")
    for name in ("coco", "description", "coco results", "config", "report", "symbol"):
        with pytest.raises(FormatError):
            READERS[name](tmp_path / "a.json")
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    for file in ("run.json", "config.json", "recipe.json"):
        (run.path / file).write_text(deep)
    with pytest.raises(FormatError):
        run.read()


def test_a_number_that_is_no_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"nodes": [{"op": "null", "name": "data"}], "heads": [[1e999, 0, 0]]}')
    with pytest.raises(FormatError, match="not a symbol"):
        READERS["symbol"](tmp_path / "x.json")


def test_ids_that_no_number_of_a_machine_holds_are_refused(tmp_path: Path) -> None:
    text = (
        '{"images": [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}], "categories": [{"id": 1, "name": "c"}],'
        ' "annotations": [{"id": %d, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]}'
    )
    (tmp_path / "a.json").write_text(text % (1 << 63))
    with pytest.raises(FormatError, match="not a COCO detection file"):
        open_coco(annotations=tmp_path / "a.json")
    (tmp_path / "a.json").write_text(text % ((1 << 63) - 1))
    assert open_coco(annotations=tmp_path / "a.json")[0].object_ids[0] == (1 << 63) - 1


def test_too_many_categories_are_refused(tmp_path: Path) -> None:
    many = ",".join(f'{{"id": {i}, "name": "c{i}"}}' for i in range(gate.MAX_CLASSES + 1))
    (tmp_path / "a.json").write_text(
        f'{{"images": [{{"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}}], "annotations": [], "categories": [{many}]}}'
    )
    with pytest.raises(FormatError, match="too many categories"):
        open_coco(annotations=tmp_path / "a.json")


def test_annotations_in_encodings_of_their_own(tmp_path: Path) -> None:
    for number, name in enumerate(("no-such-encoding", "utf-7", "rot13", "idna", "\x00")):
        path = tmp_path / f"{number}.xml"
        path.write_bytes(f'<?xml version="1.0" encoding="{name}"?><annotation/>'.encode())
        with pytest.raises(FormatError):
            object_names(path)


def test_text_is_utf_8_without_nul(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfdog\n")
    assert read_text(tmp_path / "a", "list") == "dog\n"
    for data in (b"\xff\xfe", b"a\0b"):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(FormatError):
            read_text(tmp_path / "a", "list")


@pytest.mark.parametrize(
    "error",
    [ValueError("x\nsecret"), OverflowError(), RecursionError(), MemoryError(), KeyError("k"), OSError(5, "io")],
)
def test_what_a_parser_lets_through_becomes_an_error_with_the_files_name(error: BaseException) -> None:
    with pytest.raises(UnreadableError) as caught, reading("some.file"):
        raise error
    assert caught.value.where == "some.file" and "secret" not in str(caught.value)
    assert caught.value.__cause__ is error

    @reader
    def failing(path: str) -> None:
        raise error

    with pytest.raises(UnreadableError, match=r"some\.file"):
        failing("some.file")
    with pytest.raises(MissingError), reading("some.file"):
        raise MissingError("as it is")


def test_a_link_is_followed_and_a_descriptor_not_left_open(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to("a")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with open_input(tmp_path / "link", "list") as stream:
        assert stream.read() == b"x"
    with pytest.raises(FormatError):
        open_input("/dev/null", "list")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
