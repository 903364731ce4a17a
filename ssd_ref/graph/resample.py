"""Maps of another size: Crop, Interp (bilinear, corners aligned) and Upsample (nearest); Keras' padding, cropping and upsampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdconv.ssd_ref.graph.operation import Operation, ParamMessage, Result, Shape, Shapes, operation
from ssdconv.ssd_ref.graph.windows import edges, pair

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import functional as F
else:
    from ssdconv.ssd_ref.graph.operation import F


@operation("Crop", message=ParamMessage("crop_param", 144, "axis:i32=1 offset:u32*=2", {"axis": 2}))
class Crop(Operation):
    """The first blob cut to the size of the second from ``axis`` (2 by default) on, starting at ``offset``."""

    def shapes(self, bottoms: Shapes) -> Result:
        self.count(bottoms, 2)
        return (tuple(stop - start for start, stop in self._ranges(*bottoms)),), ()

    def run(self, x: Tensor, like: Tensor) -> Tensor:
        return x[tuple(slice(start, stop) for start, stop in self._ranges(tuple(x.shape), tuple(like.shape)))]

    def _ranges(self, shape: Shape, like: Shape) -> tuple[tuple[int, int], ...]:
        """Per axis the (start, stop) that is kept; axes before ``axis`` stay whole."""
        p, axis = self.p, self.p.axis("axis", None, len(shape))
        offsets = p.integers("offset")
        count = len(shape) - axis
        if len(offsets) not in (0, 1, count) or len(like) != len(shape):
            raise p.fail("offsets or blobs do not fit", expected=f"0, 1 or {count} offsets", got=offsets)
        full = offsets if len(offsets) == count else (offsets or (0,)) * count
        ranges = [(0, side) for side in shape[:axis]]
        for start, side, whole in zip(full, like[axis:], shape[axis:], strict=True):
            if start + side > whole:
                raise p.fail("the crop leaves the blob", expected=f"within {whole}", got=f"{start}..{start + side}")
            ranges.append((start, start + side))
        return tuple(ranges)


@operation(
    "Interp",
    message=ParamMessage(
        "interp_param",
        2143,
        "height:i32=1 width:i32=2 zoom_factor:i32=3 shrink_factor:i32=4 pad_beg:i32=5 pad_end:i32=6",
        {"pad_beg": 0, "pad_end": 0},
        elsewhere=frozenset({143}),
    ),
)
class Interp(Operation):
    """Bilinear resize in which first and last pixels stay put (interp_layer.cpp of DeepLab's Caffe).

    ``pad_beg`` and ``pad_end`` are zero or negative: that many rows and columns are cut off first.
    """

    def shapes(self, bottoms: Shapes) -> Result:
        n, c, h, w = self.image(bottoms)
        return ((n, c, *self._size((h, w))),), ()

    def run(self, x: Tensor) -> Tensor:
        size = self._size((x.shape[2], x.shape[3]))
        begin, end = self._pads()
        inner = x[:, :, -begin : x.shape[2] + end, -begin : x.shape[3] + end]
        return F.interpolate(inner, size, mode="bilinear", align_corners=True)

    def _pads(self) -> tuple[int, int]:
        begin, end = (self.p.integer(name, low=-(2**31), high=0) for name in ("pad_beg", "pad_end"))
        return begin, end

    def _size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Output (height, width), from ``shrink_factor``, ``zoom_factor``, or ``height`` and ``width``."""
        p, cut = self.p, sum(self._pads())
        height, width = size[0] + cut, size[1] + cut
        if min(height, width) <= 0:
            raise p.fail("pad_beg and pad_end cut everything away", got=f"{cut} of {size}")
        shrink, zoom = p.integer("shrink_factor", 0, low=1), p.integer("zoom_factor", 0, low=1)
        if "height" in p or "width" in p:
            if shrink or zoom:
                raise p.fail("height and width are given together with a factor")
            return p.integer("height", 0, low=1), p.integer("width", 0, low=1)
        if not shrink and not zoom:
            raise p.fail("no output size", expected="shrink_factor, zoom_factor, or height and width")
        if shrink:
            height, width = (height - 1) // shrink + 1, (width - 1) // shrink + 1
        if zoom:
            height, width = height + (height - 1) * (zoom - 1), width + (width - 1) * (zoom - 1)
        return height, width


@operation(
    "Upsample",
    message=ParamMessage(
        "upsample_param",
        149,
        """
            scale:i32=1 scale_h:i32=2 scale_w:i32=3 pad_out_h:b=4 pad_out_w:b=5 upsample_h:u32=6 upsample_w:u32=7
        """,
        {"scale": 1},
        elsewhere=frozenset({150, 160}),
    ),
)
class Upsample(Operation):
    """Every pixel repeated ``scale`` times in both directions; the unpooling form with a mask as second bottom is another layer."""

    def shapes(self, bottoms: Shapes) -> Result:
        n, c, h, w = self.image(bottoms)
        factor = self.p.integer("scale", low=1)
        return ((n, c, h * factor, w * factor),), ()

    def run(self, x: Tensor) -> Tensor:
        scale = self.p.integer("scale", low=1)
        return x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


@operation("ZeroPadding2D", family="keras")
class ZeroPadding2D(Operation):
    """Zeros around the map: ``padding`` is ((top, bottom), (left, right))."""

    def run(self, x: Tensor) -> Tensor:
        return F.pad(x, edges(self.p, "padding"))


@operation("Cropping2D", family="keras")
class Cropping2D(Operation):
    """The map without its edges: ``cropping`` is ((top, bottom), (left, right))."""

    def run(self, x: Tensor) -> Tensor:
        left, right, top, bottom = edges(self.p, "cropping")
        return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]


@operation("UpSampling2D", family="keras")
class UpSampling2D(Operation):
    """Every value ``size`` times in each direction (nearest)."""

    def run(self, x: Tensor) -> Tensor:
        rows, columns = pair(self.p, "size", (2, 2), low=1)
        return x.repeat_interleave(rows, 2).repeat_interleave(columns, 3)
