"""Recovery of runs whose thresholds come from fresh networks on a grid of worlds.

The thresholds are estimates, since the grid was trained with a few seeds. A run near its threshold
recovers under some of those seeds and not under others, and intervals must say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.continual.episodes import Array
from analysis.continual.oracle_grid import OracleGrid
from analysis.continual.recovery import recovery_threshold
from analysis.statistics import (
    Interval,
    bootstrap_indices,
    draws_or_default,
    percentile_interval,
)

_BLOCK = 4_000_000  # numbers looked at together, 32 MB


@dataclass(frozen=True)
class RecoveryRecords:
    """New maxima of the trailing return after the switches of one run, in order.

    Attributes:
        regimes: (records,) regime of each.
        shares: (records,) time since the switch as a share of the regime.
        returns: (records,) trailing return, rising within a regime.
        unknown: Regimes with too few episodes to say whether they recovered; left out.
    """

    regimes: Array
    shares: Array
    returns: Array
    unknown: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def times(self, regime: int, thresholds: Array) -> Array:
        """First share of a regime at which each threshold was reached, 1 where none was."""
        here = self.regimes == regime
        places = np.searchsorted(self.returns[here], thresholds, side="left")
        return np.append(np.minimum(self.shares[here], 1.0), 1.0)[places]


@dataclass(frozen=True)
class RestrictedRecovery:
    """Restricted mean recovery time: a switch without recovery counts as the whole regime.

    Attributes:
        overall: Mean over the regimes of a run, then over runs.
        regimes: Mean over runs, regime by regime; NaN where no threshold is known.
    """

    overall: Interval
    regimes: tuple[Interval, ...]


def seed_thresholds(grid: OracleGrid, values: ArrayLike) -> Array:
    """Return that counts as recovered if a single seed of the grid were the oracle.

    The threshold of any seeds drawn with replacement is the mean of theirs.

    Args:
        grid: Fresh networks.
        values: Any shape, physical values of worlds.

    Returns:
        The shape of `values` + (seeds,).

    Raises:
        ValueError: A world lies outside the grid.
    """
    single = np.vectorize(recovery_threshold, otypes=[float])(grid.untrained, grid.phases)
    return grid.weights(values) @ single


def restricted_recovery(
    records: Sequence[RecoveryRecords],
    values: ArrayLike,
    grid: OracleGrid,
    *,
    num_resamples: int | None = None,
    seed: int = 0,
) -> RestrictedRecovery:
    """Restricted mean recovery with intervals over runs and over seeds of the oracle.

    Every draw resamples the runs and, independently, the seeds of the grid: one seed keeps its
    networks at all values together. Which regimes have a threshold is decided once, from all
    seeds.

    Args:
        records: One per run; between the lowest and the highest threshold of a single seed they
            must be complete.
        values: (runs, regimes) physical value of each regime's world.
        grid: Fresh networks.
        num_resamples: Draws, by default those of `analysis.statistics.resampling`.
        seed: Of the draws.

    Raises:
        ValueError: No run has a threshold and enough episodes, shapes that do not fit, or worlds
            outside the grid.
    """
    physical = np.asarray(values, dtype=np.float64)
    if physical.ndim != 2 or len(records) != len(physical):
        raise ValueError(
            f"values of worlds have shape {physical.shape} for {len(records)} runs; every regime "
            "of every run needs one"
        )
    usual = grid.thresholds(physical)
    for row, each in zip(usual, records, strict=True):
        row[each.unknown] = math.nan
    known = np.asarray(~np.isnan(usual).all(axis=1))
    if not known.any():
        raise ValueError(
            "no regime has a threshold and enough episodes: fresh networks gain nothing in any of "
            "the others"
        )
    kept = [each for each, is_known in zip(records, known, strict=True) if is_known]
    usual, thresholds = usual[known], seed_thresholds(grid, physical[known])
    sample = _Sample(kept, ~np.isnan(usual))
    (estimates,) = sample.means(np.arange(len(kept))[None], usual[..., None])
    rng, num_draws = np.random.default_rng(seed), draws_or_default(num_resamples)
    runs = bootstrap_indices(len(kept), num_draws, rng)
    seeds = bootstrap_indices(thresholds.shape[-1], num_draws, rng)
    block = max(1, _BLOCK // thresholds.size)
    parts = []
    for start in range(0, num_draws, block):
        part = slice(start, start + block)
        parts.append(sample.means(runs[part], thresholds[..., seeds[part]].mean(axis=-1)))
    found = [
        _interval(float(estimate), column, n)
        for estimate, column, n in zip(
            estimates, np.concatenate(parts).T, sample.counts, strict=True
        )
    ]
    return RestrictedRecovery(found[0], tuple(found[1:]))


def _interval(estimate: float, draws: Array, n: int) -> Interval:
    """Draws without any run that has a threshold in a regime say nothing about it."""
    present = draws[~np.isnan(draws)]
    if not present.size:
        return Interval(math.nan, math.nan, math.nan, n)
    return percentile_interval(estimate, present, n)


class _Sample:
    """Runs with thresholds, and the means of resampled ones.

    Args:
        records: One per run.
        defined: (runs, regimes) which of them have a threshold.
    """

    def __init__(self, records: Sequence[RecoveryRecords], defined: NDArray[np.bool_]) -> None:
        self._records, self._defined = records, defined
        self.counts = [len(defined), *map(int, defined.sum(axis=0))]

    def means(self, runs: NDArray[np.int64], thresholds: Array) -> Array:
        """(draws, 1 + regimes): of all regimes, then of each.

        Args:
            runs: (draws, runs) picked in every draw.
            thresholds: (runs, regimes, draws).
        """
        defined, num_draws = self._defined, len(runs)
        times = np.zeros((*defined.shape, num_draws))
        for run, regime in np.argwhere(defined).tolist():
            times[run, regime] = self._records[run].times(regime, thresholds[run, regime])
        chosen = np.zeros((num_draws, len(defined)))
        np.add.at(chosen, (np.arange(num_draws)[:, None], runs), 1.0)
        per_run = times.sum(axis=1) / defined.sum(axis=1)[:, None]
        overall = (chosen * per_run.T).sum(axis=1) / runs.shape[1]
        sums, weights = np.einsum("dr,rkd->dk", chosen, times), chosen @ defined
        by_regime = np.where(weights > 0.0, sums / np.maximum(weights, 1.0), math.nan)
        return np.column_stack([overall, by_regime])
