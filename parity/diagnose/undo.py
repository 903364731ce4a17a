"""How known mistakes that change stored tensors are seen and undone, on one tensor at a time (``weights`` has their table).

Layouts: kernels OIHW; head channels anchor-major. Every ``undo`` is exact: what it yields is compared bit for bit with the truth,
except where a multiplication is undone.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from ssdconv.parity.diagnose.hypothesis import Undone
from ssdconv.parity.diagnose.net import Array, TensorSpec
from ssdconv.parity.diagnose.permuted import head_order, listed

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


def channels(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """Input channels of the first kernel reversed."""
    if spec.role == "first":
        yield f"{spec.name}: input channels reversed", np.ascontiguousarray(mine[:, ::-1])


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


def background(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """Background stored as the last class."""
    if spec.role == "conf":
        by_anchor = mine.reshape(-1, spec.values, *mine.shape[1:])
        yield "background stands last instead of first", np.roll(by_anchor, 1, axis=1).reshape(mine.shape)


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


def l2norm_init(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """Every scale of an L2 normalisation equal to one number, such as 20."""
    if spec.role == "l2norm" and _constant(mine) and not _constant(target):
        yield f"every scale is {float(mine.flat[0]):g}", target


def biases(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """All zero where the truth is not."""
    if spec.blob == "bias" and not mine.any() and target.any():
        yield "all zero", target


def gammas(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """All one where the truth is not."""
    if spec.role == "norm" and spec.blob == "weight" and _constant(mine, 1.0) and not _constant(target):
        yield "all one", target


def stale(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """Statistics as a new layer has them: mean 0, variance 1."""
    if spec.role != "norm" or _constant(target):
        return
    if spec.blob in ("running_mean", "mean") and _constant(mine, 0.0):
        yield "mean 0", target
    if spec.blob in ("running_var", "variance") and _constant(mine):
        yield f"variance {float(mine.flat[0]):g}", target


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


def variances(mine: Array, target: Array, spec: TensorSpec) -> Undone:
    """Box variances multiplied into, or divided out of, the loc layers."""
    if spec.role != "loc":
        return
    factors = np.asarray(VARIANCES, np.float64).reshape(1, 4, *[1] * (mine.ndim - 1))
    by_anchor = mine.reshape(-1, 4, *mine.shape[1:]).astype(np.float64)
    yield "multiplied into the weights", (by_anchor / factors).reshape(mine.shape)
    yield "divided out of the weights", (by_anchor * factors).reshape(mine.shape)


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
