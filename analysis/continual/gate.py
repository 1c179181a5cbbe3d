"""The gate a benchmark passes before methods are compared on it: does plasticity get lost here?"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.continual.episodes import Array
from analysis.continual.plasticity_index import TooFewRegimes, index_interval, late_means
from analysis.statistics import (
    Interval,
    bootstrap_indices,
    draws_or_default,
    interval,
    percentile_interval,
    run_matrix,
)

MIN_SEEDS = 10
LEARNABLE_SHARE = 0.8


@dataclass(frozen=True)
class Verdict:
    """Whether methods may be compared on a benchmark.

    Attributes:
        accepted: Plasticity is lost here and the benchmark is sound.
        slope: Baseline slope of the plasticity index; NaN where a run has too few regimes with
            an index.
        late_gap: Fresh minus baseline over the last third of the regimes, in units of return.
        learnable_share: Share of regimes in which a fresh network beats the untrained policy.
        reasons: Why it was refused; empty when accepted.
        lacks_seeds_only: Refused for nothing but too few baseline seeds: exploratory.
    """

    accepted: bool
    slope: Interval
    late_gap: Interval
    learnable_share: float
    reasons: tuple[str, ...]
    lacks_seeds_only: bool = False


def _late_gap(
    areas: Array, oracle: Array, paired: bool, num_resamples: int | None, seed: int
) -> Interval:
    baseline, fresh = late_means(areas), late_means(oracle)
    if paired:
        return interval(fresh - baseline, "mean", num_resamples, seed)
    rng, num_draws = np.random.default_rng(seed), draws_or_default(num_resamples)
    runs = bootstrap_indices(len(baseline), num_draws, rng)
    seeds = bootstrap_indices(len(fresh), num_draws, rng)
    draws = fresh[seeds].mean(axis=1) - baseline[runs].mean(axis=1)
    return percentile_interval(float(fresh.mean() - baseline.mean()), draws, len(baseline))


def validity_gate(
    areas: ArrayLike,
    oracle: ArrayLike,
    random: ArrayLike,
    *,
    switching_verified: bool,
    paired: bool = False,
    num_resamples: int | None = None,
    seed: int = 0,
) -> Verdict:
    """Accept a benchmark if the plain baseline loses plasticity on it.

    Accepted if (a) the upper bound of the baseline's slope is below 0, or (b) the lower bound of
    fresh minus baseline over the last third of the regimes is above 0; and (c) a fresh network
    beats the untrained policy in at least 80 % of the regimes, (d) somebody verified that the
    switches change the physics or the task, and there are at least 10 baseline seeds.

    Args:
        areas: (runs, regimes) of the plain baseline.
        oracle: (oracle seeds, regimes), or with `paired` the partner of each run.
        random: (regimes,) or one number; with `paired` also (runs, regimes).
        switching_verified: Criterion (d).
        paired: See `index_interval`.
        num_resamples: Draws, by default those of `analysis.statistics.resampling`.
        seed: Of the draws.

    Raises:
        ValueError: Missing scores or shapes that do not fit.
    """
    learned, fresh = run_matrix(areas, "areas"), run_matrix(oracle, "oracle")
    learnable = float(((fresh - np.asarray(random)).mean(axis=0) > 0.0).mean())
    slope = Interval(math.nan, math.nan, math.nan, len(learned))
    with suppress(TooFewRegimes):  # then nothing but the gap can show a loss
        slope = index_interval(
            learned, fresh, random, paired=paired, num_resamples=num_resamples, seed=seed
        )
    gap = _late_gap(learned, fresh, paired, num_resamples, seed)
    return verdict_of(slope, gap, learnable, len(learned), switching_verified)


def verdict_of(
    slope: Interval, gap: Interval, learnable: float, num_seeds: int, switching_verified: bool
) -> Verdict:
    """Decide from the numbers of the gate, see `validity_gate`.

    Args:
        slope: Of the baseline's plasticity index.
        gap: Fresh minus baseline over the last third of the regimes.
        learnable: Share of regimes in which a fresh network beats the untrained policy.
        num_seeds: Of the baseline.
        switching_verified: Criterion (d).
    """
    reasons = []
    if num_seeds < MIN_SEEDS:
        reasons.append(f"{num_seeds} baseline seeds; {MIN_SEEDS} are needed")
    if not (slope.high < 0.0 or gap.low > 0.0):
        # Few seeds that show nothing are no evidence that there is nothing.
        finding = "here" if num_seeds >= MIN_SEEDS else "shown yet"
        trend = f"reaches up to {slope.high:.3g}"
        trend = "is not known in every run" if math.isnan(slope.estimate) else trend
        reasons.append(
            f"no plasticity loss {finding}: slope {trend}, fresh minus baseline down to "
            f"{gap.low:.3g}"
        )
    if learnable < LEARNABLE_SHARE:
        reasons.append(f"a fresh network beats random in only {learnable:.0%} of the regimes")
    if not switching_verified:
        reasons.append(
            "nobody verified that the switches change the physics or the task (if you did, say "
            "how with --switching-verified)"
        )
    lacks_seeds_only = len(reasons) == 1 and num_seeds < MIN_SEEDS
    return Verdict(not reasons, slope, gap, learnable, tuple(reasons), lacks_seeds_only)
