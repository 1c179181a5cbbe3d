"""Comparisons of a method with a baseline on the same worlds, and tests of their differences."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.statistics.bootstrap import (
    CONFIDENCE,
    NUM_RESAMPLES,
    Array,
    Interval,
    StatisticName,
    bootstrap_indices,
    interval,
    percentile_interval,
    run_matrix,
)
from analysis.statistics.rates import wilson_interval

EXACT_LIMIT = 14
SIGN_DRAWS = 100_000


class MissingPairError(ValueError):
    """A seed has a score on one side of a paired comparison only."""


def paired_differences(
    method: Mapping[Hashable, ArrayLike], baseline: Mapping[Hashable, ArrayLike]
) -> Array:
    """score(method, s) - score(baseline, s) for every pair of seeds s.

    Args:
        method: (world_seed, agent_seed) -> score, or one score per regime.
        baseline: The same seeds.

    Returns:
        (runs,) or (runs, regimes), in the order of `method`.

    Raises:
        MissingPairError: A seed is absent on one side. A crashed run is rerun or counted at the
            random policy's score; dropping its pair would hide the failure.
        ValueError: No pair, or scores missing.
    """
    lonely = set(method) ^ set(baseline)
    if lonely:
        shown = ", ".join(sorted(map(str, lonely))[:8])
        raise MissingPairError(
            f"{len(lonely)} seeds lack a partner ({shown}); rerun them or count failed runs at "
            "the random policy's score with score_failures"
        )
    keys = list(method)
    left = np.asarray([method[key] for key in keys], dtype=np.float64)
    right = np.asarray([baseline[key] for key in keys], dtype=np.float64)
    if left.shape != right.shape:
        raise ValueError(f"scores have shapes {left.shape} and {right.shape}; compare like to like")
    run_matrix(left, "method")
    run_matrix(right, "baseline")
    return left - right


def _vector(differences: ArrayLike) -> Array:
    matrix = run_matrix(differences, "differences")
    if matrix.shape[1] != 1:
        raise ValueError(
            f"differences have shape {matrix.shape}; reduce each run to one number first"
        )
    return matrix[:, 0]


def sign_flip_p_value(differences: ArrayLike, num_draws: int = SIGN_DRAWS, seed: int = 0) -> float:
    """Two-sided sign-flip test of paired differences around 0.

    Exact over all 2^n sign patterns for n <= 14, otherwise from random patterns, the observed one
    counted among them so that the p-value is never 0.

    Args:
        differences: (runs,).
        num_draws: Random patterns for n > 14.
        seed: Of the random patterns.

    Raises:
        ValueError: Not one number per run, or missing.
    """
    values = _vector(differences)
    observed = abs(values.sum())
    # Sums of the same numbers in another order differ by rounding and must count as ties.
    reach = observed - 1e-12 * np.abs(values).sum()
    if len(values) <= EXACT_LIMIT:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(values))))
        return float(np.mean(np.abs(signs @ values) >= reach))
    signs = np.random.default_rng(seed).integers(0, 2, (num_draws, len(values))) * 2 - 1
    hits = int(np.sum(np.abs(signs @ values) >= reach))
    return (hits + 1) / (num_draws + 1)


def holm(p_values: ArrayLike) -> Array:
    """Adjusted p-values that bound the chance of any false claim in a table.

    Args:
        p_values: One per method compared; all of them, not only the promising ones.

    Raises:
        ValueError: Not in [0, 1], or missing.

    Source: Holm (1979).
    """
    values = _vector(p_values)
    if values.min() < 0.0 or values.max() > 1.0:
        raise ValueError(f"p-values {values.tolist()} are not all in [0, 1]")
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return adjusted


def _wins(x: Array, y: Array) -> Array:
    return (x > y) + 0.5 * (x == y)


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """Chance that a run of x beats an unrelated run of y; ties count half.

    Source: Agarwal et al. (2021), arXiv 2108.13264; the Mann-Whitney U over n m.
    """
    return float(_wins(_vector(x)[:, None], _vector(y)).mean())


def improvement_interval(
    x: ArrayLike,
    y: ArrayLike,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Unpaired probability of improvement; both sides are resampled by run."""
    wins = _wins(_vector(x)[:, None], _vector(y))
    rng = np.random.default_rng(seed)
    rows = bootstrap_indices(wins.shape[0], num_resamples, rng)
    columns = bootstrap_indices(wins.shape[1], num_resamples, rng)
    draws = np.array(
        [wins[np.ix_(row, column)].mean() for row, column in zip(rows, columns, strict=True)]
    )
    return percentile_interval(float(wins.mean()), draws, min(wins.shape), confidence)


def paired_improvement_interval(differences: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Share of pairs in which the method wins, ties counted half, with Wilson's interval.

    Deviation: Agarwal et al. (2021) resample. Resampled pairs that were all won are all won
    again, so that two of two would be certain; at five pairs and a true share of .8 such an
    interval holds the truth in two of three cases only.
    """
    wins = _wins(_vector(differences), np.zeros(1))
    return wilson_interval(float(wins.sum()), len(wins), confidence)


@dataclass(frozen=True)
class Comparison:
    """A method against its baseline on the same seeds.

    Attributes:
        difference: Interval of the paired difference.
        improvement: Interval of the paired probability of improvement.
        p_value: Sign-flip p-value, not yet adjusted for the other methods of the table.
        n: Pairs.
    """

    difference: Interval
    improvement: Interval
    p_value: float
    n: int

    @property
    def claim(self) -> str:
        """What this many pairs can support: below 5 no test reaches p < .1."""
        if self.n < 5:
            return "too few seeds"
        return "exploratory" if self.n < 10 else "claim"


def compare(
    method: Mapping[Hashable, float],
    baseline: Mapping[Hashable, float],
    statistic: StatisticName = "iqm",
    num_resamples: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare two methods run by run on equal seeds.

    Raises:
        MissingPairError: A seed is absent on one side.
    """
    differences = paired_differences(method, baseline)
    return Comparison(
        interval(differences, statistic, num_resamples, seed),
        paired_improvement_interval(differences),
        sign_flip_p_value(differences, seed=seed),
        len(differences),
    )


def adjust(comparisons: Sequence[Comparison]) -> Array:
    """Holm-adjusted p-values of all comparisons of one table."""
    return holm([comparison.p_value for comparison in comparisons])
