"""Interquartile means and intervals against numbers by hand, scipy and slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.statistics import (
    bootstrap_indices,
    interval,
    iqm,
    mean_of_present,
    performance_profile,
    pointwise_band,
    resample_runs,
    stratified_interval,
)


def slow_iqm(values: list[float]) -> float:
    ordered = sorted(values)
    cut = len(ordered) // 4
    kept = ordered[cut : len(ordered) - cut]
    return sum(kept) / len(kept)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (range(8), 3.5),
        ([*range(9), 100], 4.5),
        ([2.0, 3.0, 7.0], 4.0),
        (range(1, 13), 6.5),
        ([[0, 0.2, 0.4, 0.6], [0.2, 0.4, 0.6, 1]], 0.4),
    ],
)
def test_interquartile_mean_by_hand(values, expected) -> None:
    assert iqm(np.asarray(list(values))) == pytest.approx(expected)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_interquartile_mean_equals_a_slow_loop(values) -> None:
    assert iqm(values) == pytest.approx(slow_iqm(values), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("statistic", ["iqm", "mean"])
def test_interval_equals_scipy_bootstrap(statistic: str) -> None:
    values = np.random.default_rng(3).gamma(2.0, size=17)

    def reduce(x, axis):
        return scipy.stats.trim_mean(x, 0.25, axis=axis) if statistic == "iqm" else x.mean(axis)

    expected = scipy.stats.bootstrap(
        (values,), reduce, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    found = interval(values, statistic, seed=0)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.n == 17
    assert found.low < found.estimate < found.high
    other = scipy.stats.bootstrap(
        (values,), reduce, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.05)


def test_interval_of_a_matrix_equals_a_slow_loop_over_whole_runs() -> None:
    matrix = np.random.default_rng(0).normal(size=(6, 5)) + np.arange(6)[:, None]
    rng = np.random.default_rng(9)
    draws = []
    for _ in range(400):
        chosen = rng.integers(0, 6, 6)
        draws.append(slow_iqm([x for run in chosen for x in matrix[run].tolist()]))
    found = interval(matrix, num_resamples=400, seed=9)
    expected = np.percentile(draws, [2.5, 97.5])
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (slow_iqm(matrix.ravel().tolist()), *expected)
    )


def test_large_problems_are_resampled_in_blocks_with_the_same_result(monkeypatch) -> None:
    matrix = np.random.default_rng(0).normal(size=(6, 5))
    whole = interval(matrix, num_resamples=500)
    monkeypatch.setattr("analysis.statistics.bootstrap.BLOCK", 1000)
    assert interval(matrix, num_resamples=500) == whole


def test_resampling_keeps_the_regimes_of_a_run_together() -> None:
    runs, regimes = 7, 4
    matrix = np.arange(runs)[:, None] * 100.0 + np.arange(regimes)
    indices = bootstrap_indices(runs, 300, seed=0)
    assert indices.shape == (300, runs)
    assert set(np.unique(indices)) == set(range(runs))
    drawn = resample_runs(matrix, indices)
    assert drawn.shape == (300, runs, regimes)
    assert (drawn // 100 == indices[:, :, None]).all()
    assert (drawn % 100 == np.arange(regimes)).all()
    # Runs that are constant over regimes leave no uncertainty but that between runs.
    spread = interval(np.repeat([[0.0], [10.0]], 50, axis=1), "mean")
    assert (spread.low, spread.high) == (0.0, 10.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=12), st.integers(-5000, 5000))
def test_a_constant_shifts_estimate_and_bounds(values, constant) -> None:
    plain = interval(np.array(values, dtype=float), num_resamples=200, seed=4)
    moved = interval(np.array(values, dtype=float) + constant, num_resamples=200, seed=4)
    shifts = (
        moved.estimate - plain.estimate,
        moved.low - plain.low,
        moved.high - plain.high,
    )
    assert shifts == pytest.approx((constant,) * 3, abs=1e-8)


def test_constant_data_have_no_width_and_seeds_decide() -> None:
    flat = interval(np.full(10, 0.1))
    assert flat.low == flat.estimate == flat.high
    values = np.random.default_rng(0).normal(size=10)
    assert interval(values, seed=5) == interval(values, seed=5)
    assert interval(values, seed=5) != interval(values, seed=6)
    wide, narrow = interval(values), interval(values, confidence=0.9)
    assert narrow.confidence == 0.9
    assert wide.low < narrow.low < narrow.high < wide.high


def test_a_single_run_has_no_interval() -> None:
    found = interval([[1.0, 2.0, 6.0]], "mean")
    assert found.estimate == 3.0
    assert found.n == 1
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_missing_scores_and_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="1 missing"):
        interval([1.0, math.nan, 3.0])
    with pytest.raises(ValueError, match="runs x regimes"):
        iqm([])
    with pytest.raises(ValueError, match="choose one of iqm, mean"):
        interval([1.0, 2.0], "median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="between 0 and 1"):
        interval([1.0, 2.0], confidence=95)
    with pytest.raises(ValueError, match="at least 1"):
        interval([1.0, 2.0], num_resamples=0)


def test_strata_are_resampled_separately() -> None:
    low, high = np.zeros(5), np.full(5, 10.0)
    pooled = interval(np.concatenate([low, high]), "mean")
    assert pooled.high - pooled.low > 4
    separate = stratified_interval({"ant": low, "hopper": high}, "mean")
    assert (separate.low, separate.estimate, separate.high) == (5.0, 5.0, 5.0)
    assert separate.n == 5
    values = np.random.default_rng(0).normal(size=(8, 3))
    assert stratified_interval({"ant": values}) == interval(values)
    with pytest.raises(ValueError, match="no strata"):
        stratified_interval({})
    with pytest.raises(ValueError, match="hopper holds 1"):
        stratified_interval({"ant": low, "hopper": [math.nan, 1.0]})


def test_failed_diagnostics_are_counted() -> None:
    found = mean_of_present([1.0, math.nan, 3.0, math.nan, math.nan])
    assert (found.mean, found.n, found.num_missing) == (2.0, 2, 3)
    empty = mean_of_present([math.nan])
    assert math.isnan(empty.mean)
    assert (empty.n, empty.num_missing) == (0, 1)


def test_an_empty_bin_is_missing_in_one_run_and_in_all() -> None:
    curves = np.array([[1.0, 2.0, np.nan, 7.0], [3.0, np.nan, np.nan, 9.0], [5.0, 4.0, np.nan, 8]])
    band = pointwise_band(curves)
    assert band.mean.tolist()[:2] == [3.0, 3.0]
    assert band.n.tolist() == [3, 2, 0, 3]
    assert np.isnan(band.mean[2])
    assert np.isnan(band.low[2])
    assert band.low[1] == 2.0
    assert band.high[1] == 4.0
    complete = interval(curves[:, 3], "mean", num_resamples=2000)
    assert (band.low[3], band.high[3]) == pytest.approx((complete.low, complete.high))
    with pytest.raises(ValueError, match="runs x points"):
        pointwise_band([1.0, 2.0])


def test_performance_profile_is_the_share_above_each_threshold() -> None:
    scores = np.array([[0.1, 0.5], [0.9, 0.5], [0.3, 1.0]])
    band = performance_profile(scores, [0.0, 0.3, 0.5, 1.0])
    assert band.mean == pytest.approx([1.0, 4 / 6, 2 / 6, 0.0])
    assert (band.low <= band.mean).all()
    assert (band.high >= band.mean).all()
    assert (band.low[0], band.high[0]) == (1.0, 1.0)
    assert performance_profile([0.2, 0.4], [0.3]).mean.tolist() == [0.5]


def test_run_level_intervals_cover_and_regime_level_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    num_sets, runs, regimes, num_resamples = 2000, 10, 10, 1000
    indices = bootstrap_indices(runs, num_resamples, seed=1)
    cells = np.random.default_rng(2).integers(0, runs, (num_resamples, regimes, runs))
    by_run = by_regime = 0
    for _ in range(num_sets):
        data = rng.normal(size=(runs, 1)) + rng.normal(size=(runs, regimes))
        whole = resample_runs(data, indices).mean(axis=(1, 2))
        low, high = np.quantile(whole, [0.025, 0.975])
        by_run += low <= 0 <= high
        apart = data[cells, np.arange(regimes)[None, :, None]].mean(axis=(1, 2))
        low, high = np.quantile(apart, [0.025, 0.975])
        by_regime += low <= 0 <= high
    assert 0.86 <= by_run / num_sets <= 0.93
    assert 0.50 <= by_regime / num_sets <= 0.62
