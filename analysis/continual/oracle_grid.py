"""Fresh networks on a grid of worlds, interpolated to the worlds that runs have met.

Every seed of a continuous schedule meets worlds of its own, and a fresh network for each of them
costs as much as another comparison. A grid over the logarithm of the world's physical value is
trained once instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.continual.episodes import Array
from analysis.continual.gate import Verdict, verdict_of
from analysis.continual.plasticity_index import (
    MIN_RANGE_SHARE,
    PlasticityIndex,
    Summary,
    TooFewRegimes,
    late_means,
    summarize_index,
)
from analysis.continual.recovery import recovery_threshold
from analysis.statistics import (
    Interval,
    bootstrap_indices,
    draws_or_default,
    percentile_interval,
    run_matrix,
)

MAX_ERROR = 0.1
# The outer quantiles of a grid at 5, 15, ..., 95 % leave half a spacing at each end.
_REACH = 0.5 + 1e-4
_BLOCK = 4_000_000  # numbers looked at together, 32 MB


@dataclass(frozen=True)
class OracleGrid:
    """What fresh networks reach at some values of the world, such as frictions.

    Attributes:
        values: (points,) ascending, above 0.
        areas: (points, seeds) mean return over a regime, by steps.
        phases: (points, seeds) return at its end.
        untrained: (points, seeds) return before anything was learned.

    Raises:
        ValueError: Shapes that do not fit, values that do not ascend, missing scores.
    """

    values: Array
    areas: Array
    phases: Array
    untrained: Array

    def __post_init__(self) -> None:
        shapes = {self.areas.shape, self.phases.shape, self.untrained.shape}
        if len(shapes) != 1 or self.areas.ndim != 2 or len(self.areas) != len(self.values):
            raise ValueError(
                f"{len(self.values)} values of the world need scores of shape (points, seeds); "
                f"they have shapes {sorted(shapes)}"
            )
        if len(self.values) < 3 or self.areas.shape[1] < 1:
            raise ValueError(
                f"a grid of {len(self.values)} values cannot say how well it interpolates; give at "
                "least 3, each with one seed or more"
            )
        if not (self.values[0] > 0.0 and (np.diff(self.values) > 0.0).all()):
            raise ValueError(f"values must be above 0 and ascend: {self.values.tolist()}")
        for name in ("areas", "phases", "untrained"):
            run_matrix(getattr(self, name), name)

    @property
    def largest_range(self) -> float:
        """Largest gain of a fresh network over the untrained policy on the grid."""
        return float((self.areas - self.untrained).mean(axis=1).max())

    def weights(self, values: ArrayLike) -> Array:
        """Coefficients of linear interpolation in the logarithm, beyond the ends on the last line.

        Args:
            values: Any shape.

        Returns:
            The shape of `values` + (points,).

        Raises:
            ValueError: A value lies beyond an end by more than half the spacing there.
        """
        return _weights(np.log(self.values), _logarithms(values), self.values)

    def leave_one_out(self) -> Array:
        """(points,) area that the others predict less the measured one; NaN at both ends.

        Without an end, its neighbours would be extrapolated further than they ever are in use.
        """
        log_values, means = np.log(self.values), self.areas.mean(axis=1)
        errors = np.full(len(means), math.nan)
        for place in range(1, len(means) - 1):
            kept = np.arange(len(means)) != place
            predicted = np.interp(log_values[place], log_values[kept], means[kept])
            errors[place] = predicted - means[place]
        return errors

    @property
    def error(self) -> float:
        """Largest leave-one-out error as a share of the largest range; infinity without a gain."""
        if self.largest_range <= 0.0:
            return math.inf
        return float(np.nanmax(np.abs(self.leave_one_out())) / self.largest_range)

    @property
    def is_accepted(self) -> bool:
        """Whether interpolation is good enough to stand for networks that were not trained."""
        return self.error <= MAX_ERROR

    def thresholds(self, values: ArrayLike) -> Array:
        """Return that counts as recovered in each world; NaN where learning does not pay."""
        weights = self.weights(values)
        untrained = weights @ self.untrained.mean(axis=1)
        finals = weights @ self.phases.mean(axis=1)
        reached = [
            recovery_threshold(float(low), float(high)) if high > low else math.nan
            for low, high in zip(untrained.ravel(), finals.ravel(), strict=True)
        ]
        return np.array(reached).reshape(untrained.shape)


def _logarithms(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if not (np.isfinite(array) & (array > 0.0)).all():
        raise ValueError("the value of a world is missing or not above 0, so nothing stands for it")
    return np.log(array)


def _weights(grid: Array, wanted: Array, shown: Array) -> Array:
    low = grid[0] - _REACH * (grid[1] - grid[0])
    high = grid[-1] + _REACH * (grid[-1] - grid[-2])
    outside = (wanted < low) | (wanted > high)
    if outside.any():
        raise ValueError(
            f"a world of value {math.exp(wanted[outside][0]):.4g} lies outside the grid from "
            f"{shown[0]:.4g} to {shown[-1]:.4g} by more than half its spacing; add values there"
        )
    left = np.clip(np.searchsorted(grid, wanted, side="right") - 1, 0, len(grid) - 2)
    share = (wanted - grid[left]) / (grid[left + 1] - grid[left])
    points = np.arange(len(grid))
    at_left, at_right = points == left[..., None], points == left[..., None] + 1
    return np.where(at_left, 1.0 - share[..., None], np.where(at_right, share[..., None], 0.0))


class _Interpolated:
    """Runs beside the fresh networks that stand for their worlds."""

    def __init__(
        self, areas: ArrayLike, values: ArrayLike, grid: OracleGrid, min_range_share: float
    ) -> None:
        self.areas, self.grid = run_matrix(areas, "areas"), grid
        physical = np.asarray(values, dtype=np.float64)
        if physical.shape != self.areas.shape:
            raise ValueError(
                f"values of worlds have shape {physical.shape}, areas {self.areas.shape}; every "
                "regime of every run needs one"
            )
        self.weights = grid.weights(physical)
        self.fresh = self.weights @ grid.areas.mean(axis=1)
        self.untrained = self.weights @ grid.untrained.mean(axis=1)
        self.ranges = self.fresh - self.untrained
        least = min_range_share * grid.largest_range
        self.defined: NDArray[np.bool_] = (self.ranges >= least) & (self.ranges > 0.0)

    def index(self) -> Array:
        gains = self.areas - self.untrained
        return gains / np.where(self.defined, self.ranges, math.nan)

    def coefficients(self, summary: Summary) -> Array:
        """(runs, regimes) with which the summary of each run is a sum over its regimes."""
        rows = []
        for defined in self.defined:
            rows.append(summarize_index(np.where(defined, np.eye(defined.size), math.nan), summary))
        found = np.array(rows)
        if np.isnan(found).any():
            raise TooFewRegimes(
                "too few regimes have an index: the fresh network hardly beats the untrained policy"
            )
        return found

    def draws(self, seeds: NDArray[np.int64]) -> tuple[Array, Array]:
        """Untrained and fresh returns for oracle seeds drawn anew, (runs, regimes, draws)."""
        found = []
        for scores in (self.grid.untrained, self.grid.areas):
            found.append(self.weights @ scores[:, seeds].mean(axis=2))
        return found[0], found[1]


def interpolated_index(
    areas: ArrayLike,
    values: ArrayLike,
    grid: OracleGrid,
    min_range_share: float = MIN_RANGE_SHARE,
) -> PlasticityIndex:
    """PI_k = (A_k - A_rand,k) / (A_fresh,k - A_rand,k) with both interpolated from a grid.

    Args:
        areas: (runs, regimes) area per regime.
        values: (runs, regimes) physical value of each regime's world.
        grid: Fresh networks.
        min_range_share: Regimes whose range fresh - untrained is below this share of the largest
            on the grid have no index.

    Raises:
        ValueError: Missing areas, shapes that do not fit, or worlds outside the grid.
    """
    index = _Interpolated(areas, values, grid, min_range_share).index()
    return PlasticityIndex(index, int(np.isnan(index).sum()))


def interpolated_interval(
    areas: ArrayLike,
    values: ArrayLike,
    grid: OracleGrid,
    summary: Summary = "slope",
    *,
    num_resamples: int | None = None,
    seed: int = 0,
    min_range_share: float = MIN_RANGE_SHARE,
) -> Interval:
    """Mean over runs of the index's slope or late mean, with an interval.

    Every draw resamples the runs and, independently, the seeds of the oracle: one seed keeps its
    networks at all values of the grid together. Which regimes have an index is decided once, from
    all seeds.

    Args:
        areas: (runs, regimes).
        values: (runs, regimes) physical value of each regime's world.
        grid: Fresh networks.
        summary: What is computed per run.
        num_resamples: Draws, by default those of `analysis.statistics.resampling`.
        seed: Of the draws.
        min_range_share: See `interpolated_index`.

    Raises:
        ValueError: See `interpolated_index`; or a run without enough defined regimes.
    """
    found = _Interpolated(areas, values, grid, min_range_share)
    weights = found.coefficients(summary)
    estimate = float((np.where(found.defined, found.index(), 0.0) * weights).sum(axis=1).mean())

    def per_run(untrained: Array, fresh: Array) -> Array:
        ranges = np.where(found.defined[..., None], fresh - untrained, 1.0)
        return ((found.areas[..., None] - untrained) / ranges * weights[..., None]).sum(axis=1)

    draws = _resampled(found, per_run, num_resamples, seed)
    return percentile_interval(estimate, draws, len(found.areas))


def _resampled(
    found: _Interpolated,
    per_run: Callable[[Array, Array], Array],
    num_resamples: int | None,
    seed: int,
) -> Array:
    """Mean over resampled runs of what `per_run` gives for resampled oracle seeds, (draws,)."""
    rng, num_draws = np.random.default_rng(seed), draws_or_default(num_resamples)
    runs = bootstrap_indices(len(found.areas), num_draws, rng)
    seeds = bootstrap_indices(found.grid.areas.shape[1], num_draws, rng)
    block = max(1, _BLOCK // found.weights.size)
    parts = []
    for start in range(0, num_draws, block):
        picked = runs[start : start + block]
        scores = per_run(*found.draws(seeds[start : start + block]))
        parts.append(scores[picked, np.arange(len(picked))[:, None]].mean(axis=1))
    return np.concatenate(parts)


def interpolated_gate(
    areas: ArrayLike,
    values: ArrayLike,
    grid: OracleGrid,
    *,
    switching_verified: bool,
    num_resamples: int | None = None,
    seed: int = 0,
) -> Verdict:
    """`validity_gate` with an interpolated oracle.

    Args:
        areas: (runs, regimes) of the plain baseline.
        values: (runs, regimes) physical value of each regime's world.
        grid: Fresh networks of the same agent.
        switching_verified: Whether somebody verified that switches change the world.
        num_resamples: Draws, by default those of `analysis.statistics.resampling`.
        seed: Of the draws.

    Raises:
        ValueError: See `interpolated_index`.
    """
    found = _Interpolated(areas, values, grid, MIN_RANGE_SHARE)
    learnable = float((found.ranges.mean(axis=0) > 0.0).mean())
    slope = Interval(math.nan, math.nan, math.nan, len(found.areas))
    with suppress(TooFewRegimes):  # then nothing but the gap can show a loss
        slope = interpolated_interval(areas, values, grid, num_resamples=num_resamples, seed=seed)

    def late_gap(_: Array, fresh: Array) -> Array:
        return late_means(np.moveaxis(fresh - found.areas[..., None], 1, 2))

    draws = _resampled(found, late_gap, num_resamples, seed)
    estimate = float(late_means(found.fresh - found.areas).mean())
    gap = percentile_interval(estimate, draws, len(found.areas))
    return verdict_of(slope, gap, learnable, len(found.areas), switching_verified)
