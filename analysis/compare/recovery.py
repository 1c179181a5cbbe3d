"""Recovery after a switch for runs with many episodes: `analysis.continual.recovery` as arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from analysis.continual.episodes import (
    DROP_SHARE,
    TRAILING_EPISODES,
    TRAILING_SHARE,
    Array,
    Episodes,
)

_CELLS = 500_000  # episodes x window looked at together, a few MB


def trailing_means(episodes: Episodes, start: float, window: float) -> tuple[Array, Array]:
    """The same as `analysis.continual.trailing_returns`, without a loop over episodes.

    Args:
        episodes: Complete episodes of one regime, ordered by their ends.
        start: Global step at which the regime begins.
        window: Global steps.

    Returns:
        Global steps and trailing means.
    """
    starts, ends, returns = episodes.start_steps, episodes.end_steps, episodes.returns
    if len(ends) < TRAILING_EPISODES:
        return np.zeros(0), np.zeros(0)
    last = np.arange(TRAILING_EPISODES - 1, len(ends))
    recent = sliding_window_view(starts, TRAILING_EPISODES).min(axis=1)
    full = ends[last] - start >= window
    last, recent = last[full], recent[full]
    times = ends[last]
    low = np.minimum(times - window, recent)
    first = np.searchsorted(ends, low, side="right")
    means = np.zeros(len(last))
    width = int((last - first).max(initial=0)) + 1
    step = max(1, _CELLS // width)
    for begin in range(0, len(last), step):
        block = slice(begin, begin + step)
        places = first[block, None] + np.arange(width)
        inside = places <= last[block, None]
        places = np.minimum(places, len(ends) - 1)
        spans = ends[places] - np.maximum(starts[places], low[block, None])
        weights = np.where(inside, np.maximum(spans, 0.0), 0.0)
        means[block] = (weights * returns[places]).sum(axis=1) / weights.sum(axis=1)
    return times, means


def recoveries(episodes: Episodes, boundaries: Array, thresholds: Array) -> tuple[Array, Array]:
    """Drop and recovery time of every regime.

    Args:
        episodes: Of one run.
        boundaries: (regimes + 1,) global steps.
        thresholds: (regimes,) return that counts as recovered; NaN where none is known.

    Returns:
        (regimes,) drops, NaN where unknown; (regimes,) recovery times as shares of the regime,
        infinity where the threshold was never reached and NaN where there is none.
    """
    lengths = np.diff(boundaries)
    drops, times = np.full((2, len(lengths)), math.nan)
    before = np.zeros(0)
    for regime, (begin, length) in enumerate(zip(boundaries[:-1], lengths, strict=True)):
        ends, means = trailing_means(episodes.complete(regime), begin, TRAILING_SHARE * length)
        since = ends - begin
        early = means[since <= DROP_SHARE * length]
        if before.size and early.size:
            drops[regime] = before[-1] - early.min()
        if math.isfinite(thresholds[regime]):
            reached = since[(means >= thresholds[regime]) & (since <= length)]
            times[regime] = reached[0] / length if reached.size else math.inf
        before = means
    return drops, times
