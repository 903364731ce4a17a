"""The image of a record, and whether all of a data set's images are there with their annotated sizes.

Images are read as everywhere (``ssd_ref.image_file``): an EXIF orientation is applied, and boxes refer to the picture as shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ssdconv.data.records import (
    Dataset,
    MissingImageError,
    Problems,
    Record,
    SizeMismatchError,
    UnreadableImageError,
)
from ssdconv.errors import FormatError, SsdconvError
from ssdconv.ssd_ref.image_file import ImageHead, image_head, read_image

T = TypeVar("T")
OnProgress = Callable[[str, int, int], None]
"""Called with (what is being done, images done, images in all)."""


def record_image(record: Record) -> NDArray[np.uint8]:
    """Decode a record's image: (height, width, 3) uint8, BGR.

    Raises:
        MissingImageError, UnreadableImageError, SizeMismatchError: each names the file.
    """
    path = _existing(record)
    try:
        image = read_image(path)
    except FormatError as error:
        raise _unreadable(error) from None
    if image.shape[:2] != (record.height, record.width):
        raise _other_size(record, path, _head(path))
    return image


def record_head(record: Record) -> ImageHead:
    """Size and orientation of a record's image, from the file's head. Errors as in ``record_image``."""
    path = _existing(record)
    head = _head(path)
    if (head.width, head.height) != (record.width, record.height):
        raise _other_size(record, path, head)
    return head


def looked_at(
    records: Sequence[Record], look: Callable[[Record], T], workers: int, doing: str, progress: OnProgress | None
) -> Iterator[tuple[Record, T]]:
    """Every record with what ``look`` finds, in order; ``workers`` threads look ahead."""
    with ThreadPoolExecutor(max(workers, 1), "look") as pool:
        for done, found in enumerate(zip(records, pool.map(look, records), strict=True), 1):
            yield found
            if progress is not None:
                progress(doing, done, len(records))


def check_images(
    dataset: Dataset,
    keep_going: Problems | None = None,
    *,
    whole: bool = False,
    workers: int = 1,
    progress: OnProgress | None = None,
) -> list[str]:
    """Check that every image is there and has its annotated size.

    Args:
        dataset: annotations and image files.
        keep_going: collector.
        whole: decode every image; else only the files' heads are read.
        workers: threads that do it.
        progress: told about every image.

    Returns:
        Ids of the images that are fine, in the data set's order.

    Raises:
        MissingImageError, UnreadableImageError, SizeMismatchError: the first fault, without a collector; it says how many
            there are.
    """
    fine, faults = [], Problems()

    def look(record: Record) -> SsdconvError | None:
        try:
            record_image(record) if whole else record_head(record)
        except (MissingImageError, UnreadableImageError, SizeMismatchError) as error:
            return error
        return None

    for record, error in looked_at(list(dataset), look, workers, f"looking at the images of {dataset.name}", progress):
        if error is None:
            fine.append(record.image_id)
        else:
            faults.add(error)
    faults.hand_over(keep_going)
    return fine


def _existing(record: Record) -> Path:
    if record.path is None or not record.path.is_file():
        raise MissingImageError(
            "the image is not on disk",
            where=str(record.path or record.image_id),
            hint="point the data root at a folder that has the images; scoring stored detections works without them",
        )
    return record.path


def _head(path: Path) -> ImageHead:
    try:
        return image_head(path)
    except FormatError as error:
        raise _unreadable(error) from None


def _unreadable(error: FormatError) -> UnreadableImageError:
    return UnreadableImageError(
        error.what, where=error.where, expected=error.expected, got=error.got, hint=error.hint or "fetch the file again"
    )


def _other_size(record: Record, path: Path, head: ImageHead) -> SizeMismatchError:
    annotated = (record.width, record.height)
    if head.orientation > 4 and annotated == (head.height, head.width):
        hint = (
            f"its EXIF orientation is {head.orientation}, and the annotation is about the pixels as stored: remove the tag "
            f"(exiftool -Orientation= {path.name}), as viewers and this program turn the picture"
        )
    else:
        hint = "image and annotations may come from different releases of the data set"
    return SizeMismatchError(
        "image and annotation disagree about the size",
        where=str(path),
        expected=f"{record.width}x{record.height} as annotated",
        got=f"{head.width}x{head.height}",
        hint=hint,
    )
