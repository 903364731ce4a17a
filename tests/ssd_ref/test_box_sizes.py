"""Cells against typed-out sizes of the original's first priors, and Caffe's rules for ratios."""

from __future__ import annotations

import numpy as np
import pytest

from ssdconv.errors import FormatError
from ssdconv.ssd_ref.box_sizes import caffe_box_sizes, caffe_ratios


def f32(value: float) -> float:
    return float(np.float32(value))


def test_order_of_a_cell() -> None:
    root2, root3 = np.sqrt(np.float32(2)), np.sqrt(np.float32(3))
    half, third = np.sqrt(np.float32(0.5)), np.sqrt(np.float32(1 / 3))
    small = np.float32(60)
    assert caffe_box_sizes((60,), (111,), (2, 3)) == (
        (60.0, 60.0),
        (f32(81.60882304), f32(81.60882304)),  # sqrt(60 * 111)
        (float(small * root2), float(small / root2)),
        (float(small * half), float(small / half)),
        (float(small * root3), float(small / root3)),
        (float(small * third), float(small / third)),
    )


def test_caffe_cuts_sizes_to_whole_pixels_and_others_do_not() -> None:
    cut, whole = caffe_box_sizes((35.84,), (76.8,)), caffe_box_sizes((35.84,), (76.8,), truncate=False)
    assert cut == ((35.0, 35.0), (f32(51.57518779), f32(51.57518779)))  # sqrt(35 * 76)
    assert whole == ((f32(35.84), f32(35.84)), (f32(2752.512**0.5), f32(2752.512**0.5)))  # 35.84 * 76.8


def test_no_maximum_no_flip_and_several_minimums() -> None:
    assert [round(w) for w, _ in caffe_box_sizes((60,), (), (2,))] == [60, 85, 42]
    assert [round(w) for w, _ in caffe_box_sizes((60,), (), (2,), flip=False)] == [60, 85]
    assert [(round(w), round(h)) for w, h in caffe_box_sizes((10, 20), (15, 30), (4,), flip=False)] == [
        (10, 10), (12, 12), (20, 5), (20, 20), (24, 24), (40, 10),
    ]  # fmt: skip


def test_repeated_ratios_count_once() -> None:
    assert caffe_ratios((1, 2, 2.0000005, 0.5, 3)) == (2.0, 0.5, 3.0, f32(1 / 3))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (((), ()), "needs minimum sizes"),
        (((30,), (60, 90)), "needs minimum sizes"),
        (((-3,), ()), "positive number of pixels"),
        (((0.0,), ()), "positive number of pixels"),
        (((float("nan"),), ()), "positive number of pixels"),
        (((60,), (60,)), "exceed its minimum"),
        (((60,), (), (0,)), "positive number"),
        (((60,), (), (float("inf"),)), "positive number"),
    ],
)
def test_impossible_parameters(sizes: tuple[tuple[float, ...], ...], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        caffe_box_sizes(*sizes)


def test_a_size_below_one_pixel_becomes_none() -> None:
    """Caffe asks for more than 0 and then cuts to whole pixels; boxes without size can be decoded by code CORNER alone."""
    assert caffe_box_sizes((0.5,), (9.0,), (4.0,)) == ((0, 0), (0, 0), (0, 0), (0, 0))
