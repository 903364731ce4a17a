"""What is fed to both sides: given images as the network prepares them, and seeded noise over the whole pixel range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdconv.ssd_ref.config import Pixels

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ProbeInput:
    """One input of a parity check.

    Attributes:
        name: for reports.
        pixels: (1, channels, height, width) float32, prepared: what the network's first layer reads.
        image: what that was prepared from, as read.
    """

    name: str
    pixels: npt.NDArray[np.float32]
    image: Image


def noise_image(size: tuple[int, int], seed: int) -> Image:
    """Uniform noise, (height, width, 3) uint8."""
    image: Image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return image


def synthetic_picture(seed: int, size: tuple[int, int] = (375, 500)) -> Image:
    """A picture with flat areas, edges and gradients for when no photo is given: (height, width, 3) uint8, BGR.

    A sky-like gradient, a dozen ellipses and rectangles of random colours, and grain of +-6 levels.
    """
    rng = np.random.default_rng([seed, 1])
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    top, bottom = rng.uniform(60, 255, 3), rng.uniform(0, 160, 3)
    picture = top + (bottom - top) * (y / height)[..., None] + 20 * np.sin(x / width * 6)[..., None]
    for k in range(12):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        ry, rx = rng.uniform(0.05, 0.3) * height, rng.uniform(0.05, 0.3) * width
        dy, dx = (y - cy) / ry, (x - cx) / rx
        inside = (dy * dy + dx * dx < 1) if k % 2 else (np.maximum(np.abs(dy), np.abs(dx)) < 1)
        shade = (1 - 0.4 * dy)[..., None] * rng.uniform(0, 255, 3)
        picture = np.where(inside[..., None], shade, picture)
    picture += rng.uniform(-6, 6, picture.shape)
    image: Image = np.clip(picture, 0, 255).astype(np.uint8)
    return image


def fainter(given: ProbeInput, factor: float = 2.0**-10) -> ProbeInput:
    """An input with all prepared values scaled down, for networks whose boxes overflow on full ones."""
    return ProbeInput(f"{given.name}, times {factor:.3g}", given.pixels * np.float32(factor), given.image)


def make_inputs(
    pixels: Pixels, images: Sequence[Path] = (), seed: int = 0
) -> tuple[tuple[ProbeInput, ...], tuple[str, ...]]:
    """The inputs of one check and notes for its report.

    Args:
        pixels: how the network prepares images.
        images: photos; none for a synthetic picture, of which the notes tell.
        seed: of the noise and of the synthetic picture.

    Returns:
        The photos in the order given (or the picture), then one noise image of the network's own size.

    Raises:
        MissingError, FormatError: a photo is missing or is not an image.
    """
    from ssdconv.ssd_ref.image_file import read_image
    from ssdconv.ssd_ref.pixels import prepare

    named: list[tuple[str, Any]] = [(Path(path).name, read_image(path)) for path in images]
    notes: tuple[str, ...] = ()
    if not named:
        named = [(f"synthetic picture, seed {seed}", synthetic_picture(seed))]
        notes = ("no image was given: a generated picture stands in for a photo (--image PHOTO uses yours)",)
    named.append((f"noise, seed {seed}", noise_image(pixels.size, seed)))
    inputs = [ProbeInput(name, prepare([image], pixels).numpy(), image) for name, image in named]
    return tuple(inputs), notes
