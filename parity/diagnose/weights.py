"""Known mistakes in stored tensors: how each is seen and undone, one tensor at a time, and their table.

Layouts: kernels OIHW; head channels anchor-major. Every ``undo`` is exact: what it yields is compared bit for bit with the truth,
except where a multiplication is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from typing import NamedTuple

import numpy as np

from ssdconv.parity.diagnose.hypothesis import THREADS, Role, TensorSpec, Undone, WeightHypothesis
from ssdconv.parity.layers.tolerance import Array

Order = tuple[int, ...]


class HeadOrder(NamedTuple):
    """New anchor i is old anchor ``anchors[i]``, new value k old value ``inner[k]``; None for the order as it is."""

    anchors: Order | None
    inner: Order | None


def slice_order(mine: Array, truth: Array) -> Order | None:
    """``order`` with ``mine[i] == truth[order[i]]`` bit for bit along the first axis, None where there is none or several."""
    if mine.shape != truth.shape or mine.dtype != truth.dtype:
        return None
    places: dict[bytes, int] = {}
    for index, part in enumerate(truth):
        if places.setdefault(np.ascontiguousarray(part).tobytes(), index) != index:
            return None
    found = [places.get(np.ascontiguousarray(part).tobytes(), -1) for part in mine]
    return tuple(found) if sorted(found) == list(range(len(found))) else None


def head_order(mine: Array, truth: Array, values: int) -> HeadOrder | None:
    """The order of anchors and of the values within an anchor that makes ``mine`` of ``truth``; None where there is none."""
    order = slice_order(mine, truth)
    if order is None:
        return None
    table = np.asarray(order).reshape(-1, values)
    anchor, inner = table // values, table % values
    if not (anchor == anchor[:, :1]).all() or not (inner == inner[:1]).all():
        return None
    anchors, within = tuple(anchor[:, 0].tolist()), tuple(inner[0].tolist())
    return HeadOrder(
        None if anchors == tuple(range(len(anchors))) else anchors,
        None if within == tuple(range(values)) else within,
    )


def listed(order: Sequence[int]) -> str:
    """An order for people; long ones are cut."""
    text = ", ".join(map(str, order[:8]))
    return f"({text}, …)" if len(order) > 8 else f"({text})"


ANCHOR_ORDERS: tuple[tuple[int, ...], ...] = (
    (0, 1, 2, 4, 3, 5),
    (1, 0, 2, 3, 4, 5),
    (1, 0, 2, 4, 3, 5),
    (1, 0, 2, 3),
    (1, 2, 3, 0),
    (3, 0, 1, 2),
    (2, 3, 0, 1),
)
"""Orders of a cell's priors met in the wild: jedol's 2, 3, 1/2, 1/3; HiKapok's extra square first; ssd7's."""
LOC_ORDER = (1, 0, 3, 2)
VARIANCES = (0.1, 0.1, 0.2, 0.2)

Undo = Callable[[Array, Array, TensorSpec], Undone]
EVERY: tuple[Role, ...] = ("first", "conv", "bias", "norm", "l2norm", "loc", "conf")
FIX_CONVERT = "convert the original file again: `ssdconv convert SOURCE out.pth`"
WEIGHTS: list[WeightHypothesis] = []
"""Most specific first: the first that gives the truth's bits is named."""


def mistake(
    name: str, title: str, explanation: str, where: str, *touches: Role, first: bool = False, permutes: bool = False
) -> Callable[[Undo], Undo]:
    """Make a hypothesis of an ``undo`` function; the fields are those of ``WeightHypothesis``."""

    def keep(undo: Undo) -> Undo:
        found = _of(name, title, explanation, where, *touches)
        WEIGHTS.append(replace(found, undo=undo, first=first, permutes=permutes))
        return undo

    return keep


def _of(name: str, title: str, explanation: str, where: str, *touches: Role) -> WeightHypothesis:
    return WeightHypothesis(name, title, explanation, where, "weights", frozenset(touches), FIX_CONVERT)


@mistake(
    "channel-order", "RGB and BGR are exchanged in the first layer",
    "The first kernel holds the image's channels in the other order than the pixels that it is fed, which costs about 5 mAP.",
    f"{THREADS}amdegroot/ssd.pytorch/issues/44", "first", first=True, permutes=True,
)  # fmt: skip
def channels(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """Input channels of the first kernel reversed."""
    if spec.role == "first":
        yield f"{spec.name}: input channels reversed", np.ascontiguousarray(mine[:, ::-1])


@mistake(
    "kernel-layout", "kernels have their axes in another order",
    "TensorFlow and Keras store HWIO (depthwise: HWI1), PyTorch and Caffe OIHW; square kernels pass every shape check.",
    "fact: HWIO and depthwise layouts", "first", "conv", "loc", "conf", first=True, permutes=True,
)  # fmt: skip
def layouts(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """Every other reading of a kernel's axes: moved, or the same bytes taken in another order of axes; and turned by 180 degrees."""
    if mine.ndim != 4:
        return
    yield "turned by 180 degrees", np.ascontiguousarray(mine[:, :, ::-1, ::-1])
    for order in permutations(range(4)):
        if order == (0, 1, 2, 3):
            continue
        name = "".join("OIHW"[i] for i in order)
        stored = tuple(mine.shape[i] for i in order)
        back = np.argsort(order)
        if stored == mine.shape:
            yield f"{name} taken for OIHW", np.ascontiguousarray(mine.transpose(back))
        elif min(stored) >= 1:
            yield f"{name} taken for OIHW", np.ascontiguousarray(mine.reshape(stored).transpose(back))


@mistake(
    "loc-order", "box offsets are in another order",
    "ChainerCV and SSD.TensorFlow write dy, dx, dh, dw where Caffe has dx, dy, dw, dh, so boxes move along the wrong axis.",
    "fact: loc channel order of ChainerCV and SSD.TensorFlow", "loc", first=True, permutes=True,
)  # fmt: skip
def coordinates(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """dx and dy, dw and dh exchanged, or another order of the four."""
    if spec.role != "loc":
        return
    by_anchor = mine.reshape(-1, 4, *mine.shape[1:])
    yield "dy, dx, dh, dw instead of dx, dy, dw, dh", by_anchor[:, LOC_ORDER].reshape(mine.shape)
    for order in permutations(range(4)):
        if order not in ((0, 1, 2, 3), LOC_ORDER):
            names = ", ".join(("dx", "dy", "dw", "dh")[i] for i in order)
            yield f"{names} instead of dx, dy, dw, dh", by_anchor[:, np.argsort(order)].reshape(mine.shape)


@mistake(
    "background-position", "background is the last class",
    "Caffe's background is class 0; a head trained or converted with background last gives every score to its neighbour.",
    "fact: class 0 is background in every supported source", "conf", first=True, permutes=True,
)  # fmt: skip
def background(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """Background stored as the last class."""
    if spec.role == "conf":
        by_anchor = mine.reshape(-1, spec.values, *mine.shape[1:])
        yield "background stands last instead of first", np.roll(by_anchor, 1, axis=1).reshape(mine.shape)


@mistake(
    "anchor-order", "the priors of a cell are in another order",
    "Sources order ratios differently (Caffe 2, 1/2, 3, 1/3; jedol's Keras SSD 2, 3, 1/2, 1/3), so heads answer for other priors.",
    "fact: order within a cell", "loc", "conf", first=True, permutes=True,
)  # fmt: skip
def anchors(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """A head's anchors in another order: the one found by comparing channels, then the known ones."""
    if not spec.values:
        return
    found = head_order(mine, target, spec.values)
    count = mine.shape[0] // spec.values
    if found is not None and found.inner is None and found.anchors is not None:
        yield f"anchors stand as {listed(found.anchors)}", target
    for order in ANCHOR_ORDERS:
        if len(order) == count:
            by_anchor = mine.reshape(count, spec.values, *mine.shape[1:])
            yield f"anchors stand as {listed(order)}", by_anchor[np.argsort(order)].reshape(mine.shape)


@mistake(
    "class-order", "classes are in another order",
    "Channels of the conf layers stand for other classes than the labels say: boxes are right and names wrong.",
    f"{THREADS}amdegroot/ssd.pytorch/issues/280", "conf", first=True, permutes=True,
)  # fmt: skip
def classes(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """Classes shifted by a few places, with or without background; or any other order, found by comparing channels."""
    if spec.role != "conf":
        return
    count = spec.values
    by_anchor = mine.reshape(-1, count, *mine.shape[1:])
    for shift in (1, -1, 2, -2):
        if shift != -1:
            yield f"all classes shifted by {shift:+d}", np.roll(by_anchor, -shift, axis=1).reshape(mine.shape)
        turned = np.concatenate([by_anchor[:, :1], np.roll(by_anchor[:, 1:], -shift, axis=1)], 1)
        yield f"object classes shifted by {shift:+d}, background in place", turned.reshape(mine.shape)
    found = head_order(mine, target, count)
    if found is not None and found.inner is not None and found.anchors is None:
        yield f"classes stand as {listed(found.inner)}", target


@mistake(
    "l2norm-init", "conv4_3's L2 scale was left at its start value",
    "The scale per channel starts at 20 and is learned; a converter that does not know the layer leaves it there.",
    f"{THREADS}weiliu89/caffe/issues/735", "l2norm",
)  # fmt: skip
def l2norm_init(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """Every scale of an L2 normalisation equal to one number, such as 20."""
    if spec.role == "l2norm" and _constant(mine) and not _constant(target):
        yield f"every scale is {float(mine.flat[0]):g}", target


@mistake(
    "biases-dropped", "biases are missing",
    "The layer's biases (or beta of a normalisation) are all zero where the truth has others.",
    f"{THREADS}balancap/SSD-Tensorflow/issues/175", "bias", "norm", "loc", "conf", "conv", "first",
)  # fmt: skip
def biases(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """All zero where the truth is not."""
    if spec.blob == "bias" and not mine.any() and target.any():
        yield "all zero", target


@mistake(
    "bn-stale", "batch statistics are those of a new layer",
    "Mean 0 and variance 1 are what a layer starts with: running statistics are no parameters, and were left behind.",
    f"{THREADS}chuanqi305/MobileNet-SSD/issues/156", "norm",
)  # fmt: skip
def stale(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """Statistics as a new layer has them: mean 0, variance 1."""
    if spec.role != "norm" or _constant(target):
        return
    if spec.blob in ("running_mean", "mean") and _constant(mine, 0.0):
        yield "mean 0", target
    if spec.blob in ("running_var", "variance") and _constant(mine):
        yield f"variance {float(mine.flat[0]):g}", target


@mistake(
    "bn-unscaled", "Caffe's batch statistics were not divided by their factor",
    "Caffe stores sums with a third blob to divide them by; reading mean and variance as they are is off by about a thousand.",
    "fact: Caffe BatchNorm scale factor", "norm",
)  # fmt: skip
def unscaled(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """Caffe's factor not divided by, divided by twice, or left out."""
    if spec.role != "norm":
        return
    if spec.blob == "factor" and mine.size == 1:
        yield f"factor {float(mine.flat[0]):g} instead of {float(target.flat[0]):.9g}", target
    elif spec.blob in ("running_mean", "running_var", "mean", "variance"):
        ratio = _ratio(mine, target)
        if ratio is not None and (abs(ratio) > 50 or abs(ratio) < 0.02):
            yield f"{ratio:.6g} times too large", target


@mistake(
    "gamma-fixed", "gamma counts as 1 where it was learned",
    "MXNet's fix_gamma ignores the stored gamma; taking it for fixed where it is not (or the reverse) rescales every channel.",
    f"{THREADS}dmlc/gluon-cv/pull/1072", "norm",
)  # fmt: skip
def gammas(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """All one where the truth is not."""
    if spec.role == "norm" and spec.blob == "weight" and _constant(mine, 1.0) and not _constant(target):
        yield "all one", target


@mistake(
    "variances", "box variances were applied in the wrong place",
    "Variances 0.1, 0.1, 0.2, 0.2 belong to decoding; multiplied into the loc layers they count twice.",
    "fact: variances 0.1, 0.1, 0.2, 0.2 for all systems", "loc", first=True,
)  # fmt: skip
def variances(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """Box variances multiplied into, or divided out of, the loc layers."""
    if spec.role != "loc":
        return
    factors = np.asarray(VARIANCES, np.float64).reshape(1, 4, *[1] * (mine.ndim - 1))
    by_anchor = mine.reshape(-1, 4, *mine.shape[1:]).astype(np.float64)
    yield "multiplied into the weights", (by_anchor / factors).reshape(mine.shape)
    yield "divided out of the weights", (by_anchor * factors).reshape(mine.shape)


@mistake(
    "scaled-tensor", "a tensor was multiplied by a number",
    "Every number of the tensor is off by one factor, as when pixel scale or a normalisation is folded in on one side only.",
    "fact: scale 0.007843 is not 1/127.5", *EVERY,
)  # fmt: skip
def scaled(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """One factor on the whole tensor."""
    ratio = _ratio(mine, target)
    if ratio is not None and mine.size > 1:
        yield f"multiplied by {ratio:.6g}", target


def _constant(array: Array, value: float | None = None) -> bool:
    if not array.size:
        return False
    first = float(array.flat[0])
    return (value is None or first == value) and bool((array == array.flat[0]).all())


def _ratio(mine: Array, target: Array) -> float | None:
    """The one number that ``target`` was multiplied by to give ``mine``, up to rounding; None where there is none."""
    place = int(np.abs(target).argmax()) if target.size else 0
    if not target.size or not float(target.flat[place]):
        return None
    ratio = float(mine.flat[place]) / float(target.flat[place])
    if not np.isfinite(ratio) or ratio in (0.0, 1.0):
        return None
    wanted = target.astype(np.float64) * ratio
    error = np.abs(mine.astype(np.float64) - wanted)
    limit = 3e-7 * np.abs(wanted) + 1e-38
    return ratio if bool((error <= limit).all()) else None


# Recognised by other means than one tensor alone.
SWAPPED = _of(
    "layer-swapped", "a layer holds another layer's weights",
    "Layers of equal shape were paired by position instead of by name, so they pass every shape check.",
    "fact: Keras by_name and position-zip loading skip silently",
    *EVERY,
)  # fmt: skip
HALF = _of(
    "fp16-rounding", "weights went through half precision",
    "The numbers are the truth's rounded to 16 bits: relative error up to 5e-4, small in mAP and large against float32 rounding.",
    "fact: float16 keeps 11 bits", *EVERY,
)  # fmt: skip
CORRUPTED = _of(
    "corrupted-tensor", "one tensor is damaged or foreign",
    "The tensor differs from the truth in no known way, and (nearly) alone: a damaged file, an edited or a re-trained layer.",
    f"{THREADS}weiliu89/caffe/issues/893", *EVERY,
)  # fmt: skip
