"""The table of known mistakes in stored tensors; how each is seen and undone is in ``undo``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ssdconv.parity.diagnose.hypothesis import Undone, WeightHypothesis
from ssdconv.parity.diagnose.net import Array, Role, TensorSpec
from ssdconv.parity.diagnose.undo import (
    anchors,
    background,
    biases,
    channels,
    classes,
    coordinates,
    gammas,
    l2norm_init,
    layouts,
    scaled,
    stale,
    unscaled,
    variances,
)

Undo = Callable[[Array, Array, TensorSpec], Undone]

ISSUE = "https://github.com/"
FIX_CONVERT = "convert the original file again: `ssdconv convert SOURCE out.pth`"


MOVES = ("channel-order", "kernel-layout", "loc-order", "background-position", "anchor-order", "class-order")


def _of(
    name: str, title: str, text: str, where: str, roles: Sequence[Role], undo: Undo, first: bool = False
) -> WeightHypothesis:
    return WeightHypothesis(
        name, title, text, where, "weights", frozenset(roles), FIX_CONVERT, undo, first, name in MOVES
    )


def _nothing(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """For what is recognised by other means than one tensor alone."""
    return iter(())


WEIGHTS: tuple[WeightHypothesis, ...] = (
    _of("channel-order", "RGB and BGR are exchanged in the first layer",
        "The first kernel holds the image's channels in the other order than the pixels that it is fed, which costs about 5 mAP.",
        f"{ISSUE}amdegroot/ssd.pytorch/issues/44", ["first"], channels, True),
    _of("kernel-layout", "kernels have their axes in another order",
        "TensorFlow and Keras store HWIO (depthwise: HWI1), PyTorch and Caffe OIHW; square kernels pass every shape check.",
        "fact: HWIO and depthwise layouts", ["first", "conv", "loc", "conf"], layouts, True),
    _of("loc-order", "box offsets are in another order",
        "ChainerCV and SSD.TensorFlow write dy, dx, dh, dw where Caffe has dx, dy, dw, dh, so boxes move along the wrong axis.",
        "fact: loc channel order of ChainerCV and SSD.TensorFlow", ["loc"], coordinates, True),
    _of("background-position", "background is the last class",
        "Caffe's background is class 0; a head trained or converted with background last gives every score to its neighbour.",
        "fact: class 0 is background in every supported source", ["conf"], background, True),
    _of("anchor-order", "the priors of a cell are in another order",
        "Sources order ratios differently (Caffe 2, 1/2, 3, 1/3; jedol's Keras SSD 2, 3, 1/2, 1/3), so heads answer for other priors.",
        "fact: order within a cell", ["loc", "conf"], anchors, True),
    _of("class-order", "classes are in another order",
        "Channels of the conf layers stand for other classes than the labels say: boxes are right and names wrong.",
        f"{ISSUE}amdegroot/ssd.pytorch/issues/280", ["conf"], classes, True),
    _of("l2norm-init", "conv4_3's L2 scale was left at its start value",
        "The scale per channel starts at 20 and is learned; a converter that does not know the layer leaves it there.",
        f"{ISSUE}weiliu89/caffe/issues/735", ["l2norm"], l2norm_init),
    _of("biases-dropped", "biases are missing",
        "The layer's biases (or beta of a normalisation) are all zero where the truth has others.",
        f"{ISSUE}balancap/SSD-Tensorflow/issues/175", ["bias", "norm", "loc", "conf", "conv", "first"], biases),
    _of("bn-stale", "batch statistics are those of a new layer",
        "Mean 0 and variance 1 are what a layer starts with: running statistics are no parameters, and were left behind.",
        f"{ISSUE}chuanqi305/MobileNet-SSD/issues/156", ["norm"], stale),
    _of("bn-unscaled", "Caffe's batch statistics were not divided by their factor",
        "Caffe stores sums with a third blob to divide them by; reading mean and variance as they are is off by about a thousand.",
        "fact: Caffe BatchNorm scale factor", ["norm"], unscaled),
    _of("gamma-fixed", "gamma counts as 1 where it was learned",
        "MXNet's fix_gamma ignores the stored gamma; taking it for fixed where it is not (or the reverse) rescales every channel.",
        f"{ISSUE}dmlc/gluon-cv/pull/1072", ["norm"], gammas),
    _of("variances", "box variances were applied in the wrong place",
        "Variances 0.1, 0.1, 0.2, 0.2 belong to decoding; multiplied into the loc layers they count twice.",
        "fact: variances 0.1, 0.1, 0.2, 0.2 for all systems", ["loc"], variances, True),
    _of("scaled-tensor", "a tensor was multiplied by a number",
        "Every number of the tensor is off by one factor, as when pixel scale or a normalisation is folded in on one side only.",
        "fact: scale 0.007843 is not 1/127.5", ["first", "conv", "bias", "norm", "l2norm", "loc", "conf"], scaled),
)  # fmt: skip
"""Most specific first: the first that gives the truth's bits is named."""

SWAPPED = _of(
    "layer-swapped", "a layer holds another layer's weights",
    "Layers of equal shape were paired by position instead of by name, so they pass every shape check.",
    "fact: Keras by_name and position-zip loading skip silently",
    ["first", "conv", "bias", "norm", "l2norm", "loc", "conf"], _nothing,
)  # fmt: skip
HALF = _of(
    "fp16-rounding", "weights went through half precision",
    "The numbers are the truth's rounded to 16 bits: relative error up to 5e-4, small in mAP and large against float32 rounding.",
    "fact: float16 keeps 11 bits", ["first", "conv", "bias", "norm", "l2norm", "loc", "conf"], _nothing,
)  # fmt: skip
CORRUPTED = _of(
    "corrupted-tensor", "one tensor is damaged or foreign",
    "The tensor differs from the truth in no known way, and (nearly) alone: a damaged file, an edited or a re-trained layer.",
    f"{ISSUE}weiliu89/caffe/issues/893", ["first", "conv", "bias", "norm", "l2norm", "loc", "conf"], _nothing,
)  # fmt: skip
