"""What a change of the world costs at once, and what it is worth to have seen a world before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.compare.cut_regimes import whole_only
from analysis.compare.study import Study
from analysis.continual.episodes import Array
from analysis.statistics import Interval, interval


@dataclass(frozen=True)
class Switches:
    """One number per run of an arm, NaN where there is none.

    Attributes:
        drops: (runs,) mean over switches of the trailing return there less its least value over
            the next quarter of the regime.
        relearning: (runs,) mean over returns to a world of the area there less that of the first
            visit (relearning savings).
        zero_shot: (runs,) mean return of the first 20 episodes of these returns.
    """

    drops: Array
    relearning: Array
    zero_shot: Array


def switches(study: Study, arm: str, areas: Array) -> Switches:
    """Measure the switches of all runs of an arm; a regime that is cut short is none.

    What a failed run did not live to see is no switch.

    Args:
        study: The comparison.
        arm: Name of the arm.
        areas: (runs, regimes) mean returns, failures filled in.
    """
    names = ("drop", "first_episodes", "value")
    drops, first, worlds = (whole_only(study, study.matrix(arm, f"regime/{n}")) for n in names)
    returned = _first_visits(worlds)
    shares = whole_only(study, study.matrix(arm, "regime/completed"))
    areas = np.where(shares < 1.0, math.nan, whole_only(study, areas))
    savings, zero_shot = np.full(areas.shape, math.nan), np.full(areas.shape, math.nan)
    for run, regime in zip(*np.nonzero(returned >= 0), strict=True):
        savings[run, regime] = areas[run, regime] - areas[run, returned[run, regime]]
        zero_shot[run, regime] = first[run, regime]
    return Switches(_row_means(drops[:, 1:]), _row_means(savings), _row_means(zero_shot))


def mean_over_runs(values: Array) -> Interval | None:
    """Mean over the runs that have the number; None where none has."""
    known = values[~np.isnan(values)]
    return interval(known, "mean") if known.size else None


def _first_visits(worlds: Array) -> np.ndarray:
    """(runs, regimes) number of the regime in which a run first met this world; -1 at that visit.

    Two visits without another world between them are one.
    """
    found = np.full(worlds.shape, -1)
    for run, row in enumerate(worlds):
        for regime in range(1, len(row)):
            same = np.flatnonzero(row[:regime] == row[regime])
            if len(same) and same[-1] < regime - 1:
                found[run, regime] = same[0]
    return found


def _row_means(values: Array) -> Array:
    present = ~np.isnan(values)
    counts = present.sum(axis=1)
    sums = np.where(present, values, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)
