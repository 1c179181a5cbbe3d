"""How often intervals contain the truth, on simulated studies whose truth is known."""

from typing import Any

import numpy as np
import pytest

from analysis.continual import OracleGrid, index_interval, interpolated_interval
from analysis.statistics import interval, paired_improvement_interval

DRAWS = 400


@pytest.mark.parametrize(("runs", "low", "high"), [(5, 0.86, 0.94), (10, 0.90, 0.97)])
def test_the_interquartile_mean_of_few_runs(runs, low, high):
    """Percentile intervals cover about 90 % at n = 5 and 94 % at 10: print n beside them."""
    rng, inside, repeats = np.random.default_rng(runs), 0, 600
    for seed in range(repeats):
        found = interval(rng.normal(size=runs), "iqm", DRAWS, seed)
        inside += found.low <= 0.0 <= found.high
    assert low <= inside / repeats <= high


def studies(repeats, seed):
    """Ten runs of five regimes, each with a level of its own, and five seeds of an oracle.

    The mean index is 1 and has no slope; oracle seeds differ as much as runs do.
    """
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        areas = 100.0 + 10.0 * rng.normal(size=(10, 1)) + 2.0 * rng.normal(size=(10, 5))
        oracle = 100.0 + 10.0 * rng.normal(size=(5, 1)) + 2.0 * rng.normal(size=(5, 5))
        yield areas, oracle


def test_the_index_needs_the_seeds_of_its_oracle():
    inside, repeats = np.zeros(3), 250
    for seed, (areas, oracle) in enumerate(studies(repeats, 1)):
        fixed = oracle.mean(axis=0, keepdims=True)
        points = np.array([0.5, 1.0, 2.0])
        # The same world all the time: its fresh networks are one point of the grid.
        curves = np.repeat(oracle.mean(axis=1)[None], 3, axis=0)
        grid = OracleGrid(points, curves, curves, np.zeros(curves.shape))
        options: dict[str, Any] = {"num_resamples": DRAWS, "seed": seed}
        for place, found in enumerate(
            (
                index_interval(areas, oracle, 0.0, "late_mean", **options),
                interpolated_interval(areas, np.ones((10, 5)), grid, "late_mean", **options),
                index_interval(areas, fixed, 0.0, "late_mean", **options),
            )
        ):
            inside[place] += found.low <= 1.0 <= found.high
    resampled, interpolated, exact = inside / repeats
    assert 0.80 <= resampled <= 0.96
    assert 0.80 <= interpolated <= 0.96
    assert exact < min(resampled, interpolated) - 0.1


@pytest.mark.parametrize(("num_pairs", "share"), [(2, 0.8), (5, 0.8), (10, 0.7), (20, 0.9)])
def test_the_probability_of_improvement_of_few_pairs(num_pairs, share):
    rng, inside, repeats = np.random.default_rng(3), 0, 2_000
    for _ in range(repeats):
        signs = np.where(rng.random(num_pairs) < share, 1.0, -1.0)
        found = paired_improvement_interval(signs * rng.uniform(0.5, 1.0, num_pairs))
        inside += found.low <= share <= found.high
    assert 0.9 <= inside / repeats <= 0.99
