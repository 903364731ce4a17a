"""Input tensors against OpenCV's and Pillow's own reading and arithmetic written out.

Each resize rule against the library it stands for, and TensorFlow 1's against values worked out by hand.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image as Pillow

from ssdconv.errors import FormatError, MissingError, UsageError
from ssdconv.ssd_ref.config import Preprocess
from ssdconv.ssd_ref.image_file import read_image
from ssdconv.ssd_ref.preprocess import as_bgr, mxnet_interpolation, normalise, prepare, resize

Image = npt.NDArray[np.uint8]
VOC = Preprocess((300, 300), "BGR", (104.0, 117.0, 123.0))
RESNET = Preprocess((40, 50), "RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), unit=255.0)


def picture(height: int = 60, width: int = 80) -> Image:
    """(height, width, 3) BGR: noise, with blue highest and red lowest on average."""
    rng = np.random.default_rng(1)
    return (rng.integers(0, 80, (height, width, 3)) + np.array([150, 80, 0])).astype(np.uint8)


def save(path: Path, image: Image, *options: int) -> Path:
    done, data = cv2.imencode(path.suffix, image, options)
    assert done
    path.write_bytes(data.tobytes())
    return path


@pytest.mark.shared
def test_photos_as_caffe_reads_them(shared: Path) -> None:
    paths = sorted((shared / "data/images").glob("*.jpg"))[:6]
    ours = prepare(paths, VOC)
    assert ours.shape == (6, 3, 300, 300) and ours.dtype == torch.float32 and ours.is_contiguous()
    for tensor, path in zip(ours, paths, strict=True):
        blob = cv2.dnn.blobFromImage(cv2.imread(str(path)), 1.0, (300, 300), (104, 117, 123), swapRB=False)
        np.testing.assert_array_equal(tensor.numpy(), blob[0])


@pytest.mark.shared
def test_photos_through_pillow(shared: Path) -> None:
    """RGB with Pillow's resize; files decoded by Pillow differ from OpenCV's by a level here and there at most."""
    path = shared / "data/images/000001.jpg"
    rule = Preprocess((300, 300), "RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), resize="pil_bilinear")
    image = Pillow.open(path)
    warped = np.asarray(image.resize((300, 300), Pillow.Resampling.BILINEAR)).astype(np.float32)
    exact = (warped - np.array(rule.mean, np.float32)) / np.array(rule.std, np.float32)
    np.testing.assert_array_equal(prepare(image, rule)[0].numpy(), exact.transpose(2, 0, 1))
    np.testing.assert_allclose(prepare(path, rule)[0].numpy(), exact.transpose(2, 0, 1), rtol=0, atol=0.1)


def test_order_of_operations() -> None:
    x = picture()[:40, :50]
    exact = (x[..., ::-1].astype(np.float32) / np.float32(255) - np.array(RESNET.mean, np.float32)) / np.array(
        RESNET.std, np.float32
    )
    np.testing.assert_array_equal(prepare(x, RESNET)[0].numpy(), exact.transpose(2, 0, 1))
    scaled = Preprocess((40, 50), "BGR", (127.5, 127.5, 127.5), scale=0.007843)
    exact = (x.astype(np.float32) - np.float32(127.5)) * np.float32(0.007843)
    np.testing.assert_array_equal(prepare(x, scaled)[0].numpy(), exact.transpose(2, 0, 1))
    assert normalise(x, Preprocess((40, 50))).tolist() == x.tolist()


def test_channel_orders() -> None:
    image = picture()
    bgr, rgb = Preprocess((60, 80), "BGR"), Preprocess((60, 80), "RGB")
    assert prepare(image, bgr).mean((0, 2, 3)).argsort().tolist() == [2, 1, 0]  # arrays are BGR: blue is highest
    assert torch.equal(prepare(image, rgb), prepare(image, bgr).flip(1))
    assert torch.equal(prepare(image[..., ::-1], bgr, array_order="RGB"), prepare(image, bgr))
    assert torch.equal(prepare(Pillow.fromarray(image[..., ::-1].copy()), bgr), prepare(image, bgr))


def test_one_or_several_images(tmp_path: Path) -> None:
    image, path = picture(), save(tmp_path / "p.png", picture())
    rule = Preprocess((30, 40))
    one = prepare(image, rule)
    assert one.shape == (1, 3, 30, 40)
    mixed = prepare([image, path, str(path), Pillow.open(path)], rule)
    assert mixed.shape == (4, 3, 30, 40) and all(torch.equal(x, one[0]) for x in mixed)
    assert torch.equal(prepare(np.stack([image, image]), rule), mixed[:2])
    assert torch.equal(prepare(path, rule), one)
    assert torch.equal(prepare((x for x in [image]), rule), one)
    assert prepare([], rule).shape == (0, 3, 30, 40)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".webp", ".tiff"])
def test_formats_and_grey(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"colour{suffix}", picture())
    np.testing.assert_array_equal(read_image(path), cv2.imread(str(path)))
    grey = read_image(save(tmp_path / f"grey{suffix}", picture()[..., 1]))
    assert grey.shape == (60, 80, 3) and (grey == grey[..., :1]).all()


def test_alpha_is_dropped_and_16_bit_is_cut(tmp_path: Path) -> None:
    image = picture()
    alpha = np.dstack([image, np.full((60, 80), 7, np.uint8)])
    np.testing.assert_array_equal(read_image(save(tmp_path / "alpha.png", alpha)), image)
    deep = save(tmp_path / "deep.png", image.astype(np.uint16) * 256 + 255)  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_image(deep), image)
    with_alpha = Pillow.open(tmp_path / "alpha.png")
    assert with_alpha.mode == "RGBA"
    np.testing.assert_array_equal(as_bgr(with_alpha), image)


def test_cmyk_file_is_read_as_opencv_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "cmyk.jpg"
    Pillow.fromarray(picture()[..., ::-1].copy()).convert("CMYK").save(path, quality=100)
    image = read_image(path)
    assert image.shape == (60, 80, 3)
    assert np.abs(image.astype(int) - picture()).mean() < 12  # the picture itself, not its negative


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    image = Pillow.fromarray(picture()[..., ::-1].copy())
    exif = image.getexif()
    exif[0x0112] = 6  # a viewer turns it a quarter clockwise
    image.save(path, exif=exif, quality=95)
    assert read_image(path).shape == (80, 60, 3)


def test_file_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nowhere\.jpg: no such image file"):
        prepare(tmp_path / "nowhere.jpg", VOC)
    for name, data in {
        "empty.jpg": b"",
        "page.jpg": b"<!DOCTYPE html><html><body>Quota exceeded</body></html>",
        "zeros.png": bytes(1000),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FormatError, match=rf"{name}: not an image"):
            read_image(tmp_path / name)
    with pytest.raises(FormatError, match="cannot be read"):
        read_image(tmp_path)  # a folder


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_cut_short(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"whole{suffix}", picture())
    data = path.read_bytes()
    for length in (len(data) - 1, len(data) * 2 // 3, 40, 3):
        path.write_bytes(data[:length])
        with pytest.raises(FormatError, match="not an image that OpenCV can read, or cut short"):
            read_image(path)


def test_a_png_that_claims_to_be_huge(tmp_path: Path) -> None:
    path = save(tmp_path / "huge.png", picture())
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    path.write_bytes(data)
    with pytest.raises(FormatError):
        read_image(path)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_that_are_no_images(array: npt.NDArray[np.generic]) -> None:
    with pytest.raises(UsageError, match=r"uint8 \(H, W, 3\) in BGR"):
        prepare([array], VOC)  # type: ignore[list-item]


def test_grey_arrays() -> None:
    grey = picture()[..., 0]
    np.testing.assert_array_equal(as_bgr(grey), np.dstack([grey] * 3))
    np.testing.assert_array_equal(as_bgr(grey[..., None]), np.dstack([grey] * 3))


def test_pil_modes(tmp_path: Path) -> None:
    colour = Pillow.fromarray(picture()[..., ::-1].copy())
    grey = colour.convert("L")
    np.testing.assert_array_equal(as_bgr(grey), np.dstack([np.asarray(grey)] * 3))
    palette = colour.convert("P")
    np.testing.assert_array_equal(as_bgr(palette), np.asarray(palette.convert("RGB"))[..., ::-1])
    for mode in ("CMYK", "I", "F", "I;16", "LAB"):
        with pytest.raises(FormatError, match=f"mode {mode} has no single meaning"):
            as_bgr(Pillow.new(mode, (4, 4)))
    path = save(tmp_path / "cut.png", picture())
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(FormatError, match="cannot decode"):
        as_bgr(Pillow.open(path))


def test_not_an_image_at_all() -> None:
    with pytest.raises(UsageError, match="got int"):
        prepare([3], VOC)  # type: ignore[list-item]


@pytest.mark.parametrize("rule", [{"mean": (0.0, 0.0, 5.0)}, {"std": (1.0, 1.0, 2.0)}])
def test_a_mean_or_deviation_of_one_channel_alone_counts(rule: dict[str, tuple[float, float, float]]) -> None:
    out = normalise(np.full((1, 1, 3), 10, np.uint8), Preprocess((1, 1), "BGR", **rule))
    assert out.tolist() == [[[10.0, 10.0, 5.0]]]


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
