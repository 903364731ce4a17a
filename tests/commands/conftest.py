"""A converted network for the verbs to work on: OpenCV's face detector from the reference data, converted once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest

import ssdconv
from ssdconv.parity.layers.inputs import synthetic_picture


@dataclass(frozen=True)
class Converted:
    """A source file, its prototxt, the checkpoint made of both, and a picture."""

    source: Path
    prototxt: Path
    checkpoint: Path
    picture: Path


@pytest.fixture(scope="session")
def converted(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp("converted")
    source = shared / "weights/res10_face_ssd/res10_300x300_ssd_iter_140000.caffemodel"
    prototxt = source.with_name("deploy.prototxt")
    ssdconv.convert(source, folder / "res10.pth", prototxt=prototxt)
    cv2.imwrite(str(folder / "picture.png"), synthetic_picture(0))
    return Converted(source, prototxt, folder / "res10.pth", folder / "picture.png")
