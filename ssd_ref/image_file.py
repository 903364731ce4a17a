"""The one way in which image files are read, for detection, training, evaluation and reports alike. Imports no torch.

**An EXIF orientation is applied**: the picture is what viewers and annotation tools show, and boxes refer to that. OpenCV does
so by default since 3.1, and Caffe, GluonCV, ssd.pytorch, simple-ssd and jedol's code read through it; TensorFlow's decoder and
PIL (ssd_keras) do not. Files without the tag, VOC's and COCO's, are the same either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import numpy.typing as npt

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.gate import MAX_PIXELS, open_input, read_input, reader

_NO_SIZE = frozenset({0xC4, 0xC8, 0xCC})  # DHT, JPG, DAC share SOF's range but hold no size
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class ImageHead:
    """What the head of an image file says.

    Attributes:
        width, height: of the picture as ``read_image`` gives it, in pixels.
        orientation: EXIF's 1..8; 1 is upright, from 5 on width and height change places.
    """

    width: int
    height: int
    orientation: int = 1


@reader
def read_image(path: str | Path, *, stored: bool = False) -> npt.NDArray[np.uint8]:
    """Read an image file as ``cv2.imread`` does in colour mode, EXIF orientation applied.

    Grey becomes three equal channels, alpha is dropped, 16 bit is cut to 8, CMYK is converted by OpenCV.

    Args:
        path: of a JPEG, PNG, WebP, BMP, TIFF, ... file.
        stored: the pixels as they lie in the file instead, for looking at what EXIF does.

    Returns:
        (H, W, 3) uint8, BGR.

    Raises:
        MissingError: there is no such file.
        FormatError: it is not an image, is cut short, or cannot be read.
    """
    data = read_input(path, "image", "image file")
    _check_pixels(data, path)
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if stored else 0)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise FormatError(f"OpenCV refuses the image: {error.err}", where=str(path)) from None
    if image is None:
        raise FormatError(
            "not an image that OpenCV can read, or cut short",
            where=str(path),
            expected="a whole JPEG, PNG, WebP, BMP, TIFF ... file",
            got=f"{len(data)} bytes that begin with {data[:12]!r}",
            hint="open it in a viewer, or fetch it again",
        )
    return np.asarray(image, np.uint8)


@reader
def image_head(path: Path) -> ImageHead:
    """Size and orientation of ``read_image``'s picture; of JPEG and of PNG without EXIF only the file's head is read.

    Raises:
        MissingError: there is no such file.
        FormatError: the file is no image, or ends before its size.
    """
    with open_input(path, "image", "image file") as file:
        head = file.read(24)
        if head[:2] == b"\xff\xd8":
            return _jpeg(file, path)
        if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 24 and not _png_has_exif(file):
            return ImageHead(int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"))
    height, width = read_image(path).shape[:2]
    return ImageHead(width, height)


def _check_pixels(data: bytes, path: str | Path) -> None:
    """Refuse an image that would unpack to more than ``MAX_PIXELS``: by its head where that is simple, else by OpenCV's limit."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    elif data[:2] == b"\xff\xd8":
        try:
            found = _jpeg(BytesIO(data), Path(path))
        except FormatError:
            return
        width, height = found.width, found.height
    elif data[:2] == b"BM" and len(data) >= 26:
        width, height = (abs(int.from_bytes(data[at : at + 4], "little", signed=True)) for at in (18, 22))
    else:
        return
    if width * height > MAX_PIXELS:
        raise FormatError(
            "the image claims too many pixels",
            where=str(path),
            expected=f"at most {MAX_PIXELS:,}",
            got=f"{width} x {height}",
        )


def _jpeg(file: BinaryIO, path: Path) -> ImageHead:
    orientation = 1
    file.seek(2)
    while True:
        marker = file.read(4)
        if len(marker) < 4 or marker[0] != 0xFF:
            raise FormatError("the JPEG ends before its size", where=str(path), hint="fetch the file again")
        if marker[1] == 0xFF:  # fill bytes may precede a marker
            file.seek(-3, 1)
            continue
        length = int.from_bytes(marker[2:4], "big") - 2
        if 0xC0 <= marker[1] <= 0xCF and marker[1] not in _NO_SIZE:
            body = file.read(5)
            if len(body) < 5:
                raise FormatError("the JPEG ends before its size", where=str(path), hint="fetch the file again")
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            return ImageHead(*((height, width) if orientation > 4 else (width, height)), orientation)
        if marker[1] == 0xE1 and length > 0:
            orientation = _exif_orientation(file.read(length)) or orientation
        else:
            file.seek(length, 1)


def _exif_orientation(block: bytes) -> int | None:
    """The orientation in an APP1 block, None where it has none."""
    if block[:6] != b"Exif\0\0":
        return None
    tiff = block[6:]
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return None

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], "little" if order == "little" else "big")

    start = number(4, 4)
    for entry in range(start + 2, start + 2 + 12 * number(start, 2), 12):
        if number(entry, 2) == _ORIENTATION:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else None
    return None


def _png_has_exif(file: BinaryIO) -> bool:
    """Whether an eXIf chunk comes before the pixels."""
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        if head[4:] == b"eXIf":
            return True
        file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return False
