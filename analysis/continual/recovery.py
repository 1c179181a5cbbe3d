"""How far the return falls at a switch and how long it takes to come back."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from analysis.continual.episodes import (
    DROP_SHARE,
    RECOVERED_SHARE,
    TRAILING_EPISODES,
    TRAILING_SHARE,
    Array,
    Episodes,
)

_CELLS = 500_000  # episodes x window looked at together, a few MB
MAX_RECORDS = 2_000
MIN_RECORDS = 50


def recovery_threshold(
    random_score: float, fresh_final: float, share: float = RECOVERED_SHARE
) -> float:
    """Return that counts as recovered: A_rand + 0.9 (A_fresh,final - A_rand).

    Without the offset by the random policy's score, 0.9 of a negative return would ask for more
    than the fresh network reaches.
    """
    return random_score + share * (fresh_final - random_score)


def trailing_means(episodes: Episodes, start: float, window: float) -> tuple[Array, Array]:
    """Rs(t): trailing mean of Rhat, at the ends of episodes.

    The window spans `window` steps and at least ten episodes, lies inside the regime, and uses
    only episodes that have ended. Reaching back beyond the switch would let the returns before it
    hide the drop after it.

    Args:
        episodes: Complete episodes of one regime, ordered by their ends.
        start: Global step at which the regime begins.
        window: Global steps.

    Returns:
        Global steps and trailing means, from the first full window on.
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


def trailing_records(episodes: Episodes, boundaries: Array) -> tuple[Array, Array, Array, Array]:
    """Drop after every switch, and the records of the trailing return in every regime.

    A record is a trailing return above all before it in its regime. The first time that any
    threshold is reached is a record, so records say when every threshold is reached. Where a
    regime has more than its share of `MAX_RECORDS`, it is divided into as many equal stretches and
    the last record of each is kept: a recovery then counts at most one stretch late.

    Args:
        episodes: Of one run.
        boundaries: (regimes + 1,) global steps.

    Returns:
        (regimes,) drops, NaN where unknown; (records,) regimes, global steps and trailing returns.
    """
    lengths = np.diff(boundaries)
    drops = np.full(len(lengths), math.nan)
    cells = max(MIN_RECORDS, MAX_RECORDS // len(lengths))
    before, parts = np.zeros(0), [np.zeros((3, 0))]
    for regime, (begin, length) in enumerate(zip(boundaries[:-1], lengths, strict=True)):
        ends, means = trailing_means(episodes.complete(regime), begin, TRAILING_SHARE * length)
        since = ends - begin
        early = means[since <= DROP_SHARE * length]
        if before.size and early.size:
            drops[regime] = before[-1] - early.min()
        before = means
        inside = since <= length
        ends, means, since = ends[inside], means[inside], since[inside]
        best = np.maximum.accumulate(np.append(-np.inf, means))[:-1]
        places = np.flatnonzero(means > best)
        if len(places) > cells:
            stretch = np.ceil(since[places] / length * cells)
            places = places[np.append(stretch[1:] != stretch[:-1], True)]
        parts.append(np.stack([np.full(len(places), float(regime)), ends[places], means[places]]))
    regimes, steps, returns = np.concatenate(parts, axis=1)
    return drops, regimes, steps, returns


def recovery_shares(
    records: tuple[Array, Array, Array], boundaries: Array, thresholds: Array
) -> Array:
    """Recovery time of every regime.

    Args:
        records: (records,) regimes, global steps and trailing returns.
        boundaries: (regimes + 1,) global steps.
        thresholds: (regimes,) return that counts as recovered; NaN where none is known.

    Returns:
        (regimes,) shares of the regime, infinity where the threshold was never reached and NaN
        where there is none, or no record: too few episodes for a single trailing return.
    """
    regimes, steps, returns = records
    times = np.full(len(thresholds), math.nan)
    for regime in np.flatnonzero(np.isfinite(thresholds)):
        begin, end = boundaries[regime : regime + 2]
        here = regimes == regime
        reached = steps[here & (returns >= thresholds[regime])]
        if here.any():
            times[regime] = (reached[0] - begin) / (end - begin) if reached.size else math.inf
    return times


def records_between(
    records: tuple[Array, Array, Array], boundaries: Array, low: Array, high: Array
) -> tuple[Array, Array, Array]:
    """The records that decide when any threshold between two bounds is reached.

    Args:
        records: (records,) regimes, global steps and trailing returns.
        boundaries: (regimes + 1,) global steps.
        low: (regimes,) lowest threshold; NaN where none is known.
        high: (regimes,) highest threshold.

    Returns:
        (kept,) regimes, shares of the regime and trailing returns: from the first record that
        reaches the lowest threshold to the first that reaches the highest.
    """
    regimes, steps, returns = records
    parts = [np.zeros((3, 0))]
    for regime in np.flatnonzero(np.isfinite(low)):
        here = np.flatnonzero(regimes == regime)
        first, last = np.searchsorted(returns[here], [low[regime], high[regime]], side="left")
        places = here[first : last + 1]
        begin, end = boundaries[regime : regime + 2]
        shares = (steps[places] - begin) / (end - begin)
        parts.append(np.stack([regimes[places], shares, returns[places]]))
    kept = np.concatenate(parts, axis=1)
    return kept[0], kept[1], kept[2]
