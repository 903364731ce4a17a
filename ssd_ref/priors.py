"""Prior boxes of all maps, in centre form and in corner form.

The arithmetic is that of Caffe's PriorBox layer: centres in float32, corners in double precision, one rounding to
float32 at the end (equal to the original Caffe to the last bit); ``PriorMap.arithmetic`` "double" is float64 throughout. Caffe's decoder takes widths and centres from these
float32 corners again, so the centre form is derived from the corners, except where the source clamps the centre form
itself (``PriorMap.clip`` "centers").

Order: maps, then rows, then columns, then the priors of a cell. Coordinates are fractions of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.boxes import Code, to_centers, to_corners
from ssdconv.ssd_ref.config import PriorMap

_F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Priors:
    """Priors of a network as tensors of one dtype on one device.

    Attributes:
        centers: (P, 4) cx, cy, w, h, fractions of the image.
        corners: (P, 4) xmin, ymin, xmax, ymax, fractions of the image.
        variances: (P, 4), one per coordinate of loc.
    """

    centers: Tensor
    corners: Tensor
    variances: Tensor

    @classmethod
    def of(
        cls,
        maps: Sequence[PriorMap],
        image_size: tuple[int, int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Priors:
        """Priors of ``maps`` (see ``prior_boxes``); equal arguments give the same object, so do not write to it."""
        return _cached(tuple(maps), tuple(image_size), dtype, torch.device(device or "cpu"))

    @classmethod
    def from_corners(cls, corners: Tensor, variances: Tensor) -> Priors:
        """Priors given as Caffe's ``mbox_priorbox`` blob has them: corners (P, 4) and variances (P, 4)."""
        return cls(to_centers(corners), corners, variances)

    def form(self, code: Code) -> Tensor:
        """The form (P, 4) that ``boxes.decode`` needs for this code."""
        return self.centers if code == "center_size" else self.corners

    def rows(self) -> Tensor:
        """(1, 2, 4 P): all corners, then all variances, as Caffe's ``mbox_priorbox`` blob has them."""
        return torch.stack([self.corners.flatten(), self.variances.flatten()])[None]

    def __len__(self) -> int:
        return len(self.centers)


def prior_boxes(
    maps: Sequence[PriorMap],
    image_size: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """All priors as (P, 4) cx, cy, w, h, fractions of the image.

    Args:
        maps: in forward order.
        image_size: input height and width in pixels.
        dtype: priors are float32 constants of the network; in float64 only the last step, corners to centre form, is
            done in float64.

    Raises:
        FormatError: no maps, or an image size that is not positive.
    """
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    parts = []
    for entry in _checked(maps, image_size):
        if _double(entry):
            parts.append(torch.from_numpy(_centers_of(_double_corners(entry, image_size)).astype(np.float32)).to(exact))
        elif entry.clip == "centers":
            parts.append(torch.from_numpy(_clamped_centers(entry, image_size)).to(exact))
        else:
            parts.append(to_centers(torch.from_numpy(_corners(entry, image_size)).to(exact)))
    return torch.cat(parts).to(device=device, dtype=dtype)


def prior_corners(
    maps: Sequence[PriorMap],
    image_size: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """All priors as (P, 4) xmin, ymin, xmax, ymax, fractions of the image: what Caffe's PriorBox layer outputs.

    Arguments and errors as in ``prior_boxes``.
    """
    parts = []
    for entry in _checked(maps, image_size):
        if _double(entry):
            parts.append(torch.from_numpy(_double_corners(entry, image_size).astype(np.float32)))
        elif entry.clip == "centers":
            parts.append(to_corners(torch.from_numpy(_clamped_centers(entry, image_size))))
        else:
            parts.append(torch.from_numpy(_corners(entry, image_size)))
    return torch.cat(parts).to(device=device, dtype=dtype)


def prior_variances(
    maps: Sequence[PriorMap], dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """Variances of all priors, (P, 4): float32 values, as Caffe holds them, whatever the dtype."""
    rows = [torch.tensor(entry.variances, dtype=torch.float32).expand(entry.count, 4) for entry in maps]
    if not rows:
        raise FormatError("the network has no priors")
    return torch.cat(rows).to(device=device, dtype=dtype)


def _grid(entry: PriorMap) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """cx (1, cols, 1), cy (rows, 1, 1), width and height (cells,) in pixels: float32 values held in float64."""
    rows, cols = (
        np.arange(n, dtype=np.float32) + np.float32(o) for n, o in zip(entry.grid, entry.offsets, strict=True)
    )
    step_y, step_x = (np.float32(step) for step in entry.step)
    sizes = np.asarray(entry.box_sizes, np.float32).astype(np.float64)
    cx = (cols * step_x).astype(np.float64)[None, :, None]
    cy = (rows * step_y).astype(np.float64)[:, None, None]
    return cx, cy, sizes[:, 0], sizes[:, 1]


def _corners(entry: PriorMap, image_size: tuple[int, int]) -> _F32:
    cx, cy, width, height = _grid(entry)
    rows, columns = entry.image or image_size
    out = np.empty((*entry.grid, len(entry.box_sizes), 4), np.float32)
    out[..., 0] = (cx - width / 2) / columns
    out[..., 1] = (cy - height / 2) / rows
    out[..., 2] = (cx + width / 2) / columns
    out[..., 3] = (cy + height / 2) / rows
    if entry.clip == "corners":
        np.clip(out, 0, 1, out=out)
    return out.reshape(-1, 4)


def _double(entry: PriorMap) -> bool:
    return entry.arithmetic == "double" or entry.clip == "pixels"


def _double_corners(entry: PriorMap, image_size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """(P, 4) corners in float64, in the order of NumPy code: centres by ``linspace``, corners and clipping in pixels."""
    out = np.empty((*entry.grid, len(entry.box_sizes), 4))
    half = np.asarray(entry.box_sizes, np.float64) / 2.0
    for axis in (1, 0):
        count, step, offset = entry.grid[axis], entry.step[axis], entry.offsets[axis]
        line = np.linspace(offset * step, (offset + count - 1) * step, count)
        centre = line[None, :, None] if axis else line[:, None, None]
        out[..., 1 - axis] = centre - half[:, 1 - axis]
        out[..., 3 - axis] = centre + half[:, 1 - axis]
    sides = np.asarray((entry.image or image_size)[::-1], np.float64)
    if entry.clip == "pixels":
        last = np.tile(sides, 2)
        out = np.where(out >= last, last - 1, np.maximum(out, 0.0))
    out /= np.tile(sides, 2)
    if entry.clip == "corners":
        np.clip(out, 0, 1, out=out)
    elif entry.clip == "centers":
        out = to_corners(torch.from_numpy(np.clip(_centers_of(out), 0, 1))).numpy()
    return out.reshape(-1, 4)


def _centers_of(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    low, high = corners[..., :2], corners[..., 2:]
    return np.concatenate([(low + high) / 2.0, high - low], axis=-1)


def _clamped_centers(entry: PriorMap, image_size: tuple[int, int]) -> _F32:
    cx, cy, width, height = _grid(entry)
    rows, columns = entry.image or image_size
    out = np.empty((*entry.grid, len(entry.box_sizes), 4), np.float32)
    out[..., 0] = cx / columns
    out[..., 1] = cy / rows
    out[..., 2] = width / columns
    out[..., 3] = height / rows
    return np.clip(out, 0, 1).reshape(-1, 4)


def _checked(maps: Sequence[PriorMap], image_size: tuple[int, int]) -> Sequence[PriorMap]:
    if not maps:
        raise FormatError("the network has no priors")
    if min(image_size) <= 0:
        raise FormatError("the image size must be positive", got=image_size)
    return maps


@lru_cache(maxsize=16)
def _cached(
    maps: tuple[PriorMap, ...], image_size: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Priors:
    with torch.inference_mode(False):  # a cached inference tensor would break a later training step
        return Priors(
            prior_boxes(maps, image_size, dtype, device),
            prior_corners(maps, image_size, dtype, device),
            prior_variances(maps, dtype, device),
        )
