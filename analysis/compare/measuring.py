"""From episodes and rows of runs to the quantities that a comparison is about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.compare.arms import DEFAULT_BASELINE, Arm, CannotCompare, begins_trained
from analysis.compare.condensed import BASE_BINS, Condensed, condense
from analysis.compare.members import QUICK_SUCCESS, Member, Series
from analysis.compare.oracle_table import OracleTable
from analysis.compare.study import CURVES, RECORDS, UNKNOWN_RECOVERY
from analysis.continual import (
    Episodes,
    OracleGrid,
    completed_shares,
    records_between,
    recovery_shares,
    recovery_threshold,
    seed_thresholds,
)
from analysis.continual.episodes import PHASE_SHARE, Array
from analysis.run_clock import learning_steps, num_envs, num_rollouts
from analysis.statistics import mean_of_present

EPISODES_PER_BIN = 5
DIVISORS = tuple(d for d in range(1, BASE_BINS + 1) if BASE_BINS % d == 0)
MAX_REGIMES = 50
NUM_WINDOWS = 10


@dataclass(frozen=True)
class Clock:
    """What all runs of a comparison share in time.

    Attributes:
        end: Environment steps compared.
        windows: Whether equal windows stand for regimes: there are none, too many, or not equally
            many in all runs.
        stationary: Whether nothing changes in these steps.
        return_bins: Bins of the return curves, a divisor of 100.
        diagnostic_bins: Bins of all other curves.
    """

    end: int
    windows: bool
    stationary: bool
    return_bins: int
    diagnostic_bins: int

    @classmethod
    def of(cls, members: Sequence[Member], end: int) -> Clock:
        """Choose bins of 1 % of the time, wider where runs have too few data for that."""
        whole = [member for member in members if member.status != "failed"] or list(members)
        episodes = min(_num_complete(m, end) for m in whole)
        rows = [
            min((int((m.series[c][0] <= end).sum()) for m in whole if c in m.series), default=0)
            for c in CURVES
        ]
        fewest = min((count for count in rows if count), default=1)
        regimes = max(_num_regimes(m, end) for m in members)
        # A failed run has not seen its later regimes; all others must have equally many.
        is_even = len({_num_regimes(m, end) for m in whole}) == 1
        return cls(
            end,
            regimes == 1 or regimes > MAX_REGIMES or not is_even,
            regimes == 1,
            max(d for d in DIVISORS if d <= max(1, episodes // EPISODES_PER_BIN)),
            max(1, min(BASE_BINS, fewest)),
        )


def _num_regimes(member: Member, end: int) -> int:
    return sum(start < end for start in member.starts)


def _num_complete(member: Member, end: int) -> int:
    """Episodes that ended in time and were not cut."""
    if member.condensed is not None:
        return member.condensed.num_complete
    return int((~member.episodes.cut & (member.episodes.end_steps <= end)).sum())


def timelines(members: Sequence[Member], clock: Clock) -> dict[int, tuple[Array, Array]]:
    """Boundaries (regimes + 1,) and physical values (regimes,) of every run, by its place.

    A failed run has not seen its later regimes; they come from a run of the same world that has,
    and only where there is none from a run of another one.
    """
    if clock.windows:
        edges = np.linspace(0.0, clock.end, NUM_WINDOWS + 1)
        return {place: (edges, np.full(NUM_WINDOWS, math.nan)) for place in range(len(members))}
    lines = {}
    for place, member in enumerate(members):
        starts, values = list(member.starts), list(member.values)
        if member.status == "failed":
            alike = [other for other in members if other.key[0] == member.key[0]]
            for other in (_longest(alike), _longest(members)):
                starts += other.starts[len(starts) :]
                values += other.values[len(values) :]
        inside = [k for k, start in enumerate(starts) if start < clock.end]
        edges = np.array([starts[k] for k in inside] + [clock.end], dtype=np.float64)
        lines[place] = edges, np.array([values[k] for k in inside], dtype=np.float64)
    return lines


def _longest(members: Sequence[Member]) -> Member:
    """The run that has seen most regimes."""
    return max(members, key=lambda member: len(member.starts))


def episodes_until(member: Member, clock: Clock, boundaries: Array) -> Episodes:
    """Episodes that ended in time, with windows as their regimes where these stand for them."""
    episodes = member.episodes.select(member.episodes.end_steps <= clock.end)
    if not clock.windows:
        return episodes
    places = np.searchsorted(boundaries, episodes.start_steps, side="right") - 1
    return replace(episodes, regimes=np.clip(places, 0, NUM_WINDOWS - 1))


def condensed_of(member: Member, clock: Clock, boundaries: Array, end_step: int) -> Condensed:
    """The condensed episodes of a run, as a small copy has stored them or computed here.

    Raises:
        CannotCompare: A copy was made of another stretch of time.
    """
    stored = member.condensed
    if stored is None:
        episodes = episodes_until(member, clock, boundaries)
        return condense(episodes, boundaries, clock.end, clock.windows, member.env_steps)
    if (stored.end, stored.windows) != (clock.end, clock.windows):
        raise CannotCompare(
            f"{member.path} is a small copy that holds scores of {stored.end:,} steps, but this "
            f"comparison looks at {clock.end:,}; compare the runs themselves, or only copies that "
            "were made together"
        )
    seen = boundaries[:-1] < end_step
    if not np.array_equal(stored.starts[: seen.sum()], boundaries[:-1][seen]):
        raise CannotCompare(
            f"{member.path} is a small copy with regimes that begin at other steps than its "
            "events say; copy the run again"
        )
    return stored


def measure(
    member: Member, condensed: Condensed, clock: Clock, line: tuple[Array, Array], end_step: int
) -> dict[str, Array]:
    """Scores and curves of one run.

    Args:
        member: The run.
        condensed: Its episodes.
        clock: Shared by all.
        line: Boundaries and values of its regimes.
        end_step: Environment steps it has done, at most `clock.end`.

    Returns:
        Quantity -> (points,) values.
    """
    boundaries, physical = line
    num_regimes = len(boundaries) - 1
    phase_starts = boundaries[1:] - PHASE_SHARE * np.diff(boundaries)
    found = {
        "lifetime": np.array([condensed.lifetime]),
        "completed": np.array([end_step / clock.end]),
        "regime/start": boundaries[:-1],
        "regime/value": physical,
        "regime/area": condensed.regimes("areas", num_regimes),
        "regime/end_of_phase": condensed.regimes("phases", num_regimes),
        "regime/first_episodes": condensed.regimes("first", num_regimes),
        "regime/drop": condensed.regimes("drops", num_regimes),
        "regime/completed": completed_shares([end_step], boundaries[:-1], boundaries[1:])[0],
        "regime/phase_completed": completed_shares([end_step], phase_starts, boundaries[1:])[0],
        "curve/return": _short(condensed.curve(clock.return_bins)),
    }
    costs = {"parameters": member.parameters, "peak_memory_mib": member.peak_memory_mib}
    found |= {f"cost/{name}": np.array([v]) for name, v in costs.items() if not math.isnan(v)}
    for metric, (steps, values) in member.series.items():
        if metric == QUICK_SUCCESS:
            inside = steps <= clock.end
            found["quick/step"], found["quick/success"] = steps[inside], values[inside]
        else:
            series = steps, values
            found[f"curve/{metric}"] = _short(_binned(series, clock.end, clock.diagnostic_bins))
            found[f"end/{metric}"] = np.array([_late_mean(series, end_step)])
    if not clock.windows:
        found |= {f"before/{m}": values[:num_regimes] for m, values in member.before.items()}
    return found


def _short(curve: Array) -> Array:
    """Seven digits are plenty for a picture and keep the data small."""
    return np.array([float(f"{value:.7g}") for value in curve])


def _binned(series: Series, end: int, num_bins: int) -> Array:
    """Mean of the values in each bin (edge, next edge]; NaN for an empty one."""
    steps, values = series
    edges = np.linspace(0.0, end, num_bins + 1)
    places = np.searchsorted(edges, steps, side="left") - 1
    inside = (places >= 0) & (places < num_bins)
    counts = np.bincount(places[inside], minlength=num_bins)
    sums = np.bincount(places[inside], values[inside], minlength=num_bins)
    return np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)


def _late_mean(series: Series, end_step: int) -> float:
    """Mean over the last 12.5 % of the run, or the last value before."""
    steps, values = series
    done = steps <= end_step
    late = values[done & (steps > (1.0 - PHASE_SHARE) * end_step)]
    if len(late):
        return float(late.mean())
    return float(values[done][-1]) if done.any() else math.nan


def add_recovery(
    values: Mapping[int, dict[str, Array]],
    condensed: Mapping[int, Condensed],
    members: Sequence[Member],
    arms: Sequence[Arm],
    clock: Clock,
    baseline: str,
    table: OracleTable | None = None,
) -> str:
    """Add recovery times to the values of all runs, and where too few episodes leave them unknown.

    The threshold of a regime lies 90 % of the way from the untrained policy's return to the end
    of the phase of the run's partner: fresh networks interpolated from a grid if there is one,
    the fresh oracle if it was run on every seed, otherwise the baseline arm. Thresholds from a
    grid are estimates: the records that decide about all that its seeds could give are kept. Its
    networks learned for whole regimes, so that one that is cut short has no threshold. Runs that go
    on from a checkpoint do not say what an untrained policy returns. A failed run has never
    recovered from its failure on, also where its partner is itself and sets no threshold there.

    Args:
        values: Place of a run in `members` -> its quantities, extended here.
        condensed: Place of a run -> its episodes.
        members: All runs.
        arms: Their arms.
        clock: Shared by all.
        baseline: Name of the baseline arm.
        table: Fresh networks of the baseline.

    Returns:
        Name of what sets the thresholds.

    Raises:
        CannotCompare: A world lies outside the grid.
    """
    places = {id(member): place for place, member in enumerate(members)}
    by_name = {arm.name: {m.key: places[id(m)] for m in arm.members} for arm in arms}
    oracle = oracle_of(arms, baseline)
    reference = baseline if oracle is None else oracle
    grid = None if table is None else table.grid
    fresh = [place for place, member in enumerate(members) if not begins_trained(member.config)]
    usual = mean_of_present([values[place]["regime/first_episodes"][0] for place in fresh]).mean
    for place, member in enumerate(members):
        boundaries = np.append(values[place]["regime/start"], clock.end)
        thresholds = np.full(len(boundaries) - 1, math.nan)
        partner = by_name[reference].get(member.key)
        ended = np.zeros(len(thresholds), dtype=bool)  # where the partner has no end of the phase
        if grid is not None:
            try:
                thresholds = grid.thresholds(values[place]["regime/value"])
            except ValueError as error:
                raise CannotCompare(f"{member.path} has no interpolated oracle: {error}") from error
            assert table is not None
            thresholds[np.diff(boundaries) < table.settings.interval] = math.nan
        elif partner is not None:
            theirs = values[partner]
            untrained = theirs["regime/first_episodes"]
            if oracle is None:  # only its first regime began with an untrained policy
                first = untrained[0] if partner in fresh else usual
                untrained = np.full(len(untrained), first)
            if oracle is not None or not math.isnan(usual):
                ended = np.isnan(theirs["regime/end_of_phase"][: len(thresholds)])
            for k, final in enumerate(theirs["regime/end_of_phase"][: len(thresholds)]):
                if final > untrained[k]:
                    thresholds[k] = recovery_threshold(float(untrained[k]), float(final))
        found = condensed[place]
        records = found.record_regimes, found.record_steps, found.record_returns
        times = recovery_shares(records, boundaries, thresholds)
        unknown = np.isfinite(thresholds) & np.isnan(times)
        if member.status == "failed":  # from its failure on it has no episodes and no recovery
            lost = np.isnan(times) & (values[place]["regime/completed"] < 1.0)
            lost &= np.isfinite(thresholds) | ended
            times[lost], unknown[lost] = math.inf, False
        values[place]["regime/recovery"] = times
        if unknown.any():
            values[place][UNKNOWN_RECOVERY] = unknown.astype(np.float64)
        if grid is not None:
            worlds = values[place]["regime/value"]
            bounds = _threshold_bounds(grid, worlds, thresholds)
            kept = records_between(records, boundaries, *bounds)
            values[place].update(zip(RECORDS, kept, strict=True))
    return reference if grid is None else "interpolated fresh networks"


def _threshold_bounds(grid: OracleGrid, worlds: Array, thresholds: Array) -> tuple[Array, Array]:
    """Lowest and highest threshold of any resampled seeds, NaN where there is none."""
    single = np.append(seed_thresholds(grid, worlds), thresholds[:, None], axis=1)
    low, high = single.min(axis=1), single.max(axis=1)  # NaN spreads
    margin = 1e-9 * np.maximum(np.abs(low), np.abs(high))  # means of many seeds are rounded
    return low - margin, high + margin


def oracle_of(arms: Sequence[Arm], baseline: str) -> str | None:
    """Name of the fresh network that covers all seeds: a copy of the baseline or of `standard`."""
    wanted = next(set(arm.keys) for arm in arms if arm.name == baseline)
    for original in (baseline, DEFAULT_BASELINE):
        for arm in arms:
            if arm.fresh_of == original and wanted <= set(arm.keys):
                return arm.name
    return None


def gradient_steps(config: Mapping[str, Any], env_steps: int) -> float:
    """Gradient steps of the policy after some environment steps; NaN for an unknown agent."""
    agent = config["agent"]
    if "rollout_length" in agent:
        rollout = int(agent["rollout_length"]) * num_envs(config["env"])
        batches = math.ceil(rollout / int(agent["minibatch_size"]))
        rollouts = num_rollouts(config, env_steps, rollout)
        return float(rollouts * int(agent["num_epochs"]) * batches)
    if "updates_per_env_step" in agent:
        owed = learning_steps(config, env_steps) * float(agent["updates_per_env_step"])
        return float(math.floor(owed + 1e-9))  # as `UpdateClock` counts them
    return math.nan
