"""Pictures with detections drawn, written whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ssdconv.ssd_ref.postprocess import Detections


def write_drawn(path: Path, image: npt.NDArray[np.uint8], found: Detections, class_names: Sequence[str]) -> Path:
    """Write ``image`` with its detections drawn as a PNG.

    Args:
        path: file to make or replace.
        image: (H, W, 3) uint8, BGR.
        found: boxes in pixels of this image.
        class_names: names by label; may be empty.

    Raises:
        OutputError: the file cannot be written.
    """
    import cv2

    from ssdconv.ssd_ref.draw import draw
    from ssdconv.ssd_ref.files import atomic_path

    # The temporary name has no .png ending for OpenCV to go by, so the picture is encoded in memory.
    encoded: Any = cv2.imencode(".png", draw(image, found, class_names))[1]
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
    return path
