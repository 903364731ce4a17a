"""What is fed to both sides: given images as the network prepares them, and seeded noise over the whole pixel range.

Where the source project's own code can be run, ``differing_pixels`` holds its preparation of the same images against ours. Differences
are in levels of a picture (0..255), whatever the network's units. Rounding explains 0.01 of a level; a resize that rounds to
whole levels may fall on the other side of a half now and then, so a few values per hundred thousand may be off by one level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssdconv.parity.layers.tolerance import Array
from ssdconv.ssd_ref.config import Preprocess

Image = npt.NDArray[np.uint8]
NO_PHOTO = "no image was given: a generated picture stands in for a photo (--image PHOTO uses yours)"


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


def named_images(size: tuple[int, int], photos: Sequence[Path], seed: int) -> tuple[tuple[str, Image], ...]:
    """(name, image): the photos, or a generated picture, then noise of the network's (height, width).

    Raises:
        MissingError, FormatError: a photo is missing or is not an image.
    """
    from ssdconv.ssd_ref.image_file import read_image

    named = [(Path(path).name, read_image(path)) for path in photos]
    named = named or [(f"synthetic picture, seed {seed}", synthetic_picture(seed))]
    return (*named, (f"noise, seed {seed}", noise_image(size, seed)))


def fainter(given: ProbeInput, factor: float = 2.0**-10) -> ProbeInput:
    """An input with all prepared values scaled down, for networks whose boxes overflow on full ones."""
    return ProbeInput(f"{given.name}, times {factor:.3g}", given.pixels * np.float32(factor), given.image)


def make_inputs(
    pixels: Preprocess, images: Sequence[Path] = (), seed: int = 0
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
    from ssdconv.ssd_ref.preprocess import prepare

    named = named_images(pixels.size, images, seed)
    inputs = tuple(ProbeInput(name, prepare([image], pixels).numpy(), image) for name, image in named)
    return inputs, () if images else (NO_PHOTO,)


OriginalPixels = Callable[[Sequence[Image]], list[Array]]
"""From images as ``ssd_ref.image_file`` reads them (BGR uint8) to tensors (3, height, width)."""
ROUNDING = 0.01
ONE_LEVEL = 1.01
OFTEN = 1e-4
"""Share of values that may fall on the other side of a half."""


def differing_pixels(
    prepared: Sequence[tuple[str, Array]], original: Sequence[Array], pixels: Preprocess
) -> tuple[str, tuple[str, ...]]:
    """What was compared, in words, and the inputs that differ by more than rounding.

    Args:
        prepared: (input's name, (1, C, height, width)) as prepared here.
        original: the same images as the project's code prepares them.
        pixels: the units.
    """
    worst, bad = 0.0, []
    level = np.array([pixels.scale / (pixels.unit * s) for s in pixels.std], np.float64).reshape(-1, 1, 1)
    for (name, mine), theirs in zip(prepared, original, strict=True):
        if mine[0].shape != theirs.shape:
            bad.append(f"{name}: {mine[0].shape} instead of {theirs.shape}")
            continue
        off = np.abs(mine[0].astype(np.float64) - theirs.astype(np.float64)) / level
        often = float((off > ROUNDING).mean())
        worst = max(worst, float(off.max()))
        if not off.max() <= ONE_LEVEL or often > OFTEN:
            bad.append(f"{name}: up to {off.max():.3g} levels off, {often:.1%} of the values by more than rounding")
    return f"{len(prepared)} inputs, at most {worst:.1e} of a level off", tuple(bad)
