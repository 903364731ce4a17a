"""Reading an annotated image with OpenCV, and its size from the file's head without decoding.

Images are decoded without applying EXIF rotation: the annotations are about the pixels as stored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssdconv.ssd_ref.data.problems import (
    MissingImageError,
    Problems,
    SizeMismatchError,
    UnreadableImageError,
    report,
)
from ssdconv.ssd_ref.data.records import Dataset, Record

_NO_SIZE = frozenset({0xC4, 0xC8, 0xCC})  # DHT, JPG, DAC share SOF's range but hold no size


def image_size(path: Path) -> tuple[int, int]:
    """Width and height from the head of a JPEG or PNG file.

    Raises:
        UnreadableImageError: the file is neither, or ends before its size.
    """
    with open(path, "rb") as file:
        head = file.read(24)
        if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 24:
            return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        if head[:2] != b"\xff\xd8":
            raise UnreadableImageError("neither a JPEG nor a PNG file", where=str(path), got=head[:4])
        file.seek(2)
        while True:
            marker = file.read(4)
            if len(marker) < 4 or marker[0] != 0xFF:
                raise UnreadableImageError("the JPEG ends before its size", where=str(path))
            if marker[1] == 0xFF:  # fill bytes may precede a marker
                file.seek(-3, 1)
                continue
            length = int.from_bytes(marker[2:4], "big")
            if 0xC0 <= marker[1] <= 0xCF and marker[1] not in _NO_SIZE:
                body = file.read(5)
                if len(body) < 5:
                    raise UnreadableImageError("the JPEG ends before its size", where=str(path))
                return int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")
            file.seek(length - 2, 1)


def read_image(record: Record) -> NDArray[np.uint8]:
    """Decode a record's image: (height, width, 3) uint8, BGR.

    Raises:
        MissingImageError, UnreadableImageError, SizeMismatchError: each names the file.
    """
    import cv2

    path = _existing(record)
    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    if image is None:
        raise UnreadableImageError("the image cannot be decoded", where=str(path), hint="fetch the file again")
    _same_size(record, path, (image.shape[1], image.shape[0]))
    return np.asarray(image, np.uint8)


def check_images(dataset: Dataset, keep_going: Problems | None = None) -> int:
    """Check that every image is there and has its annotated size (reads only the heads); returns how many are fine."""
    fine = 0
    for record in dataset:
        try:
            path = _existing(record)
            _same_size(record, path, image_size(path))
        except (MissingImageError, UnreadableImageError, SizeMismatchError) as error:
            report(error, keep_going)
        else:
            fine += 1
    return fine


def _existing(record: Record) -> Path:
    if record.path is None or not record.path.is_file():
        raise MissingImageError(
            "the image is not on disk",
            where=str(record.path or record.image_id),
            hint="point the data root at a folder that has the images; scoring stored detections works without them",
        )
    return record.path


def _same_size(record: Record, path: Path, got: tuple[int, int]) -> None:
    if got != (record.width, record.height):
        raise SizeMismatchError(
            "image and annotation disagree about the size",
            where=str(path),
            expected=f"{record.width}x{record.height} as annotated",
            got=f"{got[0]}x{got[1]}",
            hint="image and annotations may come from different releases of the data set",
        )
