"""Curves over time or thresholds: a mean with a pointwise band that resamples whole runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.statistics.bootstrap import CONFIDENCE, Array, bootstrap_indices, run_matrix

PROFILE_RESAMPLES = 2_000


@dataclass(frozen=True)
class Band:
    """A mean curve with a pointwise bootstrap band.

    Attributes:
        mean: (points,) mean over the runs present at each point; NaN where none is.
        low: (points,) lower bound; NaN where fewer than two runs are present.
        high: (points,) upper bound.
        n: (points,) runs present.
    """

    mean: Array
    low: Array
    high: Array
    n: NDArray[np.int64]


def _resample_counts(num_runs: int, num_resamples: int, seed: int) -> Array:
    """How often each run occurs in each draw, (num_resamples, num_runs)."""
    indices = bootstrap_indices(num_runs, num_resamples, seed)
    counts = np.zeros((num_resamples, num_runs))
    np.add.at(counts, (np.arange(num_resamples)[:, None], indices), 1.0)
    return counts


def pointwise_band(
    curves: ArrayLike,
    num_resamples: int = PROFILE_RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Band:
    """Mean of runs with a pointwise band; a NaN is a bin in which no episode ended.

    Args:
        curves: (runs, points).
        num_resamples: Draws of whole curves.
        seed: Of the draws.
        confidence: Nominal pointwise coverage.

    Raises:
        ValueError: Not a matrix.
    """
    matrix = np.asarray(curves, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"curves have shape {matrix.shape}; give a runs x points matrix")
    present = ~np.isnan(matrix)
    filled = np.where(present, matrix, 0.0)
    num_present = present.sum(axis=0)
    counts = _resample_counts(len(matrix), num_resamples, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=0) / num_present
        draws = (counts @ filled) / (counts @ present.astype(np.float64))
    bounds = np.full((2, matrix.shape[1]), math.nan)
    known = num_present >= 2
    tail = (1.0 - confidence) / 2.0
    # A draw that misses every present run says nothing about the point.
    bounds[:, known] = np.nanquantile(draws[:, known], [tail, 1.0 - tail], axis=0)
    return Band(mean, bounds[0], bounds[1], num_present)


def performance_profile(
    scores: ArrayLike,
    thresholds: ArrayLike,
    num_resamples: int = PROFILE_RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Band:
    """Share of scores above each threshold, with a band that resamples whole runs.

    Args:
        scores: (runs,) or (runs, tasks).
        thresholds: (points,).
        num_resamples: Draws.
        seed: Of the draws.
        confidence: Nominal pointwise coverage.

    Source: Agarwal et al. (2021), arXiv 2108.13264, score distributions.
    """
    matrix = run_matrix(scores, "scores")
    above = matrix[:, :, None] > np.asarray(thresholds, dtype=np.float64).ravel()
    return pointwise_band(above.mean(axis=1), num_resamples, seed, confidence)
