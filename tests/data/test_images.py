"""The image of a record: its EXIF orientation, and the three ways in which an image can disappoint."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssdconv.data.images import check_images, record_head, record_image
from ssdconv.data.records import MissingImageError, Problems, SizeMismatchError, UnreadableImageError
from ssdconv.data.voc import open_voc


def test_record_image(devkit: Path) -> None:
    image = record_image(open_voc(devkit)[0])
    assert image.shape == (500, 353, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("whole", [True, False])
def test_an_annotation_about_turned_pixels_is_told_to_be_so(devkit: Path, whole: bool) -> None:
    """The annotation says 353 x 500; with the tag the picture is shown as 500 x 353."""
    turn(devkit / "VOC2007" / "JPEGImages" / "000001.jpg")
    look = record_image if whole else record_head
    with pytest.raises(SizeMismatchError, match=r"got 500x353\)\n  hint: its EXIF orientation is 6.*remove the tag"):
        look(open_voc(devkit)[0])


def test_an_annotation_about_the_picture_as_shown(devkit: Path) -> None:
    folder = devkit / "VOC2007"
    cv2.imwrite(str(folder / "JPEGImages" / "000001.jpg"), np.full((353, 500, 3), 90, np.uint8))
    turn(folder / "JPEGImages" / "000001.jpg")
    assert record_image(open_voc(devkit)[0]).shape == (500, 353, 3)
    assert record_head(open_voc(devkit)[0]).orientation == 6


def turn(path: Path) -> None:
    """Give a JPEG the EXIF orientation 6: shown turned by 90 degrees."""
    plain = path.read_bytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    path.write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:])


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
        record_image(dataset[1])
    with pytest.raises(kind, match=r"000002\.jpg"):
        check_images(dataset)
    problems = Problems()
    assert check_images(dataset, problems) == ["000001"]
    assert problems.counts == {kind.__name__: 1}
