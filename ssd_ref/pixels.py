"""From image files, arrays or PIL images to the input tensor, as the source prepares it.

THE CHANNEL ORDER OF ARRAYS IS BGR, as OpenCV reads and writes them, whatever order the network wants: ``prepare`` turns
BGR into ``Pixels.order`` itself. Pass ``array_order="RGB"`` for RGB arrays. Files and PIL images carry their own order. Files are read by
``image_file.read_image``, EXIF orientation applied; PIL images are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.config import Pixels
from ssdconv.ssd_ref.image_file import read_image
from ssdconv.ssd_ref.resize import resize

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

ImageLike: TypeAlias = Union[str, Path, npt.NDArray[np.uint8], "PillowImage"]
Order = Literal["BGR", "RGB"]

_PIL_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"})


def prepare(images: ImageLike | Iterable[ImageLike], pixels: Pixels, array_order: Order = "BGR") -> Tensor:
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


def ordered(image: npt.NDArray[Any], pixels: Pixels) -> npt.NDArray[Any]:
    """A BGR image (H, W, 3), bytes or float32, with the channels that the network reads: (H, W, 3), or (H, W, 1) for GRAY.

    Grey is OpenCV's BGR2GRAY (0.114 B + 0.587 G + 0.299 R, bytes rounded), made before the resize, as a picture that is read
    in grey is. OpenCV's readers make grey themselves and round otherwise: of a PNG half of the bytes differ, by one level; of a
    JPEG, whose stored luma they take, 1 % (one photo), by up to 11.
    """
    if pixels.order == "GRAY":
        return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY)[..., None]
    return image[..., ::-1] if pixels.order == "RGB" else image


def normalise(image: npt.NDArray[Any], pixels: Pixels) -> npt.NDArray[np.float32]:
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
