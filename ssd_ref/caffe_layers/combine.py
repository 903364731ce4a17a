"""Layers that join, repeat or part blobs: Eltwise, Concat, Tile, Slice, Split, Crop, Silence."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from ssdconv.ssd_ref.caffe_layers.registry import CaffeLayer, layer
from ssdconv.ssd_ref.caffe_layers.views import crop_ranges, joined_axis, slice_sizes
from ssdconv.ssd_ref.config import LayerSpec


@layer("Eltwise")
class Eltwise(CaffeLayer):
    """PROD, SUM (weighted by ``coeff``) or MAX of blobs of one shape."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.operation = self.p.choice("operation", "SUM", ("PROD", "SUM", "MAX"))
        self.coefficients = self.p.numbers("coeff") or (1.0,) * self.bottoms

    def forward(self, *blobs: Tensor) -> Tensor:
        if self.operation == "PROD":
            return reduce(torch.mul, blobs)
        if self.operation == "MAX":
            return reduce(torch.maximum, blobs)
        terms = [b if c == 1.0 else b * c for b, c in zip(blobs, self.coefficients, strict=True)]
        return reduce(torch.add, terms)


@layer("Concat")
class Concat(CaffeLayer):
    """Blobs one after another along ``axis`` (1 by default; negative counts from the back)."""

    def forward(self, *blobs: Tensor) -> Tensor:
        return torch.cat(blobs, joined_axis(self.p, "concat_dim", blobs[0].dim()))


@layer("Tile")
class Tile(CaffeLayer):
    """A blob ``tiles`` times one after another along ``axis`` (1 by default)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x] * self.p.integer("tiles", 0, low=1), self.p.axis("axis", 1, x.dim()))


@layer("Slice")
class Slice(CaffeLayer):
    """One blob in pieces along ``axis``, cut at the ``slice_point`` values or into equal parts."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        axis = joined_axis(self.p, "slice_dim", x.dim())
        return torch.split(x, list(slice_sizes(self.p, x.shape[axis], self.tops)), axis)


@layer("Split")
class Split(CaffeLayer):
    """The same blob under several names."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,) * self.tops


@layer("Crop")
class Crop(CaffeLayer):
    """The first blob cut to the size of the second from ``axis`` (2 by default) on, starting at ``offset``."""

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        ranges = crop_ranges(self.p, tuple(x.shape), tuple(like.shape))
        return x[tuple(slice(start, stop) for start, stop in ranges)]


@layer("Silence")
class Silence(CaffeLayer):
    """Reads blobs and gives nothing."""

    def forward(self, *blobs: Tensor) -> tuple[Tensor, ...]:
        return ()
