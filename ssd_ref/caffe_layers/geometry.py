"""Caffe's output sizes, one axis at a time, in whole pixels.

Sources: conv_layer.cpp, deconv_layer.cpp, pooling_layer.cpp of Caffe; interp_layer.cpp of DeepLab's Caffe.
"""

from __future__ import annotations

from ssdconv.ssd_ref.caffe_layers.params import Params


def conv_size(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """Output size of a convolution; 0 or less when the image is too small.

    C++ division rounds towards zero: an image that is too small by less than one stride still gives one pixel, and
    the missing rows count as zeros.
    """
    room = size + 2 * pad - (dilation * (kernel - 1) + 1)
    return (room // stride if room >= 0 else -(-room // stride)) + 1


def deconv_size(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """Output size of a deconvolution; 0 or less when the padding eats everything."""
    return stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * pad


def pool_size(size: int, kernel: int, stride: int, pad: int, *, clip: bool, floor: bool = False) -> int:
    """Output size of a pooling: rounded up, and without a last window that would start behind image and padding.

    Args:
        clip: whether either axis is padded; only then does Caffe take away that last window.
        floor: ``round_mode: FLOOR`` of later Caffes.
    """
    room = size + 2 * pad - kernel
    out = (room // stride if floor else -(-room // stride)) + 1
    return out - 1 if clip and (out - 1) * stride >= size + pad else out


def pool_sizes(p: Params, size: tuple[int, int], window: tuple[tuple[int, ...], ...]) -> tuple[int, int]:
    """Output (height, width) of a Pooling layer with ``window`` = (kernel, stride, pad)."""
    kernel, stride, pad = window
    floor = p.choice("round_mode", "CEIL", ("CEIL", "FLOOR")) == "FLOOR" or not p.flag("ceil_mode", True)
    clip = any(pad)
    height, width = (pool_size(size[i], kernel[i], stride[i], pad[i], clip=clip, floor=floor) for i in (0, 1))
    return height, width


def interp_size(p: Params, size: tuple[int, int]) -> tuple[int, int]:
    """Output (height, width) of an Interp layer, from ``shrink_factor``, ``zoom_factor``, or ``height`` and ``width``.

    ``pad_beg`` and ``pad_end`` are zero or negative: that many rows and columns are cut off first.
    """
    cut = p.integer("pad_beg", 0, low=-(2**31), high=0) + p.integer("pad_end", 0, low=-(2**31), high=0)
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
