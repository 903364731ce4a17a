"""What stored tensors tell on their own: which mistakes make one array of another, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ssdconv.parity.diagnose.evidence import Truths, measured, steps_of
from ssdconv.parity.diagnose.hypothesis import TensorSpec
from ssdconv.parity.diagnose.weights import head_order, slice_order

Array = Any
RNG = np.random.default_rng(11)


def of(role: str, shape: tuple[int, ...], values: int = 0, name: str = "x.weight") -> tuple[TensorSpec, Array]:
    return TensorSpec(name, shape, role, name.rpartition(".")[2], values), RNG.normal(size=shape).astype(np.float32)  # type: ignore[arg-type]


CONV = of("conv", (6, 6, 3, 3))
DEPTHWISE = of("conv", (8, 1, 3, 3))
FIRST = of("first", (4, 3, 3, 3))
LOC, CONF = of("loc", (24, 5, 3, 3), 4), of("conf", (63, 5, 3, 3), 21)
L2 = of("l2norm", (16,))
MEAN, GAMMA = of("norm", (16,), 0, "x.running_mean"), of("norm", (16,))
CASES: dict[str, tuple[tuple[TensorSpec, Array], Callable[[Array], Array], tuple[str, ...]]] = {
    "first layer": (FIRST, lambda a: a[:, ::-1], ("channel-order",)),
    "HWIO bytes": (CONV, lambda a: a.transpose(2, 3, 1, 0).reshape(a.shape), ("kernel-layout",)),
    "in and out": (CONV, lambda a: a.transpose(1, 0, 2, 3), ("kernel-layout",)),
    "rotated": (CONV, lambda a: a[:, :, ::-1, ::-1], ("kernel-layout",)),
    "HWI1 bytes": (DEPTHWISE, lambda a: a.transpose(2, 3, 0, 1).reshape(a.shape), ("kernel-layout",)),
    "loc yx": (LOC, lambda a: a.reshape(6, 4, 5, 3, 3)[:, [1, 0, 3, 2]].reshape(a.shape), ("loc-order",)),
    "any anchors": (LOC, lambda a: a.reshape(6, 4, 5, 3, 3)[[5, 3, 1, 0, 2, 4]].reshape(a.shape), ("anchor-order",)),
    "any classes": (
        CONF, lambda a: a.reshape(3, 21, 5, 3, 3)[:, [0, *range(20, 0, -1)]].reshape(a.shape), ("class-order",)),
    "both in one head": (
        LOC, lambda a: a.reshape(6, 4, 5, 3, 3)[[0, 1, 2, 4, 3, 5]][:, [1, 0, 3, 2]].reshape(a.shape), ("anchor-order", "loc-order")),
    "variances folded": (LOC, lambda a: (a.reshape(6, 4, 45) * np.float32([.1, .1, .2, .2])[None, :, None]).reshape(a.shape), ("variances",)),
    "scales of 20": (L2, lambda a: np.full_like(a, 20), ("l2norm-init",)),
    "stale": (MEAN, np.zeros_like, ("bn-stale",)),
    "unscaled": (MEAN, lambda a: a * np.float32(999.98), ("bn-unscaled",)),
    "gamma 1": (GAMMA, np.ones_like, ("gamma-fixed",)),
    "scaled": (CONV, lambda a: a * np.float32(0.3), ("scaled-tensor",)),
    "half": (CONV, lambda a: a.astype(np.float16).astype(np.float32), ("fp16-rounding",)),
    "half of another layout": (
        CONV, lambda a: a.transpose(0, 1, 3, 2).astype(np.float16).astype(np.float32), ("fp16-rounding", "kernel-layout")),
    "first layer scaled": (FIRST, lambda a: a[:, ::-1] * np.float32(2.5), ("channel-order", "scaled-tensor")),
    "noise": (CONV, lambda a: a + np.float32(1e-3) * np.sin(a * 1e5), ()),
    "one number": (CONV, lambda a: np.where(np.arange(a.size).reshape(a.shape) == 9, a + 1, a), ()),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_steps(case: str) -> None:
    (spec, truth), change, names = CASES[case]
    mine = np.array(change(truth), np.float32, order="C")
    assert mine.shape == truth.shape and mine.tobytes() != truth.tobytes()
    steps = steps_of(mine, truth, spec, Truths({"x.weight": truth}))
    assert tuple(sorted(s.hypothesis.name for s in steps)) == names


def test_another_layers_tensor_is_recognised() -> None:
    (spec, truth), (_, other) = CONV, of("conv", (6, 6, 3, 3))
    steps = steps_of(other, truth, spec, Truths({"x.weight": truth, "y.weight": other}))
    assert [(s.hypothesis.name, s.detail) for s in steps] == [("layer-swapped", "x.weight holds y.weight")]


def test_figures_of_a_difference() -> None:
    truth = np.array([1.0, -4.0, 2.0, 0.5], np.float32)
    found = measured("x", truth + np.array([0, 0.5, 0, 0], np.float32), truth)
    assert (found.largest, found.relative, found.fraction) == (0.5, 0.125, 0.25)
    assert 0.99 < found.correlation < 1
    odd = measured("x", np.array([np.nan, 0, 0, 0], np.float32), truth)
    assert odd.largest == 1e300 and np.isfinite(odd.relative)


def test_orders_are_found_and_ambiguous_ones_are_not() -> None:
    truth = RNG.normal(size=(12, 2)).astype(np.float32)
    assert slice_order(truth[::-1], truth) == tuple(range(11, -1, -1))
    assert slice_order(truth + 1, truth) is None
    assert slice_order(np.zeros((4, 2)), np.zeros((4, 2))) is None
    order = head_order(truth.reshape(3, 4, 2)[[2, 0, 1]].reshape(12, 2), truth, 4)
    assert order is not None and order.anchors == (2, 0, 1) and order.inner is None
    assert head_order(truth[[1, 0, *range(2, 12)]], truth, 4) is None
