"""From training episodes to scores: lifetime average, area per regime, end of phase, recovery.

Rhat(t) is the undiscounted return of the episode that contains environment step t, so an average
over steps weighs every episode by its length. Averaging over episodes instead would let ten short
failures outvote one long success.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

PHASE_SHARE = 0.125
TRAILING_SHARE = 0.02
TRAILING_EPISODES = 10
DROP_SHARE = 0.25
RECOVERED_SHARE = 0.9


def _column(values: ArrayLike, name: str, size: int | None = None) -> Array:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or (size is not None and column.size != size):
        raise ValueError(f"{name} has shape {column.shape}; give one number per episode")
    if not np.isfinite(column).all():
        raise ValueError(f"{name} holds missing or infinite values; a failed run ends before them")
    return column


def lifetime_average(episode_returns: ArrayLike, episode_lengths: ArrayLike) -> float:
    """Lifetime average return: sum(L_e R_e) / sum(L_e) over completed episodes.

    Args:
        episode_returns: (episodes,) undiscounted returns; of all environments together, each
            step of each environment counting once.
        episode_lengths: (episodes,) in steps of one environment, positive.

    Returns:
        The average; NaN without any episode, never 0.

    Raises:
        ValueError: Lengths that are not positive, or columns that do not match.
    """
    returns = _column(episode_returns, "episode_returns")
    lengths = _column(episode_lengths, "episode_lengths", returns.size)
    if (lengths <= 0).any():
        raise ValueError("episode_lengths must be positive; an episode has at least one step")
    return float(lengths @ returns / lengths.sum()) if returns.size else math.nan


@dataclass(frozen=True)
class Episodes:
    """Completed training episodes of one run, in the order of their ends.

    Attributes:
        returns: (episodes,) undiscounted returns.
        lengths: (episodes,) steps of one environment.
        start_steps: (episodes,) global environment step at which each began.
        end_steps: (episodes,) global environment step at which each ended.
        regimes: (episodes,) regime in which each began; a switch cuts, so it belongs there.
        cut: (episodes,) whether a switch ended it; such episodes count in averages over steps,
            not where typical behaviour is asked for.
    """

    returns: Array
    lengths: Array
    start_steps: Array
    end_steps: Array
    regimes: NDArray[np.int64]
    cut: NDArray[np.bool_]

    @classmethod
    def from_rows(
        cls,
        returns: ArrayLike,
        lengths: ArrayLike,
        end_steps: ArrayLike,
        regimes: ArrayLike,
        cut: ArrayLike,
        num_envs: int = 1,
    ) -> Episodes:
        """Build from logged columns.

        Args:
            returns: (episodes,).
            lengths: (episodes,) positive, in steps of one environment.
            end_steps: (episodes,) on the clock that counts the steps of all environments.
            regimes: (episodes,) regime at the start of each.
            cut: (episodes,) bool.
            num_envs: Environments stepped together: an episode of L steps spans L * num_envs.

        Raises:
            ValueError: Columns that do not match.
        """
        column = _column(returns, "returns")
        size = column.size
        spans = _column(lengths, "lengths", size)
        ends = _column(end_steps, "end_steps", size)
        if (spans <= 0).any():
            raise ValueError("lengths must be positive; an episode has at least one step")
        order = np.argsort(ends, kind="stable")
        return cls(
            column[order],
            spans[order],
            (ends - spans * num_envs)[order],
            ends[order],
            _column(regimes, "regimes", size).astype(np.int64)[order],
            _column(cut, "cut", size).astype(bool)[order],
        )

    def select(self, mask: NDArray[np.bool_]) -> Episodes:
        """The episodes marked by a boolean mask."""
        return Episodes(
            self.returns[mask],
            self.lengths[mask],
            self.start_steps[mask],
            self.end_steps[mask],
            self.regimes[mask],
            self.cut[mask],
        )

    def complete(self, regime: int) -> Episodes:
        """The episodes of one regime that no switch cut short."""
        return self.select((self.regimes == regime) & ~self.cut)


def window_average(
    episodes: Episodes, low: float, high: float, places: slice = slice(None)
) -> float:
    """Mean of Rhat(t) for low <= t < high; NaN where no episode reaches into the window.

    Args:
        episodes: Of one run.
        low: Global step.
        high: Global step.
        places: Episodes to consider, in the order of their ends.
    """
    ends = np.minimum(episodes.end_steps[places], high)
    weights = np.maximum(ends - np.maximum(episodes.start_steps[places], low), 0.0)
    total = weights.sum()
    return float(weights @ episodes.returns[places] / total) if total > 0 else math.nan


def window_averages(episodes: Episodes, total_steps: float, num_windows: int = 10) -> Array:
    """Mean of Rhat in equal windows of a lifetime without switches, (num_windows,)."""
    edges = np.linspace(0.0, total_steps, num_windows + 1)
    return np.array([window_average(episodes, low, high) for low, high in pairwise(edges)])


def regime_areas(episodes: Episodes, num_regimes: int) -> Array:
    """A_k: length-weighted mean return of the episodes that began in regime k.

    Returns:
        (num_regimes,); NaN for a regime without a completed episode.
    """
    return np.array(
        [
            lifetime_average(episodes.returns[inside], episodes.lengths[inside])
            for inside in (episodes.regimes == regime for regime in range(num_regimes))
        ]
    )


def end_of_phase(episodes: Episodes, boundaries: ArrayLike, share: float = PHASE_SHARE) -> Array:
    """Mean of Rhat over the last eighth of every regime, without episodes cut by a switch.

    Args:
        episodes: Of one run.
        boundaries: (regimes + 1,) global steps at which regimes begin, and the end.
        share: Part of the regime that counts as its end.

    Returns:
        (regimes,); NaN where no complete episode reaches into the window.
    """
    edges = np.asarray(boundaries, dtype=np.float64)
    return np.array(
        [
            window_average(episodes.complete(regime), high - share * (high - low), high)
            for regime, (low, high) in enumerate(pairwise(edges))
        ]
    )


def binned_returns(episodes: Episodes, edges: ArrayLike) -> Array:
    """Mean return of the complete episodes that end in each bin (edge, next edge].

    Returns:
        (edges - 1,); NaN for an empty bin.

    Source: the published Slippery Ant curves, bins of 100,000 steps.
    Deviation: episodes cut by a switch are left out; theirs is not a return.
    """
    limits = np.asarray(edges, dtype=np.float64)
    whole = episodes.select(~episodes.cut)
    places = np.searchsorted(limits, whole.end_steps, side="left") - 1
    inside = (places >= 0) & (places < limits.size - 1)
    counts = np.bincount(places[inside], minlength=limits.size - 1)
    sums = np.bincount(places[inside], whole.returns[inside], minlength=limits.size - 1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)


def zero_shot_return(episodes: Episodes, regime: int, num_episodes: int = 20) -> float:
    """Mean return of the first complete episodes begun in a regime; NaN without any."""
    whole = episodes.complete(regime)
    first = np.argsort(whole.start_steps, kind="stable")[:num_episodes]
    return float(whole.returns[first].mean()) if first.size else math.nan
