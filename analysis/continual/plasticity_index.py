"""The plasticity index: return in a regime relative to a fresh network on the same regime.

Raw return is no evidence of lost plasticity, since a slippery regime is simply harder. The index
divides that out, and its slope over regimes carries the claim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.continual.episodes import Array
from analysis.statistics import (
    Interval,
    bootstrap_indices,
    draws_or_default,
    interval,
    percentile_interval,
    run_matrix,
)

MIN_RANGE_SHARE = 0.05
_TOO_FEW = "too few regimes have an index: the fresh network hardly beats random"
Summary = Literal["slope", "late_mean"]


class TooFewRegimes(ValueError):
    """A run has fewer regimes with an index than its summary needs."""


@dataclass(frozen=True)
class PlasticityIndex:
    """Index per regime.

    Attributes:
        values: The shape of the areas; NaN where learning hardly pays in the regime.
        num_undefined: Number of NaN entries, to be reported.
    """

    values: Array
    num_undefined: int


def _defined(ranges: Array, min_range_share: float) -> NDArray[np.bool_]:
    largest = float(np.fmax.reduce(ranges, axis=None))  # what is missing has no say
    return (ranges >= min_range_share * largest) & (ranges > 0.0)


def plasticity_index(
    areas: ArrayLike,
    fresh: ArrayLike,
    random: ArrayLike,
    min_range_share: float = MIN_RANGE_SHARE,
) -> PlasticityIndex:
    """PI_k = (A_k - A_rand,k) / (A_fresh,k - A_rand,k).

    Args:
        areas: (regimes,) or (runs, regimes) area per regime.
        fresh: (regimes,) mean of the fresh network's runs, or (runs, regimes) with the partner
            of every run, paired by world.
        random: (regimes,) or (runs, regimes), or one number, of the untrained policy.
        min_range_share: Regimes whose range fresh - random is below this share of the largest
            one have no index.

    Returns:
        The index; a missing area stays NaN and is counted.

    Raises:
        ValueError: Shapes that do not broadcast.
    """
    learned = np.asarray(areas, dtype=np.float64)
    floor = np.asarray(random, dtype=np.float64)
    ranges = np.asarray(fresh, dtype=np.float64) - floor
    usable = np.where(_defined(ranges, min_range_share), ranges, math.nan)
    values = (learned - floor) / usable
    return PlasticityIndex(values, int(np.isnan(values).sum()))


def slopes(values: ArrayLike) -> Array:
    """Least-squares slope of each row over its index, without NaN entries.

    Args:
        values: (regimes,) or (runs, regimes).

    Returns:
        () or (runs,); NaN where fewer than two entries are defined.
    """
    matrix = np.asarray(values, dtype=np.float64)
    present = ~np.isnan(matrix)
    count = present.sum(axis=-1, keepdims=True)
    positions = np.arange(matrix.shape[-1], dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.where(present, positions, 0.0).sum(axis=-1, keepdims=True) / count
        offsets = np.where(present, positions - centre, 0.0)
        spread = (offsets**2).sum(axis=-1)
        found = (offsets * np.where(present, matrix, 0.0)).sum(axis=-1) / spread
    return np.where(count[..., 0] >= 2, found, math.nan)


def late_regimes(num_regimes: int) -> int:
    """Number of regimes that count as late: ceil(K / 3)."""
    return math.ceil(num_regimes / 3)


def late_means(values: ArrayLike) -> Array:
    """Mean over the last ceil(K/3) regimes of each row, without NaN entries; NaN without any."""
    matrix = np.asarray(values, dtype=np.float64)
    late = matrix[..., -late_regimes(matrix.shape[-1]) :]
    present = ~np.isnan(late)
    count = present.sum(axis=-1)
    sums = np.where(present, late, 0.0).sum(axis=-1)
    return np.where(count > 0, sums / np.maximum(count, 1), math.nan)


def summarize_index(values: ArrayLike, summary: Summary) -> Array:
    """Slope or late mean of each row.

    Raises:
        ValueError: Unknown summary.
    """
    if summary not in ("slope", "late_mean"):
        raise ValueError(f"summary is {summary!r}; choose slope or late_mean")
    return slopes(values) if summary == "slope" else late_means(values)


def _weights(defined: NDArray[np.bool_], summary: Summary) -> Array:
    """Coefficients with which a summary is a weighted sum over the defined regimes."""
    unit_vectors = np.where(defined, np.eye(defined.size), math.nan)
    return summarize_index(unit_vectors, summary)


def index_interval(
    areas: ArrayLike,
    oracle: ArrayLike,
    random: ArrayLike,
    summary: Summary = "slope",
    *,
    paired: bool = False,
    num_resamples: int | None = None,
    seed: int = 0,
    min_range_share: float = MIN_RANGE_SHARE,
) -> Interval:
    """Mean over runs of the index's slope or late mean, with an interval.

    Args:
        areas: (runs, regimes).
        oracle: Fresh networks: (oracle seeds, regimes), averaged and resampled in every draw,
            or with `paired` (runs, regimes), the partner of each run on the same world.
        random: (regimes,) or one number; with `paired` also (runs, regimes).
        summary: What is computed per run.
        paired: Whether rows of `oracle` belong to rows of `areas`. A method's own fresh network
            gives PI_self this way.
        num_resamples: Draws, by default those of `analysis.statistics.resampling`.
        seed: Of the draws.
        min_range_share: See `plasticity_index`.

    Raises:
        ValueError: Missing areas, shapes that do not fit, or (`TooFewRegimes`) a run without
            enough defined regimes. Which regimes are defined is decided once, from all oracle runs.
    """
    learned = run_matrix(areas, "areas")
    fresh = run_matrix(oracle, "oracle")
    if paired:
        if fresh.shape != learned.shape:
            raise ValueError(f"oracle has shape {fresh.shape}, areas {learned.shape}; pair rows")
        index = plasticity_index(learned, fresh, random, min_range_share)
        per_run = summarize_index(index.values, summary)
        if lacking := int(np.isnan(per_run).sum()):
            raise TooFewRegimes(f"{lacking} of {len(per_run)} runs: {_TOO_FEW}")
        return interval(per_run, "mean", num_resamples, seed)
    if fresh.shape[1] != learned.shape[1]:
        raise ValueError(f"oracle has {fresh.shape[1]} regimes, areas {learned.shape[1]}")
    floor = np.broadcast_to(np.asarray(random, dtype=np.float64), learned.shape[1:])
    ranges = fresh.mean(axis=0) - floor
    weights = _weights(_defined(ranges, min_range_share), summary)
    if np.isnan(weights).any():
        raise TooFewRegimes(_TOO_FEW)
    gains = learned - floor
    rng, num_draws = np.random.default_rng(seed), draws_or_default(num_resamples)
    runs = bootstrap_indices(len(learned), num_draws, rng)
    seeds = bootstrap_indices(len(fresh), num_draws, rng)
    drawn_ranges = fresh[seeds].mean(axis=1) - floor
    # The summary is linear in the index: one number per run and per draw of the oracle.
    used = weights != 0.0
    per_run = gains[:, used] @ (weights[used] / drawn_ranges[:, used]).T
    draws = per_run[runs, np.arange(num_draws)[:, None]].mean(axis=1)
    estimate = float((gains[:, used] @ (weights[used] / ranges[used])).mean())
    return percentile_interval(estimate, draws, len(learned))


def retention_index(areas: ArrayLike, random: ArrayLike) -> Array:
    """(A_k - A_rand) / (best A so far - A_rand) for a benchmark without switches.

    Args:
        areas: (windows,) or (runs, windows).
        random: Score of the untrained policy.

    Returns:
        The shape of `areas`; 1 while still improving, NaN until random is beaten.
    """
    gains = np.asarray(areas, dtype=np.float64) - np.asarray(random, dtype=np.float64)
    best = np.fmax.accumulate(gains, axis=-1)
    return gains / np.where(best > 0.0, best, math.nan)
