"""How far the return falls at a switch and how long it takes to come back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.continual.episodes import (
    DROP_SHARE,
    RECOVERED_SHARE,
    TRAILING_EPISODES,
    TRAILING_SHARE,
    Array,
    Episodes,
    window_average,
)


def recovery_threshold(
    random_score: float, fresh_final: float, share: float = RECOVERED_SHARE
) -> float:
    """Return that counts as recovered: A_rand + 0.9 (A_fresh,final - A_rand).

    Without the offset by the random policy's score, 0.9 of a negative return would ask for more
    than the fresh network reaches.
    """
    return random_score + share * (fresh_final - random_score)


def trailing_returns(
    episodes: Episodes,
    start: float,
    window: float,
    min_episodes: int = TRAILING_EPISODES,
) -> tuple[Array, Array]:
    """Rs(t): trailing mean of Rhat, at the ends of episodes.

    The window spans `window` steps and at least `min_episodes` episodes, lies inside the regime,
    and uses only episodes that have ended. Reaching back beyond the switch would let the returns
    before it hide the drop after it.

    Args:
        episodes: Complete episodes of one regime, ordered by their ends.
        start: Global step at which the regime begins.
        window: Global steps.
        min_episodes: Episodes.

    Returns:
        Global steps and trailing means, from the first full window on.
    """
    times, means = [], []
    for index in range(min_episodes - 1, len(episodes.returns)):
        time = episodes.end_steps[index]
        if time - start < window:
            continue
        recent = episodes.start_steps[index - min_episodes + 1 : index + 1]
        low = min(time - window, float(recent.min()))
        first = int(np.searchsorted(episodes.end_steps, low, side="right"))
        times.append(time)
        means.append(window_average(episodes, low, time, slice(first, index + 1)))
    return np.array(times), np.array(means)


@dataclass(frozen=True)
class Recovery:
    """What happened after one switch.

    Attributes:
        drop: Trailing return at the switch minus its minimum over the first quarter of the
            regime; NaN for the first regime or without enough episodes.
        time: Steps from the switch until the threshold is reached, infinity when it never is;
            NaN without enough episodes to say.
    """

    drop: float
    time: float


def recovery(episodes: Episodes, boundaries: ArrayLike, regime: int, threshold: float) -> Recovery:
    """Drop and recovery time of one regime.

    Args:
        episodes: Of one run.
        boundaries: (regimes + 1,) global steps at which regimes begin, and the end.
        regime: Index of the regime after the switch.
        threshold: From `recovery_threshold`.

    Raises:
        ValueError: No such regime.
    """
    edges = np.asarray(boundaries, dtype=np.float64)
    if not 0 <= regime < edges.size - 1:
        raise ValueError(f"regime is {regime}; there are regimes 0 to {edges.size - 2}")

    def trailing(index: int) -> tuple[Array, Array]:
        window = TRAILING_SHARE * (edges[index + 1] - edges[index])
        return trailing_returns(episodes.complete(index), float(edges[index]), window)

    length = edges[regime + 1] - edges[regime]
    times, means = trailing(regime)
    since = times - edges[regime]
    reached = np.flatnonzero((means >= threshold) & (since <= length))
    never = math.inf if (since <= length).any() else math.nan
    time = float(since[reached[0]]) if reached.size else never
    early = means[since <= DROP_SHARE * length]
    before = trailing(regime - 1)[1] if regime else np.array([])
    drop = float(before[-1] - early.min()) if before.size and early.size else math.nan
    return Recovery(drop, time)


@dataclass(frozen=True)
class RecoverySummary:
    """Recovery over runs.

    Attributes:
        restricted_mean: Mean time in which a run that never recovered counts as the limit.
        share_recovered: Share of runs that recovered.
        n: Runs of which it is known.
        num_unknown: Runs with too few episodes to say; left out.
    """

    restricted_mean: float
    share_recovered: float
    n: int
    num_unknown: int = 0


def summarize_recovery(times: ArrayLike, limit: float) -> RecoverySummary:
    """Summarise recovery times with censored runs; the mean of recovered runs alone misleads.

    Args:
        times: (runs,); infinity, or anything above `limit`, for a run that did not recover, NaN
            where that is unknown.
        limit: Length of the regime, in the unit of `times`.

    Raises:
        ValueError: No runs, or nothing is known of any.
    """
    every = np.asarray(times, dtype=np.float64).ravel()
    values = every[~np.isnan(every)]
    if values.size == 0:
        raise ValueError(
            "no recovery times given; pass one per run, infinity if it never recovered and NaN if "
            "nobody knows"
        )
    recovered = values <= limit
    return RecoverySummary(
        float(np.minimum(values, limit).mean()),
        float(recovered.mean()),
        values.size,
        every.size - values.size,
    )
