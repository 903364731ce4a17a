"""From image files, arrays or PIL images to the input tensor, as the source prepares it.

THE CHANNEL ORDER OF ARRAYS IS BGR, as OpenCV reads and writes them, whatever order the network wants: ``prepare`` turns
BGR into ``Preprocess.order`` itself. Pass ``array_order="RGB"`` for RGB arrays. Files and PIL images carry their own order. Files are read by
``image_file.read_image``, EXIF orientation applied; PIL images are taken as they are.

The resize rules of the sources, each as the source computes it. All warp: the aspect ratio is not kept.

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

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, assert_never, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssdconv.errors import FormatError, MissingError, UsageError
from ssdconv.ssd_ref.config import Preprocess, Resize
from ssdconv.ssd_ref.image_file import read_image

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

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


ImageLike: TypeAlias = Union[str, Path, npt.NDArray[np.uint8], "PillowImage"]
Order = Literal["BGR", "RGB"]

_PIL_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"})


def prepare(images: ImageLike | Iterable[ImageLike], pixels: Preprocess, array_order: Order = "BGR") -> Tensor:
    """Images to the network's input: resize, then ``((x / unit) - mean) / std * scale`` in float32, in this order of
    operations; steps that change nothing are skipped.

    Args:
        images: one image or several; each a path, a PIL image, or a uint8 array (H, W, 3) IN BGR, or (H, W) grey.
        pixels: the network's rule.
        array_order: channel order of the arrays among ``images``.

    Returns:
        (N, channels, height, width) float32, contiguous, channels in ``pixels.order``.

    Raises:
        MissingError: an image file is absent.
        FormatError: a file is not an image, or is cut short; a PIL image has a mode without a clear meaning in 8 bit.
        UsageError: an array is not uint8 of these shapes.
    """
    several = _several(images)
    height, width = pixels.size
    batch = torch.empty(len(several), pixels.channels, height, width)
    for index, image in enumerate(several):
        warped = resize(ordered(as_bgr(image, array_order), pixels), pixels.size, pixels.resize)
        batch[index] = torch.from_numpy(normalise(warped, pixels).transpose(2, 0, 1))
    return batch


def ordered(image: npt.NDArray[Any], pixels: Preprocess) -> npt.NDArray[Any]:
    """A BGR image (H, W, 3), bytes or float32, with the channels that the network reads: (H, W, 3), or (H, W, 1) for GRAY.

    Grey is OpenCV's BGR2GRAY (0.114 B + 0.587 G + 0.299 R, bytes rounded), made before the resize, as a picture that is read
    in grey is. OpenCV's readers make grey themselves and round otherwise: of a PNG half of the bytes differ, by one level; of a
    JPEG, whose stored luma they take, 1 % (one photo), by up to 11.
    """
    if pixels.order == "GRAY":
        return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY)[..., None]
    return image[..., ::-1] if pixels.order == "RGB" else image


def normalise(image: npt.NDArray[Any], pixels: Preprocess) -> npt.NDArray[np.float32]:
    """``((x / unit) - mean) / std * scale`` in float32 on (H, W, channels) already resized, channels in ``pixels.order``."""
    out = image.astype(np.float32)
    if pixels.unit != 1:
        out /= np.float32(pixels.unit)
    if any(pixels.mean):
        out -= np.asarray(pixels.mean, np.float32)
    if any(s != 1 for s in pixels.std):
        out /= np.asarray(pixels.std, np.float32)
    if pixels.scale != 1:
        out *= np.float32(pixels.scale)
    return out


def as_bgr(image: ImageLike, array_order: Order = "BGR") -> npt.NDArray[np.uint8]:
    """Any accepted image as a uint8 array (H, W, 3) in BGR. Errors as in ``prepare``."""
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, np.ndarray):
        return _array_as_bgr(image, array_order)
    if hasattr(image, "convert") and hasattr(image, "mode"):
        return _pil_as_bgr(image)
    raise UsageError("not an image", expected="a path, a PIL image or a uint8 array", got=type(image).__name__)


def _several(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    if isinstance(images, str | Path) or hasattr(images, "convert"):
        return [cast(ImageLike, images)]
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    return list(images)


def _array_as_bgr(image: npt.NDArray[Any], order: Order) -> npt.NDArray[np.uint8]:
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3) or not image.size:
        raise UsageError(
            "an image array must hold bytes",
            expected="uint8 (H, W, 3) in BGR, or (H, W) grey",
            got=f"{image.dtype} {image.shape}",
            hint="drop an alpha channel, and scale floats or 16-bit values to 0..255, before passing the array",
        )
    if channels == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(image if order == "BGR" else image[..., ::-1])


def _pil_as_bgr(image: PillowImage) -> npt.NDArray[np.uint8]:
    if image.mode not in _PIL_MODES:
        raise FormatError(
            f"a PIL image of mode {image.mode} has no single meaning in 8-bit colour",
            expected=", ".join(sorted(_PIL_MODES)),
            hint="convert it to RGB the way you mean it, or pass the file's path",
        )
    try:
        rgb = np.asarray(image.convert("RGB"))
    except OSError as error:  # PIL decodes lazily: a cut file shows here
        raise FormatError(f"PIL cannot decode the image: {error}", where=getattr(image, "filename", None)) from None
    return np.ascontiguousarray(rgb[..., ::-1])
