"""One shape rule per supported Caffe layer type; importing this module fills ``shapes.RULES``."""

from __future__ import annotations

from math import prod

from ssdconv.converters.caffe.shapes import Shape, Shapes, rule
from ssdconv.ssd_ref.caffe_layers.geometry import conv_size, deconv_size, interp_size, pool_sizes
from ssdconv.ssd_ref.caffe_layers.names import DEPTHWISE
from ssdconv.ssd_ref.caffe_layers.params import Params, conv_window, pool_window
from ssdconv.ssd_ref.caffe_layers.views import (
    argmax_to,
    crop_ranges,
    flatten_to,
    joined_axis,
    permute_order,
    reshape_to,
    slice_sizes,
)
from ssdconv.ssd_ref.config import LayerSpec

Result = tuple[Shapes, Shapes]
MAX_SIDES = 3
"""Axes that a convolution slides along."""


def _count(p: Params, bottoms: Shapes, low: int, high: int | None = None) -> None:
    top = low if high is None else high
    if not low <= len(bottoms) <= top:
        raise p.fail("wrong number of bottoms", expected=low if low == top else f"{low}..{top}", got=len(bottoms))


def _image(p: Params, bottoms: Shapes) -> tuple[int, int, int, int]:
    _count(p, bottoms, 1)
    if len(bottoms[0]) != 4:
        raise p.fail("needs images", expected="(N, C, H, W)", got=bottoms[0])
    n, c, h, w = bottoms[0]
    return n, c, h, w


def _legacy(p: Params, shape: Shape) -> Shape:
    """A shape as Caffe's older layers see it: four axes, those that are missing at the end of length 1."""
    if len(shape) > 4:
        raise p.fail("takes at most four axes", got=shape)
    return shape + (1,) * (4 - len(shape))


@rule("Convolution", "Deconvolution", *DEPTHWISE)
def convolution(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """Weight (out, C / group, kh, kw), for Deconvolution (C, out / group, kh, kw); bias (out,). A top for every bottom."""
    _count(p, bottoms, 1, 10**6)
    x = bottoms[0]
    if len(set(bottoms)) != 1:
        raise p.fail("the bottoms have different shapes", expected=x, got=bottoms[1:])
    axis = p.axis("axis", 1, len(x))
    before, c, sides = x[:axis], x[axis], x[axis + 1 :]
    if len(sides) > MAX_SIDES or (spec.type in DEPTHWISE and (axis, len(x)) != (1, 4)):
        raise p.fail("convolution over these axes is not supported", expected=f"at most {MAX_SIDES} of them", got=x)
    out, window = p.integer("num_output", 0, low=1), conv_window(p, len(sides))
    if out < 1:
        raise p.fail("num_output is missing")
    group = p.integer("group", c if spec.type in DEPTHWISE else 1, low=1)
    if c % group or out % group or (spec.type in DEPTHWISE and group != c):
        raise p.fail("group does not divide the channels", got=f"group {group}, {c} channels in, {out} out")
    back = spec.type == "Deconvolution"
    size = deconv_size if back else conv_size
    top = (
        *before,
        out,
        *(
            size(side, window.kernel[i], window.stride[i], window.pad[i], window.dilation[i])
            for i, side in enumerate(sides)
        ),
    )
    weight = (c, out // group, *window.kernel) if back else (out, c // group, *window.kernel)
    return (top,) * len(bottoms), (weight, (out,)) if p.flag("bias_term", True) else (weight,)


@rule("Pooling")
def pooling(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """Rounded up; see ``geometry.pool_size``. A second top of MAX holds places."""
    n, c, h, w = _image(p, bottoms)
    maximum = p.choice("pool", "MAX", ("MAX", "AVE")) == "MAX"
    window = pool_window(p, (h, w))
    top = (n, c, *pool_sizes(p, (h, w), (window.kernel, window.stride, window.pad)))
    return (top,) * (2 if maximum and len(spec.tops) == 2 else 1), ()


@rule("BatchNorm")
def batch_norm(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """Mean (C,), variance (C,), factor (1,)."""
    _count(p, bottoms, 1)
    p.number("eps", 1e-5)
    channels = bottoms[0][1] if len(bottoms[0]) > 1 else 1
    return bottoms, ((channels,), (channels,), (1,))


@rule("Normalize")
def normalize(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """Scale per channel (C,), or one for all ()."""
    _count(p, bottoms, 1)
    if len(bottoms[0]) < 2:
        raise p.fail("needs a channel axis", got=bottoms[0])
    _, c, _, _ = _legacy(p, bottoms[0])
    p.flag("across_spatial", True)
    return bottoms, ((() if p.flag("channel_shared", True) else (c,)),)


@rule("PReLU")
def prelu(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """Slope per channel (C,), or one for all ()."""
    _count(p, bottoms, 1)
    if len(bottoms[0]) < 2:
        raise p.fail("needs a channel axis", got=bottoms[0])
    return bottoms, ((() if p.flag("channel_shared", False) else (bottoms[0][1],)),)


@rule("Scale", "Bias")
def scale(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """One bottom: the axes ``axis`` .. ``axis + num_axes``; two bottoms: the second one's shape, no learned factor."""
    _count(p, bottoms, 1, 2)
    x = bottoms[0]
    if len(bottoms) == 2:
        axis = p.axis("axis", 1, len(x)) if bottoms[1] else 0
        shape = bottoms[1]
        if x[axis : axis + len(shape)] != shape:
            raise p.fail("the bottoms do not fit each other", expected=x[axis : axis + len(shape)], got=shape)
    else:
        axis, axes = p.axis("axis", 1, len(x)), p.integer("num_axes", 1, low=-1)
        end = len(x) if axes == -1 else axis + axes
        if end > len(x):
            raise p.fail("num_axes leaves the blob", expected=f"within {len(x)} axes", got=axes)
        shape = x[axis:end]
    learned = len(bottoms) == 1
    biased = spec.type == "Scale" and p.flag("bias_term", False)
    return (x,), (shape,) * (int(learned) + int(biased))


@rule("InnerProduct")
def inner_product(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """Weight (out, K), transposed (K, out); bias (out,)."""
    _count(p, bottoms, 1)
    x = bottoms[0]
    axis, out = p.axis("axis", 1, len(x)), p.integer("num_output", 0, low=1)
    if out < 1:
        raise p.fail("num_output is missing")
    weight = (out, prod(x[axis:]))
    weight = weight[::-1] if p.flag("transpose", False) else weight
    return ((*x[:axis], out),), (weight, (out,)) if p.flag("bias_term", True) else (weight,)


@rule("Eltwise")
def eltwise(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """All bottoms have one shape."""
    _count(p, bottoms, 2, 10**6)
    coefficients, operation = p.numbers("coeff"), p.choice("operation", "SUM", ("PROD", "SUM", "MAX"))
    if coefficients and (len(coefficients) != len(bottoms) or operation == "PROD"):
        raise p.fail("coeff needs SUM and one value per bottom", got=f"{operation} with {coefficients}")
    if len(set(bottoms)) != 1:
        raise p.fail("the bottoms have different shapes", expected=bottoms[0], got=bottoms[1:])
    return bottoms[:1], ()


@rule("Concat")
def concat(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """Shapes are equal but for the joined axis."""
    _count(p, bottoms, 1, 10**6)
    first = bottoms[0]
    axis = joined_axis(p, "concat_dim", len(first))
    rest = {(len(b), b[:axis], b[axis + 1 :]) for b in bottoms}
    if len(rest) != 1:
        raise p.fail(f"the bottoms differ beyond axis {axis}", got=bottoms)
    return ((*first[:axis], sum(b[axis] for b in bottoms), *first[axis + 1 :]),), ()


@rule("Slice")
def slices(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """One top per piece."""
    _count(p, bottoms, 1)
    x = bottoms[0]
    axis = joined_axis(p, "slice_dim", len(x))
    return tuple((*x[:axis], size, *x[axis + 1 :]) for size in slice_sizes(p, x[axis], len(spec.tops))), ()


@rule("Split")
def split(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """Every top is the bottom."""
    _count(p, bottoms, 1)
    return bottoms * len(spec.tops), ()


@rule("Silence")
def silence(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """No tops."""
    return (), ()


@rule("Crop")
def crop(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """The second bottom's size from ``axis`` on."""
    _count(p, bottoms, 2)
    return (tuple(stop - start for start, stop in crop_ranges(p, *bottoms)),), ()


@rule("Reshape")
def reshape(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """See ``views.reshape_to``."""
    _count(p, bottoms, 1)
    return (reshape_to(p, bottoms[0]),), ()


@rule("Flatten")
def flatten(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """See ``views.flatten_to``."""
    _count(p, bottoms, 1)
    return (flatten_to(p, bottoms[0]),), ()


@rule("Permute")
def permute(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """See ``views.permute_order``."""
    _count(p, bottoms, 1)
    return (tuple(bottoms[0][axis] for axis in permute_order(p, len(bottoms[0]))),), ()


@rule("Softmax")
def softmax(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """The axis must exist."""
    _count(p, bottoms, 1)
    p.axis("axis", 1, len(bottoms[0]))
    return bottoms, ()


@rule("Reduction")
def reduction(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """The axes before ``axis``."""
    _count(p, bottoms, 1)
    p.choice("operation", "SUM", ("SUM", "ASUM", "SUMSQ", "MEAN"))
    p.number("coeff", 1.0)
    return (bottoms[0][: p.axis("axis", 0, len(bottoms[0]))],), ()


@rule("Tile")
def tile(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """``tiles`` times as long along ``axis``."""
    _count(p, bottoms, 1)
    x, tiles = bottoms[0], p.integer("tiles", 0, low=1)
    axis = p.axis("axis", 1, len(x))
    if not tiles:
        raise p.fail("tiles is missing")
    return ((*x[:axis], x[axis] * tiles, *x[axis + 1 :]),), ()


@rule("ArgMax")
def argmax(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """See ``views.argmax_to``."""
    _count(p, bottoms, 1)
    return (argmax_to(p, bottoms[0]),), ()


@rule("MVN")
def mvn(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """Filled up to four axes."""
    _count(p, bottoms, 1)
    p.flag("normalize_variance", True), p.flag("across_channels", False), p.number("eps", 1e-9)
    return (_legacy(p, bottoms[0]),), ()


@rule("LRN")
def lrn(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """Same shape."""
    _image(p, bottoms)
    if p.integer("local_size", 5, low=1) % 2 == 0:
        raise p.fail("local_size must be odd", got=p.integer("local_size", 5))
    return bottoms, ()


@rule("Interp")
def interp(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """See ``geometry.interp_size``."""
    n, c, h, w = _image(p, bottoms)
    return ((n, c, *interp_size(p, (h, w))),), ()


@rule("Upsample")
def upsample(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """Nearest neighbour by a whole factor; the unpooling form with a mask as second bottom is another layer."""
    n, c, h, w = _image(p, bottoms)
    factor = p.integer("scale", 1, low=1)
    return ((n, c, h * factor, w * factor),), ()


@rule(
    "ReLU",
    "ReLU6",
    "Clip",
    "ELU",
    "Sigmoid",
    "TanH",
    "Swish",
    "AbsVal",
    "BNLL",
    "Exp",
    "Log",
    "Power",
    "Threshold",
    "Dropout",
)
def pointwise(p: Params, bottoms: Shapes, spec: LayerSpec) -> Result:
    """Same shape."""
    _count(p, bottoms, 1)
    if spec.type != "Dropout":
        for name in p.data:
            p.number(name, 0.0)
    if spec.type in ("Exp", "Log"):
        base = p.number("base", -1.0)
        if base != -1.0 and (base <= 0 or (base == 1.0 and spec.type == "Log")):
            raise p.fail("base must be -1 (for e) or positive, and not 1 for a logarithm", got=base)
    if spec.type == "Clip" and not ("min" in p and "max" in p):
        raise p.fail("min and max must both be given")
    return bottoms, ()
