"""Recovery against interpolated thresholds: slow loops over the definition, and coverage."""

import math
from dataclasses import replace

import numpy as np
import pytest

from analysis.continual import (
    Episodes,
    OracleGrid,
    RecoveryRecords,
    records_between,
    recovery_shares,
    restricted_recovery,
    seed_thresholds,
    trailing_records,
)

BOUNDARIES = np.array([0.0, 4_000.0, 8_000.0, 12_000.0])
GRID_VALUES = np.array([0.1, 1.0, 10.0])


def noisy_grid(seed=0, seeds=4, noise=12.0):
    rng = np.random.default_rng(seed)
    finals = np.array([60.0, 80.0, 100.0])[:, None] + noise * rng.normal(size=(3, seeds))
    untrained = rng.normal(0, 1, (3, seeds))
    return OracleGrid(GRID_VALUES, 0.5 * finals, finals, untrained)


def run_of(seed):
    """Episodes of 20 steps whose returns climb noisily within every regime."""
    rng = np.random.default_rng(seed)
    ends = np.arange(20, 12_001, 20)
    regimes = (ends - 1) // 4_000
    share = (ends - BOUNDARIES[regimes]) / 4_000
    speed = rng.uniform(0.4, 2.0, 3)[regimes]
    returns = 95.0 * np.minimum(1.0, speed * share) + rng.normal(0, 4, len(ends))
    lengths = np.full(len(ends), 20)
    return Episodes.from_rows(
        returns, lengths, ends, regimes, np.zeros(len(ends), dtype=bool), num_envs=1
    )


def first_time(episodes, regime, threshold):
    """Trailing mean over 2 % of the regime, at least ten episodes, by hand: equal lengths."""
    here = np.flatnonzero(episodes.regimes == regime)
    for last in range(9, len(here)):
        if 20 * (last + 1) < 80:
            continue
        mean = float(np.mean([episodes.returns[here[i]] for i in range(last - 9, last + 1)]))
        if mean >= threshold:
            return 20 * (last + 1) / 4_000
    return 1.0


def records_of(episodes, grid=None, values=None):
    _, *records = trailing_records(episodes, BOUNDARIES)
    if grid is None or values is None:
        return records
    single = seed_thresholds(grid, values)
    return records_between(
        (records[0], records[1], records[2]), BOUNDARIES, single.min(axis=1), single.max(axis=1)
    )


@pytest.mark.parametrize("resampled_seeds", [4, 1])
def test_every_draw_resamples_runs_and_the_seeds_behind_the_thresholds(resampled_seeds):
    grid, runs = noisy_grid(seeds=resampled_seeds), [run_of(seed) for seed in range(5)]
    values = np.exp(np.random.default_rng(1).uniform(np.log(0.1), np.log(10.0), (5, 3)))
    kept = [
        RecoveryRecords(*records_of(run, grid, row)) for run, row in zip(runs, values, strict=True)
    ]
    found = restricted_recovery(kept, values, grid, num_resamples=60, seed=3)

    def times_of(seeds):
        low = np.interp(np.log(values), np.log(GRID_VALUES), grid.untrained[:, seeds].mean(axis=1))
        high = np.interp(np.log(values), np.log(GRID_VALUES), grid.phases[:, seeds].mean(axis=1))
        thresholds = 0.1 * low + 0.9 * high
        return np.array(
            [[first_time(runs[i], k, thresholds[i, k]) for k in range(3)] for i in range(5)]
        )

    usual = times_of(np.arange(resampled_seeds))
    assert (usual == 1.0).any()
    assert (usual < 0.8).sum() > 5
    generator, draws = np.random.default_rng(3), []
    picked = generator.integers(0, 5, (60, 5))
    seeds = generator.integers(0, resampled_seeds, (60, resampled_seeds))
    for chosen, drawn in zip(picked, seeds, strict=True):
        times = times_of(drawn)[chosen]
        draws.append([times.mean(), *times.mean(axis=0)])
    bounds = np.percentile(draws, [2.5, 97.5], axis=0).T
    for place, one in enumerate((found.overall, *found.regimes)):
        expected = usual.mean() if place == 0 else usual[:, place - 1].mean()
        assert one.estimate == pytest.approx(expected, abs=1e-12)
        assert (one.low, one.high) == pytest.approx(tuple(bounds[place]), abs=1e-12)
        assert one.n == 5


def test_records_between_bounds_decide_about_every_threshold_there():
    records = records_of(run_of(7))
    low, high = np.array([50.0, math.nan, 30.0]), np.array([80.0, math.nan, 1e9])
    kept = records_between((records[0], records[1], records[2]), BOUNDARIES, low, high)
    assert 0 < len(kept[0]) < len(records[0])
    assert set(kept[0]) == {0.0, 2.0}
    few = RecoveryRecords(*kept)
    for share in np.linspace(0.0, 1.0, 37):
        wanted = low + share * (np.minimum(high, 120.0) - low)
        expected = recovery_shares((records[0], records[1], records[2]), BOUNDARIES, wanted)
        for regime in (0, 2):
            found = few.times(regime, wanted[[regime]])[0]
            assert found == pytest.approx(min(expected[regime], 1.0), abs=1e-12)


def test_regimes_without_a_threshold_are_left_out_and_a_run_without_any_too():
    grid = OracleGrid(
        GRID_VALUES,
        np.full((3, 2), 9.0),
        np.array([[-5.0, -5.0], [10.0, 10.0], [10.0, 10.0]]),
        np.zeros((3, 2)),
    )
    values = np.array([[1.0, 0.1], [0.1, 0.1], [10.0, 1.0]])
    empty = RecoveryRecords(np.zeros(0), np.zeros(0), np.zeros(0))
    quick = RecoveryRecords(np.array([0.0]), np.array([0.25]), np.array([9.5]))
    found = restricted_recovery([quick, quick, empty], values, grid)
    # 0.25 in the only regime of the first; the third never recovers; the second has none.
    assert found.overall.estimate == pytest.approx((0.25 + 1.0) / 2)
    assert found.overall.n == 2
    assert [one.n for one in found.regimes] == [2, 1]
    assert found.regimes[1].estimate == 1.0
    # With too few episodes nothing is known of a regime: neither recovered nor not.
    found = restricted_recovery([quick, quick, replace(empty, unknown=np.array([1]))], values, grid)
    assert [one.n for one in found.regimes] == [2, 0]
    lacking = replace(empty, unknown=np.array([0, 1]))
    found = restricted_recovery([quick, quick, lacking], values, grid)
    assert (found.overall.n, found.overall.estimate) == (1, 0.25)
    with pytest.raises(ValueError, match="gain nothing"):
        restricted_recovery([quick], [[0.1, 0.1]], grid)
    with pytest.raises(ValueError, match="every regime of every run"):
        restricted_recovery([quick], values, grid)
    with pytest.raises(ValueError, match="outside the grid"):
        restricted_recovery([quick], [[50.0, 1.0]], grid)


def test_intervals_cover_only_if_the_seeds_of_the_oracle_are_resampled():
    """Returns rise in proportion to time, so recovery takes the threshold over the speed."""
    rng, inside = np.random.default_rng(11), np.zeros(2)
    shares = np.linspace(0.01, 1.0, 200)
    truth, repeats = 0.9 * 60.0 / 100.0, 250
    for _ in range(repeats):
        finals = 60.0 + 10.0 * rng.normal(size=(1, 5)) * np.ones((3, 1))
        grid = OracleGrid(GRID_VALUES, finals, finals, np.zeros((3, 5)))
        # Speeds whose inverses average to 1 / 100.
        levels = 100.0 / rng.uniform(0.8, 1.2, 10)
        records = [RecoveryRecords(np.zeros(200), shares, shares * level) for level in levels]
        worlds = np.ones((10, 1))
        mean = finals.mean(axis=1, keepdims=True)
        exact = OracleGrid(GRID_VALUES, mean, mean, np.zeros((3, 1)))
        for place, each in enumerate((grid, exact)):
            one = restricted_recovery(records, worlds, each, num_resamples=400).overall
            inside[place] += one.low <= truth <= one.high
    resampled, fixed = inside / repeats
    assert 0.80 <= resampled <= 0.97
    assert fixed < resampled - 0.15
