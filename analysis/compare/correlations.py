"""Which diagnostics before a switch say something about learning after it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from analysis.compare.study import Study
from analysis.continual.episodes import Array
from analysis.statistics import Interval, bootstrap_indices, percentile_interval

MIN_RUNS = 3
# With fewer, intervals over whole runs leave out 0 far more often than they should: of unrelated
# numbers in a third of all cases with 3 runs, in a sixth with 5.
RUNS_FOR_A_CLAIM = 10
NUM_RESAMPLES = 2_000
_BEFORE = "before/"


@dataclass(frozen=True)
class Correlation:
    """One metric.

    Attributes:
        metric: Its column.
        rho: Spearman's rank correlation with the plasticity index of the regime that follows.
        num_pairs: Pairs of one run and one regime.
    """

    metric: str
    rho: Interval
    num_pairs: int

    @property
    def is_evidence(self) -> bool:
        """Whether the interval leaves out 0, over enough runs for its 95 % to mean something."""
        return self.rho.n >= RUNS_FOR_A_CLAIM and (self.rho.low > 0.0 or self.rho.high < 0.0)


def centred(values: Array) -> Array:
    """(runs, regimes) less the mean of every regime over the runs present: its difficulty."""
    present = ~np.isnan(values)
    counts = present.sum(axis=0)
    means = np.where(present, values, 0.0).sum(axis=0) / np.maximum(counts, 1)
    return np.where(counts > 1, values - means, math.nan)


def rank_correlation(
    metric: Array, outcome: Array, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> tuple[Interval, int] | None:
    """Spearman's correlation over runs and regimes, with an interval that resamples whole runs.

    Args:
        metric: (runs, regimes); NaN where missing.
        outcome: The same shape.
        num_resamples: Draws.
        seed: Of the draws.

    Returns:
        The interval and the number of pairs; None for fewer than three runs, or where one side
        does not vary.

    Deviation: pairs are centred by regime and ranked once, not anew in every draw.
    """
    both = ~(np.isnan(metric) | np.isnan(outcome))
    x, y = (centred(np.where(both, values, math.nan)) for values in (metric, outcome))
    known = ~np.isnan(x)
    runs = int(known.any(axis=1).sum())
    if runs < MIN_RUNS:
        return None
    ranks = np.zeros((2, *x.shape))
    ranks[0][known], ranks[1][known] = rankdata(x[known]), rankdata(y[known])
    ranks[:, known] -= ranks[:, known].mean(axis=1, keepdims=True)  # smaller rounding
    a, b = ranks
    terms = (known.astype(np.float64), a, b, a * a, b * b, a * b)
    per_run = np.stack([values.sum(axis=1) for values in terms])[:, known.any(axis=1)]
    estimate = float(_pearson(per_run.sum(axis=1)))
    if math.isnan(estimate):
        return None
    indices = bootstrap_indices(runs, num_resamples, seed)
    draws = _pearson(per_run[:, indices].sum(axis=2))
    draws = draws[~np.isnan(draws)]  # a draw of one run over and over may not vary
    return percentile_interval(estimate, draws, runs), int(known.sum())


def _pearson(sums: Array) -> Array:
    """Correlation from sums of 1, x, y, x², y² and xy along the first axis; NaN without spread."""
    n, x, y, xx, yy, xy = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = (xx - x * x / n) * (yy - y * y / n)
        rho = (xy - x * y / n) / np.sqrt(np.where(spread > 1e-9 * n * n, spread, math.nan))
    return np.clip(rho, -1.0, 1.0)


def before_switches(study: Study, arms: Sequence[str]) -> dict[str, Array]:
    """Metric -> (runs of all arms, regimes) last value before each regime, NaN where missing."""
    names = sorted(
        {
            quantity
            for arm in arms
            for run in study.runs[arm].values()
            for quantity in run.values
            if quantity.startswith(_BEFORE)
        }
    )
    num_regimes = max((study.matrix(arm, "regime/start").shape[1] for arm in arms), default=0)
    tables = {}
    for quantity in names:
        parts = []
        for arm in arms:
            found = study.matrix(arm, quantity)
            part = np.full((len(found), num_regimes), math.nan)
            part[:, : found.shape[1]] = found
            parts.append(part)
        tables[quantity.removeprefix(_BEFORE)] = np.concatenate(parts)
    return tables


def correlations(metrics: Mapping[str, Array], outcome: Array) -> tuple[Correlation, ...]:
    """All metrics that vary, the strongest first.

    Args:
        metrics: Metric -> (runs, regimes) value just before each regime.
        outcome: (runs, regimes) plasticity index.
    """
    found = []
    for name, values in metrics.items():
        result = rank_correlation(values, outcome)
        if result is not None:
            found.append(Correlation(name, *result))
    return tuple(sorted(found, key=lambda one: (-abs(one.rho.estimate), one.metric)))
