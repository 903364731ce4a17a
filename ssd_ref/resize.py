"""The resize rules of the sources, each as the source computes it. All warp: the aspect ratio is not kept.

- ``opencv_linear``: OpenCV bilinear on bytes, rounded to bytes (Caffe, ssd.pytorch, Keras ports)
- ``opencv_linear_float``: OpenCV bilinear on float32, not rounded (ChainerCV with OpenCV)
- ``mxnet_9``: MXNet's ``interp=9`` on bytes: cubic when both sides grow, area when both shrink, else bilinear (GluonCV)
- ``tf1_bilinear``: TensorFlow 1 ``resize_bilinear`` with ``align_corners=False``: source point = target index * scale,
  without half-pixel centres and without antialiasing, in float32 (SSD.TensorFlow)
- ``pil_bilinear``: Pillow's triangle filter, which antialiases when shrinking, on bytes
- ``torch_bilinear``: ``interpolate`` bilinear, half-pixel centres, no antialiasing, in float32 (torchvision). torchvision
  normalises before it resizes; both are linear, so the order changes rounding only

Channels are resized independently, so the channel order does not matter here.
"""

from __future__ import annotations

from typing import Any, assert_never

import cv2
import numpy as np
import numpy.typing as npt

from ssdconv.errors import MissingError
from ssdconv.ssd_ref.config import Resize

Image = npt.NDArray[Any]


def resize(image: Image, size: tuple[int, int], rule: Resize) -> Image:
    """Warp an image to ``size``.

    Args:
        image: (H, W, C) uint8, C 3 or 1.
        size: target height and width.
        rule: which source's arithmetic.

    Returns:
        (height, width, C): uint8 for the rules that round to bytes (``opencv_linear``, ``mxnet_9``,
        ``pil_bilinear``), else float32 in 0..255.

    Raises:
        MissingError: ``pil_bilinear`` without Pillow.
    """
    warped = _warped(image, size, rule)
    return warped if warped.ndim == 3 else warped[..., None]  # OpenCV and Pillow leave a single channel out


def _warped(image: Image, size: tuple[int, int], rule: Resize) -> Image:
    target = (size[1], size[0])
    match rule:
        case "opencv_linear":
            return cv2.resize(image, target, interpolation=cv2.INTER_LINEAR)
        case "opencv_linear_float":
            return cv2.resize(image.astype(np.float32), target, interpolation=cv2.INTER_LINEAR)
        case "mxnet_9":
            return _without_ipp(image, target, mxnet_interpolation(image.shape[:2], size))
        case "tf1_bilinear":
            return _tf1_bilinear(image.astype(np.float32), size)
        case "pil_bilinear":
            return _pil_bilinear(image, target)
        case "torch_bilinear":
            return _torch_bilinear(image, size)
    assert_never(rule)


def _without_ipp(image: Image, target: tuple[int, int], interpolation: int) -> Image:
    """OpenCV's own arithmetic. Intel's library, which OpenCV uses where it is built in, rounds 2 % of cubic bytes otherwise.

    MXNet 1.9.1 is built without it. What is left between its OpenCV 3.4.2 and a new one is one level in up to 8 bytes of a million.
    """
    before = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        return cv2.resize(image, target, interpolation=interpolation)
    finally:
        cv2.ipp.setUseIPP(before)


def mxnet_interpolation(source: tuple[int, ...], target: tuple[int, int]) -> int:
    """OpenCV's interpolation code that MXNet's ``interp=9`` stands for, given (height, width) before and after."""
    if target[0] > source[0] and target[1] > source[1]:
        return cv2.INTER_CUBIC
    if target[0] < source[0] and target[1] < source[1]:
        return cv2.INTER_AREA
    return cv2.INTER_LINEAR


def _tf1_bilinear(image: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    upper, lower, dy = _tf1_axis(image.shape[0], size[0])
    left, right, dx = _tf1_axis(image.shape[1], size[1])
    dy, dx = dy[:, None, None], dx[None, :, None]
    # First along x in both rows, then along y, as the kernel does: this order fixes the rounding.
    top = image[upper][:, left] + (image[upper][:, right] - image[upper][:, left]) * dx
    bottom = image[lower][:, left] + (image[lower][:, right] - image[lower][:, left]) * dx
    return (top + (bottom - top) * dy).astype(np.float32)


def _tf1_axis(source: int, target: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Lower index, upper index and weight of the upper one, for each target index."""
    scale = np.float32(source) / np.float32(target)
    place = np.arange(target, dtype=np.float32) * scale
    low = place.astype(np.int64)
    return low, np.minimum(low + 1, source - 1), place - low.astype(np.float32)


def _pil_bilinear(image: Image, target: tuple[int, int]) -> Image:
    try:
        from PIL import Image as Pillow
    except ImportError:
        raise MissingError(
            "this network's resize rule is Pillow's, and Pillow is not installed", hint="pip install pillow"
        ) from None
    plain = image[..., 0] if image.shape[2] == 1 else image
    return np.asarray(Pillow.fromarray(plain).resize(target, Pillow.Resampling.BILINEAR))


def _torch_bilinear(image: Image, size: tuple[int, int]) -> Image:
    import torch

    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32))[None]
    warped = torch.nn.functional.interpolate(planes, size=size, mode="bilinear", align_corners=False, antialias=False)
    return np.ascontiguousarray(warped[0].permute(1, 2, 0).numpy())
