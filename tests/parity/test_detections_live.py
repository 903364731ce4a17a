"""Detections of converted networks on real photos equal those of OpenCV running the original files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ssdconv.converters.convert import convert
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.image_file import read_image
from ssdconv.ssd_ref.preprocess import prepare

NETS = {
    "res10": ("weights/res10_face_ssd", "res10_300x300_ssd_iter_140000.caffemodel", "deploy.prototxt"),
    "libfacedetection": (
        "weights/libfacedetection_v1",
        "yufacedetectnet-open-v1.caffemodel",
        "yufacedetectnet-open-v1.prototxt",
    ),
}


def photos(shared: Path) -> list[Path]:
    return sorted((shared / "data/images").glob("*.jpg")) + sorted(
        (shared / "data/coco_val2017_subset/val2017").glob("*.jpg")
    )


@pytest.mark.shared
@pytest.mark.parametrize("name", NETS)
def test_all_photos_give_the_detections_of_the_original_file(name: str, shared: Path, tmp_path: Path) -> None:
    folder, weights, prototxt = NETS[name]
    source = shared / folder
    convert(source / weights, tmp_path / "net.pth", prototxt=source / prototxt, digests=False)
    model = checkpoint.load(tmp_path / "net.pth")
    net = cv2.dnn.readNetFromCaffe(str(source / prototxt), str(source / weights))
    net.enableFusion(False)
    net.enableWinograd(False)
    images = photos(shared)
    assert len(images) == 83
    total = 0
    for path in images:
        image = read_image(path)
        height, width = image.shape[:2]
        blob = cv2.dnn.blobFromImage(image, 1.0, model.config.pixels.size[::-1], model.config.pixels.mean)
        np.testing.assert_array_equal(prepare([image], model.config.pixels).numpy(), blob)
        net.setInput(blob)
        theirs = net.forward()[0, 0]
        with torch.inference_mode():
            mine = model.detect([path])[0]
        theirs = theirs[theirs[:, 1] > 0]  # OpenCV fills unused rows with zeros
        assert len(mine) == len(theirs), path.name
        boxes = theirs[:, 3:] * np.array([width, height, width, height], np.float32)
        # Near-tied scores may be ordered differently, so each detection is paired with the nearest box, one to one.
        gap = np.abs(mine.boxes.numpy()[:, None] - boxes[None]).max(-1) + np.abs(
            mine.scores.numpy()[:, None] - theirs[None, :, 2]
        )
        pair = gap.argmin(1)
        assert sorted(pair) == list(range(len(theirs))), path.name
        np.testing.assert_allclose(mine.scores.numpy(), theirs[pair, 2], rtol=0, atol=1e-5, err_msg=path.name)
        np.testing.assert_allclose(mine.boxes.numpy(), boxes[pair], rtol=0, atol=1e-3, err_msg=path.name)
        np.testing.assert_array_equal(mine.labels.numpy(), theirs[pair, 1].astype(int))
        total += len(mine)
    assert total > 83
