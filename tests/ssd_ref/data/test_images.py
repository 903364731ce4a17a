"""Image sizes from file heads, and the three ways in which an image can disappoint."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssdconv.ssd_ref.data.images import check_images, image_size, read_image
from ssdconv.ssd_ref.data.problems import MissingImageError, Problems, SizeMismatchError, UnreadableImageError
from ssdconv.ssd_ref.data.voc import open_voc


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("size", [(1, 1), (353, 500), (500, 353)])
def test_size_without_decoding(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), np.zeros((size[1], size[0], 3), np.uint8))
    assert image_size(path) == size


@pytest.mark.shared
def test_size_of_real_photos(shared: Path) -> None:
    photos = sorted((shared / "data").rglob("*.jpg"))
    assert len(photos) == 83
    for path in photos:
        decoded = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        assert image_size(path) == (decoded.shape[1], decoded.shape[0])


def test_fill_bytes_and_long_segments(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    frame = b"\xff\xff\xc2\x00\x0b\x08" + struct.pack(">HH", 7, 9) + b"\x01\x01\x11\x00"
    path.write_bytes(b"\xff\xd8\xff\xe1\x00\x06abcd\xff\xc4\x00\x04ab" + frame)
    assert image_size(path) == (9, 7)


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x10abc", b"\xff\xd8\xff\xc0\x00\x0b\x08\x00"]
)
def test_no_size(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError, match=r"a\.jpg"):
        image_size(path)


def test_read_image(devkit: Path) -> None:
    image = read_image(open_voc(devkit)[0])
    assert image.shape == (500, 353, 3) and image.dtype == np.uint8


def test_exif_rotation_is_not_applied(devkit: Path) -> None:
    path = devkit / "VOC2007" / "JPEGImages" / "000001.jpg"
    plain = path.read_bytes()
    exif = (
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: turn by 90 degrees
    )
    path.write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:])
    assert cv2.imread(str(path)).shape == (353, 500, 3), "OpenCV would turn it"
    assert read_image(open_voc(devkit)[0]).shape == (500, 353, 3)


@pytest.mark.parametrize("fault", ["missing", "empty", "garbage", "size"])
def test_faults_name_the_file(devkit: Path, fault: str) -> None:
    path = devkit / "VOC2007" / "JPEGImages" / "000002.jpg"
    if fault == "missing":
        path.unlink()
    elif fault == "size":
        cv2.imwrite(str(path), np.zeros((353, 500, 3), np.uint8))
    else:
        path.write_bytes(b"" if fault == "empty" else b"\xff\xd8 no image")
    kind = {"missing": MissingImageError, "size": SizeMismatchError}.get(fault, UnreadableImageError)
    dataset = open_voc(devkit)
    with pytest.raises(kind, match=r"000002\.jpg"):
        read_image(dataset[1])
    with pytest.raises(kind, match=r"000002\.jpg"):
        check_images(dataset)
    problems = Problems()
    assert check_images(dataset, problems) == 1
    assert problems.counts == {kind.__name__: 1}
