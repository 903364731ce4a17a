"""Each resize rule against the library it stands for, and TensorFlow 1's against values worked out by hand."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image as Pillow

from ssdconv.errors import MissingError
from ssdconv.ssd_ref.resize import mxnet_interpolation, resize

Image = npt.NDArray[np.uint8]
SIZES = [((375, 500), (300, 300)), ((375, 500), (512, 512)), ((480, 640), (512, 512)), ((20, 31), (64, 7))]


def noise(height: int, width: int) -> Image:
    """Smooth colours with noise on top, (height, width, 3)."""
    rng = np.random.default_rng(height * 1000 + width)
    smooth = cv2.resize(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth.astype(np.int64) + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_opencv(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = noise(*source)
    exact = cv2.resize(image, target[::-1], interpolation=cv2.INTER_LINEAR)
    ours = resize(image, target, "opencv_linear")
    assert ours.dtype == np.uint8 and ours.shape == (*target, 3)
    np.testing.assert_array_equal(ours, exact)
    floating = resize(image, target, "opencv_linear_float")
    assert floating.dtype == np.float32
    assert 0 < np.abs(floating - exact).max() <= 1.5  # not rounded to bytes, else the same picture
    assert (floating % 1 != 0).any()


@pytest.mark.parametrize(
    ("source", "target", "code"),
    [
        ((375, 500), (300, 300), cv2.INTER_AREA),  # both sides shrink
        ((375, 500), (512, 512), cv2.INTER_CUBIC),  # both grow
        ((480, 640), (512, 512), cv2.INTER_LINEAR),  # one each
        ((375, 200), (300, 300), cv2.INTER_LINEAR),
        ((200, 375), (300, 300), cv2.INTER_LINEAR),
        ((300, 500), (300, 300), cv2.INTER_LINEAR),  # an equal side neither grows nor shrinks
        ((300, 200), (300, 300), cv2.INTER_LINEAR),
        ((300, 300), (300, 300), cv2.INTER_LINEAR),
    ],
)
def test_mxnet_chooses_by_both_sides(source: tuple[int, int], target: tuple[int, int], code: int) -> None:
    assert mxnet_interpolation(source, target) == code
    image = noise(*source)
    before = cv2.ipp.useIPP()
    ours = resize(image, target, "mxnet_9")
    assert cv2.ipp.useIPP() == before
    try:
        cv2.ipp.setUseIPP(False)  # MXNet's OpenCV is built without Intel's library
        exact = cv2.resize(image, target[::-1], interpolation=code)
    finally:
        cv2.ipp.setUseIPP(before)
    np.testing.assert_array_equal(ours, exact)


def test_tf1_by_hand() -> None:
    row = np.array([0, 10, 40], np.uint8).reshape(1, 3, 1).repeat(3, 2)
    # Three to six pixels, scale 1/2: source points 0, .5, 1, 1.5, 2, 2.5; the last lies past the end and stays there.
    assert resize(row, (1, 6), "tf1_bilinear")[0, :, 0].tolist() == [0, 5, 10, 25, 40, 40]
    # Three to two, scale 1.5: points 0 and 1.5. No antialiasing, no half-pixel shift (that would give .25 and 1.75).
    assert resize(row, (1, 2), "tf1_bilinear")[0, :, 0].tolist() == [0, 25]
    column = row.transpose(1, 0, 2)
    assert resize(column, (6, 1), "tf1_bilinear")[:, 0, 2].tolist() == [0, 5, 10, 25, 40, 40]


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_tf1_against_sampling_at_its_grid(source: tuple[int, int], target: tuple[int, int]) -> None:
    """torch's grid_sample at the points index * scale, past the end held at the border."""
    image = noise(*source)
    axes = [torch.arange(new, dtype=torch.float64) * (old / new) for old, new in zip(source, target, strict=True)]
    places = [axis.clamp(max=old - 1) / max(old - 1, 1) * 2 - 1 for axis, old in zip(axes, source, strict=True)]
    grid = torch.stack(torch.meshgrid(*places, indexing="ij")[::-1], -1)[None]
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    exact = torch.nn.functional.grid_sample(planes, grid, align_corners=True)[0].permute(1, 2, 0).numpy()
    ours = resize(image, target, "tf1_bilinear")
    assert ours.dtype == np.float32 and ours.shape == (*target, 3)
    np.testing.assert_allclose(ours, exact, rtol=0, atol=0.01)  # float32 source points: up to 640 * 2^-24 * contrast


def test_tf1_to_the_last_bit() -> None:
    """One pixel at a time in float32, in the kernel's order of operations."""
    image = noise(11, 13)
    f, size = np.float32, (7, 9)
    ours = resize(image, size, "tf1_bilinear")
    for y in range(size[0]):
        for x in range(size[1]):
            sy, sx = f(y) * (f(11) / f(7)), f(x) * (f(13) / f(9))
            top, left = math.floor(sy), math.floor(sx)
            down, right = min(top + 1, 10), min(left + 1, 12)
            dy, dx = sy - f(top), sx - f(left)
            pixels = image.astype(f)
            upper = pixels[top, left] + (pixels[top, right] - pixels[top, left]) * dx
            lower = pixels[down, left] + (pixels[down, right] - pixels[down, left]) * dx
            np.testing.assert_array_equal(ours[y, x], upper + (lower - upper) * dy)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_pillow(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = noise(*source)
    exact = Pillow.fromarray(image).resize(target[::-1], Pillow.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize(image, target, "pil_bilinear"), np.asarray(exact))
    if target == (300, 300):  # antialiasing makes another picture than OpenCV's
        assert (resize(image, target, "pil_bilinear") != resize(image, target, "opencv_linear")).mean() > 0.3


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(MissingError, match="pip install pillow"):
        resize(noise(4, 4), (2, 2), "pil_bilinear")


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_torch(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = noise(*source)
    planes = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    exact = torch.nn.functional.interpolate(planes, target, mode="bilinear", align_corners=False)[0]
    ours = resize(image, target, "torch_bilinear")
    np.testing.assert_array_equal(ours, exact.permute(1, 2, 0).numpy())
    floating = resize(image, target, "opencv_linear_float")  # the same rule by another library
    np.testing.assert_allclose(ours, floating, rtol=0, atol=0.05)
