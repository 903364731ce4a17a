"""Reshape, Flatten, Permute and Softmax: the layers between head convolutions and detections."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdconv.ssd_ref.caffe_layers.registry import CaffeLayer, layer
from ssdconv.ssd_ref.caffe_layers.views import flatten_to, permute_order, reshape_to


@layer("Reshape")
class Reshape(CaffeLayer):
    """Same values in row-major order, other axes: dim 0 copies an axis, -1 takes the rest.

    A leading ``dim: 1`` is the batch of a deploy net; a larger batch keeps its items apart.
    """

    def forward(self, x: Tensor) -> Tensor:
        one = reshape_to(self.p, (1, *x.shape[1:])) if x.dim() and x.shape[0] != 1 and self._fixes_batch() else None
        if one is not None and one[0] == 1:
            return x.reshape(x.shape[0], *one[1:])
        return x.reshape(reshape_to(self.p, tuple(x.shape)))

    def _fixes_batch(self) -> bool:
        dims = self.p.message("shape").integers("dim", low=-1)
        return self.p.integer("axis", 0, low=-99) == 0 and dims[:1] == (1,)


@layer("Flatten")
class Flatten(CaffeLayer):
    """Axes ``axis`` (1) to ``end_axis`` (-1) as one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(flatten_to(self.p, tuple(x.shape)))


@layer("Permute")
class Permute(CaffeLayer):
    """Axes reordered: new axis i is old axis ``order[i]``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(permute_order(self.p, x.dim()))


@layer("Softmax")
class Softmax(CaffeLayer):
    """Softmax along ``axis`` (1 by default), stable against large values."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, self.p.axis("axis", 1, x.dim()))
