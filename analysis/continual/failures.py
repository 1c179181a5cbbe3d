"""Failed runs keep their seed: what they did not live to earn is the random policy's score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.continual.episodes import Array
from analysis.statistics import Interval, StatisticName, interval


def completed_shares(failure_steps: ArrayLike, starts: ArrayLike, ends: ArrayLike) -> Array:
    """Share of every regime, or of a part of each such as its end, that each run completed.

    Args:
        failure_steps: (runs,) global step of the failure; infinity for a run that finished.
        starts: (regimes,) global steps at which they begin.
        ends: (regimes,) global steps at which they end.

    Returns:
        (runs, regimes) in [0, 1].

    Raises:
        ValueError: A failure step is NaN: say infinity for a run that did not fail.
    """
    failed_at = np.asarray(failure_steps, dtype=np.float64)
    if np.isnan(failed_at).any():
        raise ValueError("failure_steps holds NaN; give infinity for a run that did not fail")
    low, high = np.asarray(starts, dtype=np.float64), np.asarray(ends, dtype=np.float64)
    return np.clip((failed_at[:, None] - low) / (high - low), 0.0, 1.0)


def score_failures(scores: ArrayLike, shares: ArrayLike, random_scores: ArrayLike) -> Array:
    """Fill in failed runs: share * score + (1 - share) * the random policy's score.

    Args:
        scores: (runs,) or (runs, regimes) step-weighted means over the completed part; ignored
            (and may be NaN) where nothing was completed. A failed part without one completed
            episode counts as random as well.
        shares: The same shape, completed share in [0, 1].
        random_scores: Broadcastable: the uniformly random policy's mean return, 0 for success
            rates.

    Returns:
        The shape of `scores`. A finished but missing score stays NaN and is refused by
        `interval`, since it must be rerun.

    Raises:
        ValueError: Shapes differ or a share is outside [0, 1].
    """
    earned = np.asarray(scores, dtype=np.float64)
    done = np.asarray(shares, dtype=np.float64)
    if earned.shape != done.shape:
        raise ValueError(f"scores have shape {earned.shape}, shares {done.shape}; they must agree")
    if not ((done >= 0.0) & (done <= 1.0)).all():
        raise ValueError("shares must lie in [0, 1]; 1 for a run that finished")
    fallback = np.broadcast_to(np.asarray(random_scores, dtype=np.float64), earned.shape)
    known = np.where(np.isnan(earned), fallback, earned)
    mixed = done * known + (1.0 - done) * fallback
    return np.where(done >= 1.0, earned, mixed)


@dataclass(frozen=True)
class FailureReport:
    """An aggregate with failed runs, which ranks methods, and without them, for comparison.

    Attributes:
        with_failures: Over all runs, failed ones at their filled-in score.
        without_failures: Over the finished runs; None when every run failed.
        num_failures: Failed runs.
        n: All runs.
    """

    with_failures: Interval
    without_failures: Interval | None
    num_failures: int
    n: int


def failure_report(
    scores: ArrayLike,
    failed: ArrayLike,
    statistic: StatisticName = "iqm",
    num_resamples: int | None = None,
    seed: int = 0,
) -> FailureReport:
    """Aggregate filled-in scores with and without the failed runs.

    Args:
        scores: (runs,) or (runs, regimes) from `score_failures`.
        failed: (runs,) bool.
        statistic: Interquartile mean or mean.
        num_resamples: Bootstrap draws, by default those of `analysis.statistics.resampling`.
        seed: Of the draws.

    Raises:
        ValueError: Missing scores, or columns that do not match.
    """
    values = np.asarray(scores, dtype=np.float64)
    mask = np.asarray(failed, dtype=bool)
    if mask.shape != values.shape[:1]:
        raise ValueError(f"failed has shape {mask.shape} for {values.shape[0]} runs")
    finished = values[~mask]
    return FailureReport(
        interval(values, statistic, num_resamples, seed),
        interval(finished, statistic, num_resamples, seed) if len(finished) else None,
        int(mask.sum()),
        len(values),
    )
