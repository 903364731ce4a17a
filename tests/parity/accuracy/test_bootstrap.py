"""Resampling: weights mean copies, the interval is Efron's, and paired draws see what single ones hide."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from ssdconv.errors import UsageError
from ssdconv.parity.accuracy.bootstrap import draw, interval, means, resample, resampled, spread
from ssdconv.parity.accuracy.detections import DetectionSet, Truth
from ssdconv.parity.accuracy.matching import MatchTable
from ssdconv.parity.accuracy.voc import PRESETS, Convention, evaluate_voc

Bench = Callable[[str], ModuleType]


@pytest.fixture
def scene(bench: Bench) -> tuple[Truth, DetectionSet]:
    result: tuple[Truth, DetectionSet] = bench("_detection_sets").synthetic(60, 4, 200, 1500, difficult=0.2, ties=False)
    return result


def tables(scene: tuple[Truth, DetectionSet], ap: str = "11point") -> tuple[MatchTable, ...]:
    return evaluate_voc(*scene, Convention(ap=ap)).tables  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["11point", "area"])
def test_a_weight_is_a_number_of_copies(bench: Bench, scene: tuple[Truth, DetectionSet], kind: str) -> None:
    weights = draw(60, 8, 3)
    quick = resampled(tables(scene), kind, weights)  # type: ignore[arg-type]
    for row, times in zip(quick, weights, strict=True):
        again = evaluate_voc(*bench("bootstrap").drawn(*scene, times), Convention(ap=kind))  # type: ignore[arg-type]
        assert np.allclose(row, again.ap, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("kind", ["11point", "area"])
def test_weight_one_is_the_number_itself(scene: tuple[Truth, DetectionSet], kind: str) -> None:
    once = resampled(tables(scene), kind, np.ones((1, 60), np.int32))[0]  # type: ignore[arg-type]
    assert np.allclose(once, evaluate_voc(*scene, Convention(ap=kind)).ap, atol=1e-12)  # type: ignore[arg-type]


def test_chunks_do_not_matter(scene: tuple[Truth, DetectionSet], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = resample([tables(scene)], "11point", 50, 0)
    monkeypatch.setattr("ssdconv.parity.accuracy.bootstrap._CELLS", 100)
    assert np.array_equal(resample([tables(scene)], "11point", 50, 0), whole)


def test_draws() -> None:
    weights = draw(100, 500, 0)
    assert (weights.sum(axis=1) == 100).all() and abs(float((weights == 0).mean()) - 0.99**100) < 0.01
    assert np.array_equal(weights, draw(100, 500, 0)) and not np.array_equal(weights, draw(100, 500, 1))
    with pytest.raises(UsageError):
        draw(0, 10, 0)


def test_interval_without_bias_is_the_percentiles() -> None:
    values = np.arange(1001) / 1000
    found = interval(values, 0.5)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.025, 0.975), abs=1e-9) and found.resamples == 1001


def test_interval_corrects_the_bias_as_efron_does() -> None:
    # 30.85 % of the resamples lie below the estimate, so z0 = -0.5 and the ends are Phi(-1 -+ 1.96)
    found = interval(np.arange(100_001) / 100_000, 0.30854)
    assert found is not None
    assert found.low == pytest.approx(0.5 * math.erfc(2.96 / math.sqrt(2)), abs=2e-4)
    assert found.high == pytest.approx(0.5 * math.erfc(-0.96 / math.sqrt(2)), abs=2e-4)


def test_interval_of_nothing() -> None:
    assert interval(np.full(5, np.nan), 0.5) is None and interval(np.ones(5), math.nan) is None
    edge = interval(np.ones(5), 2.0)
    assert edge is not None and edge.low == edge.high == 1.0


def test_coverage(bench: Bench) -> None:
    """Of intervals from 60 small samples of one population, about 95 % hold the population's number."""
    truth, found = bench("_detection_sets").synthetic(6000, 2, 12000, 40_000, seed=4, ties=False)
    population = evaluate_voc(truth, found, PRESETS["devkit"]).mean
    pick = bench("bootstrap").drawn
    inside = 0
    for part in range(60):
        times = np.zeros(6000, np.int64)
        times[part * 100 : part * 100 + 100] = 1
        part_tables = evaluate_voc(*pick(truth, found, times), PRESETS["devkit"]).tables
        around = spread(means(resample([part_tables], "11point", 200, part)[0]), part)
        assert around is not None and around.resamples == 200
        inside += around.low <= population <= around.high
    assert 51 <= inside <= 60


def test_classes_without_objects_are_left_out_of_the_mean() -> None:
    assert means(np.asarray([[0.5, np.nan], [np.nan, np.nan]])).tolist()[0] == 0.5
    assert math.isnan(means(np.asarray([[np.nan]]))[0])


def test_nothing_to_resample() -> None:
    with pytest.raises(UsageError, match="no match table"):
        resample([()], "11point", 10, 0)
