"""What a fresh network reaches in the worlds of an arm: trained beside it, or interpolated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.compare.arms import DEFAULT_BASELINE
from analysis.compare.cut_regimes import whole_only
from analysis.compare.oracle_table import OracleTable
from analysis.compare.study import BEGUN_TRAINED, RECORDS, UNKNOWN_RECOVERY, Study
from analysis.continual import (
    OracleGrid,
    RecoveryRecords,
    RestrictedRecovery,
    Verdict,
    index_interval,
    interpolated_gate,
    interpolated_index,
    interpolated_interval,
    plasticity_index,
    restricted_recovery,
    score_failures,
    validity_gate,
)
from analysis.continual.episodes import Array
from analysis.continual.plasticity_index import Summary
from analysis.statistics import Interval, mean_of_present

TABLES = "oracle_tables"
UNKNOWN_UNTRAINED = (
    "the untrained policy's return is unknown, because runs go on from checkpoints (init_from); so "
    "are scores of failed runs, retention, and recovery without a fresh oracle; add runs of an arm "
    "that begins with new networks"
)


class Yardstick(Protocol):
    """Fresh networks that scores of an arm are divided by."""

    @property
    def name(self) -> str:
        """How the report calls them."""
        ...

    def index(self, arm: str) -> Array:
        """(runs, regimes) plasticity index, NaN where it is undefined."""
        ...

    def summary(self, arm: str, summary: Summary) -> Interval:
        """Late mean or slope of the index with an interval over runs."""
        ...

    def verdict(self, arm: str, switching_verified: bool) -> Verdict:
        """The validity gate for a baseline arm."""
        ...


class FreshRuns:
    """One fresh copy for every run, on the same worlds.

    Args:
        study: The comparison.
        copy: Name of the arm of fresh copies.
        areas: Arm -> (runs, regimes), failures filled in.
        untrained: Return of the untrained policy, where a copy has none of its own.
    """

    def __init__(
        self, study: Study, copy: str, areas: Mapping[str, Array], untrained: float
    ) -> None:
        self._study, self._areas, self._untrained = study, areas, untrained
        self.name = copy

    def partners(self, arm: str) -> tuple[Array, Array]:
        """Areas of the fresh partners of an arm's runs, and returns before they had learned.

        Raises:
            ValueError: A run has no partner.
        """
        keys = self._study.runs[self.name]
        areas = dict(zip(keys, self._areas[self.name], strict=True))
        matrix = self._study.matrix(self.name, "regime/first_episodes")
        first = dict(zip(keys, matrix, strict=True))
        wanted = self._study.runs[arm]
        if lacking := [key for key in wanted if key not in areas]:
            seeds = ", ".join(str(seed) for _, seed in lacking)
            raise ValueError(f"{self.name} was not run on seed {seeds}")
        oracle = np.array([areas[key] for key in wanted])
        untrained = np.array([first[key] for key in wanted])
        if self._study.about["windows"]:  # only the first of them begins with fresh networks
            untrained = np.repeat(untrained[:, :1], untrained.shape[1], axis=1)
        return oracle, np.where(np.isnan(untrained), self._untrained, untrained)

    def lacks_partner(self, arm: str) -> NDArray[np.bool_]:
        """Which runs of an arm have a fresh partner that failed, (runs,) bool.

        What a failed copy earned says nothing about what a fresh network can earn, so that those
        runs have no index.
        """
        keys = self._study.runs[self.name]
        shares = whole_only(self._study, self._study.matrix(self.name, "regime/completed"))
        failed = {key for key, row in zip(keys, shares, strict=True) if (row < 1.0).any()}
        return np.array([key in failed for key in self._study.runs[arm]])

    def _whole(self, arm: str) -> tuple[Array, Array, Array]:
        """Areas of an arm, of its partners, and before learning, without a regime cut short."""
        oracle, untrained = self.partners(arm)
        oracle, untrained = (whole_only(self._study, each) for each in (oracle, untrained))
        return _earned(self._study, arm, untrained), oracle, untrained

    def _with_partners(self, arm: str) -> tuple[Array, Array, Array]:
        """The same for runs whose partner lived.

        Raises:
            ValueError: There are none.
        """
        known = ~self.lacks_partner(arm)
        if not known.any():
            raise ValueError(f"every run of {self.name} failed, so nothing can be divided by them")
        areas, oracle, untrained = self._whole(arm)
        return areas[known], oracle[known], untrained[known]

    def index(self, arm: str) -> Array:
        found = plasticity_index(*self._with_partners(arm)).values
        index = np.full((len(self._areas[arm]), found.shape[1]), math.nan)
        index[~self.lacks_partner(arm)] = found
        return _with_cut(index, self._areas[arm])

    def summary(self, arm: str, summary: Summary) -> Interval:
        return index_interval(*self._with_partners(arm), summary, paired=True)

    def verdict(self, arm: str, switching_verified: bool) -> Verdict:
        """The gate over the runs whose partner lived."""
        areas = self._with_partners(arm)
        return validity_gate(*areas, switching_verified=switching_verified, paired=True)

    def failed_partners(self, arm: str) -> list[str]:
        """One sentence, or none, about runs of an arm that are left out for want of a partner."""
        keys, failed = list(self._study.runs[arm]), self.lacks_partner(arm)
        if not failed.any():
            return []
        seeds = ", ".join(str(keys[place][1]) for place in np.flatnonzero(failed))
        return [
            f"{arm}, plasticity index: {self.name} failed on seed {seeds}, and a fresh network "
            "that failed is no measure of what can be learned; those runs are left out of the "
            "index and of the gate"
        ]


def _earned(study: Study, arm: str, untrained: Array) -> Array:
    """Areas of an arm in its first regimes; failed runs earn the untrained return of each.

    So the index of what they did not live to learn is 0, whatever the world.
    """
    areas, shares = (study.matrix(arm, f"regime/{what}") for what in ("area", "completed"))
    num = untrained.shape[1]
    return score_failures(areas[:, :num], shares[:, :num], untrained)


def _with_cut(index: Array, areas: Array) -> Array:
    """The index as wide as the areas, NaN for regimes without one at the end."""
    rest = np.full((len(index), areas.shape[1] - index.shape[1]), math.nan)
    return np.concatenate([index, rest], axis=1)


class FreshGrid:
    """Fresh networks on a grid of worlds, interpolated; their seeds are resampled in every draw.

    Regimes that the comparison cuts short are left out: the networks learned for whole ones.

    Args:
        study: The comparison.
        table: The grid, of the arm that it names.
        areas: Arm -> (runs, regimes), failures filled in.
    """

    def __init__(self, study: Study, table: OracleTable, areas: Mapping[str, Array]) -> None:
        self._study, self._areas, self._table = study, areas, table
        self.name = f"fresh networks of {table.arm}, interpolated"

    @property
    def grid(self) -> OracleGrid:
        """Scores of the networks."""
        return self._table.grid

    def is_whole(self, arm: str) -> NDArray[np.bool_]:
        """Which regimes of an arm last as long as the networks learned, (regimes,) bool."""
        starts = self._study.matrix(arm, "regime/start")
        return whole_regimes(starts, self._study.about["end"], self._table.settings.interval)

    def _whole(self, arm: str) -> tuple[Array, Array]:
        complete = self.is_whole(arm)
        if not complete.any():
            interval = self._table.settings.interval
            raise ValueError(
                f"no regime lasts the {interval:,.0f} steps that the fresh networks had"
            )
        values = self._study.matrix(arm, "regime/value")[:, complete]
        untrained = self.grid.weights(values) @ self.grid.untrained.mean(axis=1)
        return _earned(self._study, arm, untrained), values

    def index(self, arm: str) -> Array:
        whole = interpolated_index(*self._whole(arm), self.grid).values
        return _with_cut(whole, self._areas[arm])

    def summary(self, arm: str, summary: Summary) -> Interval:
        return interpolated_interval(*self._whole(arm), self.grid, summary)

    def verdict(self, arm: str, switching_verified: bool) -> Verdict:
        areas, values = self._whole(arm)
        return interpolated_gate(areas, values, self.grid, switching_verified=switching_verified)

    def recovery(self, arm: str) -> RestrictedRecovery:
        """Restricted mean recovery after the switches of an arm, thresholds resampled with it.

        Raises:
            ValueError: No switch of the arm has a threshold.
        """
        columns = [self._study.matrix(arm, quantity) for quantity in RECORDS]
        records = []
        unknown = self._study.matrix(arm, UNKNOWN_RECOVERY)[:, 1:]
        cut = np.flatnonzero(~self.is_whole(arm)[1:])
        for lacking, *rows in zip(unknown, *columns, strict=True):
            regimes, shares, returns = (row[~np.isnan(row)] for row in rows)
            left_out = np.union1d(np.flatnonzero(lacking == 1.0), cut)
            records.append(RecoveryRecords(regimes - 1.0, shares, returns, left_out))
        values = self._study.matrix(arm, "regime/value")[:, 1:]
        return restricted_recovery(records, values, self.grid)


def whole_regimes(starts: Array, end: float, interval: float) -> NDArray[np.bool_]:
    """Which regimes last their whole interval in all runs, (regimes,) bool: all but a cut last one.

    Args:
        starts: (runs, regimes) environment steps at which they begin.
        end: Environment steps compared.
        interval: Environment steps of a whole regime.
    """
    edges = np.concatenate([starts, np.full((len(starts), 1), float(end))], axis=1)
    return np.asarray((np.diff(edges, axis=1) >= interval).all(axis=0))


def untrained_return(study: Study) -> float:
    """Mean of the first episodes of all runs that began with new networks; NaN without any."""
    trained = study.about.get(BEGUN_TRAINED) or ()
    names = [arm.name for arm in study.arms if arm.name not in trained]
    first = [study.matrix(name, "regime/first_episodes")[:, :1] for name in names]
    return mean_of_present(np.concatenate([np.zeros((0, 1)), *first])).mean


def lost_thresholds(study: Study, arm: str, times: Array) -> list[str]:
    """One sentence, or none, about switches without a threshold because what sets it failed.

    Args:
        study: The comparison.
        arm: Name of the arm.
        times: (runs, switches) its recovery times, NaN where unknown.
    """
    reference, lacking = str(study.about["recovery_reference"]), 0
    partners = study.runs.get(reference, {})
    for row, key in zip(times, study.runs[arm], strict=True):
        if key in partners and partners[key].status == "failed":
            ends = partners[key].values["regime/end_of_phase"][1 : len(row) + 1]
            lacking += int((np.isnan(row[: len(ends)]) & np.isnan(ends)).sum())
    if not lacking:
        return []
    return [
        f"{arm}, recovery: {lacking} of {times.size} switches of its runs have no threshold, "
        f"because the run of {reference} that sets it had failed by then; they are left out"
    ]


def tables_of(study: Study) -> dict[str, OracleTable]:
    """Arm -> the table of its fresh networks, if one was given."""
    stored: Mapping[str, Any] = study.about.get(TABLES) or {}
    return {arm: OracleTable.from_plain(content) for arm, content in stored.items()}


def oracle_table(tables: Mapping[str, OracleTable], baseline: str) -> OracleTable | None:
    """The table that the plasticity index is relative to: of the baseline or of `standard`."""
    for name in (baseline, DEFAULT_BASELINE):
        if name in tables and tables[name].grid.is_accepted:
            return tables[name]
    return None


def refused_tables(study: Study) -> list[str]:
    """One sentence about every table that does not interpolate well enough."""
    found = []
    for arm, table in tables_of(study).items():
        if not table.grid.is_accepted:
            found.append(
                f"the interpolated oracle of {arm} is not used: {error_text(table.grid)}, above "
                "10 %; train fresh networks at more values around there and make the table again"
            )
    return found


def error_text(grid: OracleGrid) -> str:
    """Where a grid interpolates worst, and how badly."""
    errors = np.abs(grid.leave_one_out())
    worst = int(np.nanargmax(errors))
    return (
        f"left out, the point at {grid.values[worst]:.3g} is missed by {100 * grid.error:.0f} % of "
        "the largest gain of a fresh network"
    )
