"""One reader for all: EXIF orientation as OpenCV applies it, and sizes from file heads that agree with the decoded picture."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from ssdconv.data.images import record_image
from ssdconv.data.voc import open_voc
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.image_file import ImageHead, image_head, read_image

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
ENDINGS = [".jpg", ".png", ".webp", ".tiff", ".bmp"]


@pytest.mark.parametrize("suffix", ENDINGS)
@pytest.mark.parametrize("size", [(1, 1), (353, 500), (500, 353)])
def test_size_from_the_head(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), np.zeros((size[1], size[0], 3), np.uint8))
    assert image_head(path) == ImageHead(*size)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_every_orientation_is_applied_as_opencv_does(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"a{suffix}"
    exif = Pillow.Exif()
    exif[0x010F] = "a maker whose name is longer than four bytes"
    exif[0x0112] = orientation
    Pillow.fromarray(PICTURE).save(path, exif=exif)
    got, head = read_image(path), image_head(path)
    assert np.array_equal(
        got, cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    )  # imread refuses such a TIFF
    assert (head.width, head.height) == (got.shape[1], got.shape[0]) == ((40, 60) if orientation > 4 else (60, 40))
    assert head.orientation == (orientation if suffix == ".jpg" else 1)
    assert read_image(path, stored=True).shape[:2] == ((60, 40) if suffix == ".tiff" and orientation > 4 else (40, 60))


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("value", [0, 6, 9])
def test_both_byte_orders_and_senseless_values(tmp_path: Path, order: str, value: int) -> None:
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), PICTURE)
    mark = "<" if order == "II" else ">"
    tiff = order.encode() + struct.pack(f"{mark}HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, value, 0, 0)
    plain = path.read_bytes()
    path.write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff + plain[2:])
    head = image_head(path)
    assert (head.height, head.width) == cv2.imread(str(path)).shape[:2]
    assert head.orientation == (6 if value == 6 else 1)


@pytest.mark.shared
def test_size_of_real_photos(shared: Path) -> None:
    photos = sorted((shared / "data").rglob("*.jpg"))
    assert len(photos) == 83
    for path in photos:
        decoded = read_image(path)
        assert image_head(path) == ImageHead(decoded.shape[1], decoded.shape[0])


def test_fill_bytes_and_long_segments(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    frame = b"\xff\xff\xc2\x00\x0b\x08" + struct.pack(">HH", 7, 9) + b"\x01\x01\x11\x00"
    path.write_bytes(b"\xff\xd8\xff\xe1\x00\x06abcd\xff\xc4\x00\x04ab" + frame)
    assert image_head(path) == ImageHead(9, 7)


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x10abc", b"\xff\xd8\xff\xc0\x00\x0b\x08\x00"]
)
def test_no_size(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"a\.jpg"):
        image_head(path)


def test_detection_training_and_evaluation_see_the_same_pixels(tmp_path: Path) -> None:
    """``detect`` reads a path; training and evaluation read a record."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    exif = Pillow.Exif()
    exif[0x0112] = 8
    Pillow.fromarray(PICTURE).save(tmp_path / "JPEGImages/1.jpg", exif=exif)
    (tmp_path / "ImageSets/Main/test.txt").write_text("1\n")
    box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>50</ymax></bndbox>"
    (tmp_path / "Annotations/1.xml").write_text(
        f"<annotation><size><width>40</width><height>60</height></size><object><name>dog</name>{box}</object></annotation>"
    )
    record = open_voc(tmp_path)[0]
    assert np.array_equal(record_image(record), read_image(tmp_path / "JPEGImages/1.jpg"))
