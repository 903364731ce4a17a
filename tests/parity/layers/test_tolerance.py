"""The rounding floor: what float32 explains passes, anything more does not."""

from __future__ import annotations

import numpy as np
import pytest

from ssdconv.parity.layers.results import ProbeResult
from ssdconv.parity.layers.tolerance import BLOCK, FEW, HALF_ULP, TINY, Measurement, floors, measure


def judge(oracle: np.ndarray, ref64: np.ndarray, ref32: np.ndarray) -> ProbeResult:
    m = measure(oracle, ref64, ref32)
    return ProbeResult("p", "m", m, floors([m])[0], m.problem)


def product(rng: np.random.Generator, n: int = 4096, k: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A dot product in float64 and in float32, summed in two orders."""
    a, b = rng.standard_normal((n, k)), rng.standard_normal(k)
    a32, b32 = a.astype(np.float32), b.astype(np.float32)
    exact = a32.astype(np.float64) @ b32.astype(np.float64)
    forward = (a32 * b32).cumsum(axis=1, dtype=np.float32)[:, -1]
    backward = (a32 * b32)[:, ::-1].cumsum(axis=1, dtype=np.float32)[:, -1]
    return exact, forward, backward


def test_another_order_of_summation_passes() -> None:
    exact, forward, backward = product(np.random.default_rng(0))
    result = judge(backward, exact, forward)
    assert result and 0.3 < result.ratio < 3 and 0.8 < result.rms_ratio < 1.25


def test_a_scale_of_one_in_ten_thousand_fails() -> None:
    exact, forward, backward = product(np.random.default_rng(0))
    result = judge(backward * np.float32(1.0001), exact, forward)
    assert not result and result.rms_ratio > 5
    assert "x the rounding floor" in result.reason and f"{result.needed:.2g}" in result.reason


def test_one_wrong_element_fails_by_the_maximum_alone() -> None:
    exact, forward, backward = product(np.random.default_rng(1))
    backward[1234] += 12 * np.abs(forward - exact).max()
    result = judge(backward, exact, forward)
    assert not result and result.rms_ratio < 5 and result.measured.at == (1234,)
    assert result.measured.oracle == pytest.approx(float(backward[1234]))
    assert result.measured.reference == pytest.approx(float(exact[1234]))


def test_a_small_error_everywhere_fails_by_the_rms_alone() -> None:
    exact, forward, _ = product(np.random.default_rng(2))
    shift = 6 * np.sqrt(np.mean((forward - exact) ** 2))
    result = judge(exact + shift, exact, forward)
    assert not result and result.ratio < 8 and result.rms_ratio > 5


def test_the_needed_tolerance_is_the_smallest_that_passes() -> None:
    exact, forward, backward = product(np.random.default_rng(3))
    result = judge(backward, exact, forward)
    worst = np.abs(backward - exact).max()
    assert result.needed * np.abs(exact).max() == pytest.approx(worst, rel=1e-12)


def test_exact_operations_leave_half_a_unit_in_the_last_place() -> None:
    exact = np.linspace(-1, 1, 5000)
    same = exact.astype(np.float32).astype(np.float64)
    assert judge(same.astype(np.float32), same, same.astype(np.float32)).ratio == 0
    assert judge(same + 2 * HALF_ULP, same, same.astype(np.float32))
    assert not judge(same + 20 * HALF_ULP, same, same.astype(np.float32))


def test_zeros_must_be_zeros_unless_the_layer_before_was_rounded() -> None:
    zeros = np.zeros(2000)
    assert judge(zeros, zeros, zeros)
    assert not judge(zeros + 1e-30, zeros, zeros)
    assert judge(zeros + TINY / 4, zeros, zeros), "a denormal that the other side flushed"
    exact, forward, backward = product(np.random.default_rng(4))
    before = measure(backward, exact, forward)
    after = measure(np.r_[zeros, before.floor * 3], np.r_[zeros, 0.0], np.r_[zeros, 0.0])
    limits = floors([before, after])
    assert ProbeResult("relu", "m", after, limits[1]) and limits[1].max == limits[0].max


def test_few_elements_are_judged_by_the_floor_of_the_whole_network() -> None:
    many = Measurement((FEW,), magnitude=1.0, magnitude_rms=0.5, floor=1e-6, floor_rms=2e-7)
    quiet = Measurement((4, FEW), magnitude=1.0, magnitude_rms=0.5, floor=1e-8, floor_rms=2e-9)
    few = Measurement((FEW - 1,), magnitude=10.0, magnitude_rms=5.0, floor=1e-7, floor_rms=1e-8)
    noisy = Measurement((1,), magnitude=1e-3, magnitude_rms=1e-3, floor=1e-3, floor_rms=1e-3)
    limits = floors([many, quiet, few, noisy])
    assert limits[0].max == 1e-6 and limits[1].max < 1e-7, "with many elements the own floor counts"
    assert limits[2].max == pytest.approx(1e-5) and limits[2].rms == pytest.approx(2e-6)
    assert floors([few])[0].max == HALF_ULP * 10, "nothing else to go by"
    assert few.rms_limit == 8 and many.rms_limit == 5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_must_agree(value: float) -> None:
    exact, forward, backward = product(np.random.default_rng(5))
    backward[7] = value
    result = judge(backward, exact, forward)
    assert not result and "(7,)" in result.problem and str(value) in result.problem
    exact[7] = forward[7] = value
    assert judge(backward, exact, forward)
    forward[7] = np.inf if value != np.inf else -np.inf
    assert not judge(backward, exact, forward)


def test_overflow_of_float32_on_both_sides_is_rounding_too() -> None:
    exact, forward, backward = product(np.random.default_rng(6))
    exact[3], forward[3], backward[3] = 1e39, np.inf, np.inf
    result = judge(backward, exact, forward)
    assert result and result.measured.magnitude < 1e3


def test_nothing_finite_fails() -> None:
    nothing = np.full(5, np.nan)
    assert judge(nothing, nothing, nothing).problem == "no finite value to compare"
    assert not judge(np.zeros((0,)), np.zeros((0,)), np.zeros((0,)))


def test_shapes_must_be_equal() -> None:
    zeros = np.zeros((1, 4, 2, 2))
    result = judge(zeros.reshape(1, 4, 4), zeros, zeros)
    assert not result and "(1, 4, 4)" in result.problem and "(1, 4, 2, 2)" in result.problem


def test_blocks_add_up() -> None:
    rng = np.random.default_rng(7)
    exact = rng.standard_normal(2 * BLOCK + 5)
    forward, other = exact.astype(np.float32), (exact + 1e-7 * rng.standard_normal(exact.size)).astype(np.float32)
    other[-2] += 1
    m = measure(other, exact, forward)
    assert m.at == (2 * BLOCK + 3,) and m.error == np.abs(other - exact).max()
    assert m.error_rms == pytest.approx(np.sqrt(np.mean((other - exact) ** 2)), rel=1e-9)
    assert m.floor == np.abs(forward - exact).max()
    assert m.floor_rms == pytest.approx(np.sqrt(np.mean((forward - exact) ** 2)), rel=1e-9)
    assert m.magnitude_rms == pytest.approx(np.sqrt(np.mean(exact**2)), rel=1e-9)


def test_a_probe_of_many_elements_keeps_its_own_floor_whatever_the_others_have() -> None:
    sharp = Measurement((FEW,), magnitude=1.0, magnitude_rms=1.0, floor=1e-6, floor_rms=1e-7)
    blunt = Measurement((FEW,), magnitude=1.0, magnitude_rms=1.0, floor=1e-2, floor_rms=1e-2)
    first, second = floors([sharp, blunt])
    assert (first.max, first.rms) == (1e-6, 1e-7) and (second.max, second.rms) == (1e-2, 1e-2)
    few = Measurement((FEW - 1,), magnitude=1.0, magnitude_rms=1.0, floor=1e-6, floor_rms=1e-7)
    assert [(f.max, f.rms) for f in floors([few, blunt])] == [(1e-2, 1e-2)] * 2


def test_an_error_that_few_elements_carry_is_judged_by_its_maximum() -> None:
    """A softmax that is 0 or 1 but for two of its values: their errors are all that the rms sees."""
    exact = np.zeros(4 * FEW)
    exact[:2] = 0.3
    ref32 = exact + np.where(exact > 0, 1e-6, 0.0)
    assert measure(ref32, exact, ref32).carriers == 2
    assert judge(exact + np.where(exact > 0, 6.5e-6, 0.0), exact, ref32)
    assert not judge(exact + np.where(exact > 0, 8.5e-6, 0.0), exact, ref32)
    spread = 1e-6 * np.random.default_rng(0).standard_normal(4 * FEW)
    assert measure(spread, 0 * spread, spread).carriers > FEW


def test_the_largest_error_may_be_negative() -> None:
    exact = np.zeros(8)
    oracle = np.array([0.0, 1.0, 0.0, -5.0, 0.0, 0.5, 0.0, 0.0])
    found = measure(oracle, exact, exact.astype(np.float32))
    assert (found.error, found.at, found.oracle) == (5.0, (3,), -5.0)
