"""Intervals of shares of few yes-or-no outcomes."""

from __future__ import annotations

import math

from scipy.stats import norm

from analysis.statistics.bootstrap import CONFIDENCE, Interval


def wilson_interval(successes: float, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Interval of a rate from yes-or-no outcomes.

    A bootstrap of 50 successes in 50, or of 2 in 2, has no width at all, this one does.

    Args:
        successes: From 0 to n; a tie may count as half of one.
        n: Outcomes.
        confidence: Share of intervals that hold the true rate.

    Source: Wilson (1927); recommended for small n by Brown, Cai and DasGupta (2001).

    Raises:
        ValueError: `successes` is not between 0 and n, or n is below 1.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} are impossible")
    z = float(norm.ppf(0.5 + confidence / 2.0))
    rate = successes / n
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    # At 0 and n one bound equals the rate but for rounding.
    low, high = max(0.0, min(centre - half, rate)), min(1.0, max(centre + half, rate))
    return Interval(rate, low, high, n, confidence)
