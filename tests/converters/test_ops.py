"""Layout ops: shapes, values on typed-out examples, and exact inverses on random ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdconv.converters.tensors import (
    Op,
    Take,
    ToShape,
    Transpose,
    apply_all,
    flip_channels,
    inverse,
    permute_anchors,
    shape_after,
)


def test_hwio_to_oihw() -> None:
    hwio = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    oihw = Transpose((3, 2, 0, 1)).apply(hwio)
    assert oihw.shape == (5, 4, 2, 3)
    assert oihw[4, 1, 0, 2] == hwio[0, 2, 1, 4]


def test_flip_channels_swaps_red_and_blue() -> None:
    weight = np.arange(6).reshape(2, 3, 1, 1)
    assert flip_channels().apply(weight)[:, :, 0, 0].tolist() == [[2, 1, 0], [5, 4, 3]]


def test_anchor_order_of_jedol() -> None:
    # specs.md 1.2: jedol's ratios are 2, 3, 1/2, 1/3, Caffe's 2, 1/2, 3, 1/3: caffe[i] = jedol[[0, 1, 2, 4, 3, 5][i]]
    jedol = np.array([[a * 10 + v for v in range(2)] for a in range(6)]).reshape(-1)
    caffe = permute_anchors((0, 1, 2, 4, 3, 5), 2).apply(jedol)
    assert caffe.tolist() == [0, 1, 10, 11, 20, 21, 40, 41, 30, 31, 50, 51]


def test_loc_order_within_an_anchor() -> None:
    # ChainerCV stores dy, dx, dh, dw
    yx = np.array([1, 0, 3, 2, 11, 10, 13, 12])
    assert permute_anchors((0, 1), 4, inner=(1, 0, 3, 2)).apply(yx).tolist() == [0, 1, 2, 3, 10, 11, 12, 13]


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (Transpose((0, 1)), (2, 3, 4)),
        (ToShape((5,)), (2, 3)),
        (Take((0, 1)), (3,)),
        (Take((0, 0)), (2,)),
        (Take((0,), 1), (1,)),
    ],
)
def test_misfits_are_refused(op: Op, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot"):
        op.shape(shape)


@given(st.permutations(range(4)), st.permutations(range(6)), st.integers(0, 2**32 - 1))
def test_inverse_is_exact(axes: list[int], order: list[int], seed: int) -> None:
    array = np.random.default_rng(seed).normal(size=(6, 2, 3, 4)).astype(np.float32)
    ops: tuple[Op, ...] = (Take(tuple(order)), Transpose(tuple(axes)), ToShape((12, 12)))
    there = apply_all(ops, array)
    assert there.shape == shape_after(ops, array.shape)
    back = apply_all(inverse(ops, array.shape), there)
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
