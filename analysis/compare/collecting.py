"""From run directories to the data of a comparison, or a refusal in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.compare.arms import (
    Arm,
    CannotCompare,
    begins_trained,
    find_baseline,
    group_arms,
    learning_settings,
    refuse_supervised,
    refuse_unfinished,
    refuse_unlike,
    shared_seeds,
)
from analysis.compare.condensed import Condensed
from analysis.compare.cut_regimes import cut_facts
from analysis.compare.evaluations import NO_TASKS, add_tasks
from analysis.compare.flags import context_flags, method_flags, resets_replay
from analysis.compare.measuring import (
    Clock,
    add_recovery,
    condensed_of,
    gradient_steps,
    measure,
    oracle_of,
    timelines,
)
from analysis.compare.members import Member, find_members, training_commands
from analysis.compare.oracle_matching import match_tables
from analysis.compare.oracle_table import OracleTable
from analysis.compare.overheads import OVERHEADS, Overheads, overhead_facts
from analysis.compare.presets import TUNING, tuning_facts
from analysis.compare.quick_evaluations import drop_unlike
from analysis.compare.study import BEGUN_TRAINED, DRAWS, FORMAT, VERIFIED, ArmFacts, Run, Study
from analysis.compare.sweep_plans import refuse_unbegun
from analysis.compare.yardsticks import TABLES, oracle_table
from analysis.continual.episodes import Array
from analysis.run_clock import drifts, may_change
from analysis.run_columns import regime_label
from analysis.statistics.bootstrap import NUM_RESAMPLES


@dataclass(frozen=True)
class Extras:
    """What other measurements add to a comparison of runs.

    Attributes:
        tables: Tables of fresh networks, and whether each was named itself.
        overheads: Overheads measured in pairs.
        switching_verified: How somebody verified that switches change the world, in words.
        draws: Bootstrap draws of the intervals.
    """

    tables: tuple[tuple[OracleTable, bool], ...] = ()
    overheads: Overheads | None = None
    switching_verified: str | None = None
    draws: int = NUM_RESAMPLES


NO_EXTRAS = Extras()
_SHOWN_PACKAGES = ("torch", "mujoco", "gymnasium", "numpy")


@dataclass(frozen=True)
class Gathered:
    """Runs that may stand in one table, and how they are looked at.

    Attributes:
        members: The runs.
        arms: Their arms.
        baseline: Name of the baseline arm.
        clock: What they share in time.
        lines: Place of a run in `members` -> boundaries and values of its regimes.
        condensed: Place of a run -> its condensed episodes.
        is_partial: Whether something was cut or left out.
    """

    members: tuple[Member, ...]
    arms: tuple[Arm, ...]
    baseline: str
    clock: Clock
    lines: Mapping[int, tuple[Array, Array]]
    condensed: Mapping[int, Condensed]
    is_partial: bool


def gather(
    paths: Iterable[Path | str], baseline: str | None = None, partial: bool = False
) -> Gathered:
    """Read runs, refuse what no table can hold together, and condense their episodes.

    Args:
        paths: Run directories or folders of them.
        baseline: Arm to compare with; without it, see `find_baseline`.
        partial: Accept unfinished runs, unequal budgets and unequal seeds: cut all runs to the
            shortest and keep the seeds that all arms share.

    Raises:
        NotARun: A folder holds no run, or files are damaged.
        CannotCompare: The runs are unlike, unfinished, incomplete or supervised, or there is no
            such arm.
    """
    found = find_members(paths)
    refuse_supervised(found)
    refuse_unlike(found, partial)
    arms = group_arms(found, partial)
    chosen = find_baseline(arms, baseline)
    if partial:
        arms = shared_seeds(arms)
    else:
        refuse_unfinished(arms)
        refuse_unbegun(found)
    members = tuple(member for arm in arms for member in arm.members)
    clock = Clock.of(members, _end(members))
    lines = timelines(members, clock)
    condensed = {
        place: condensed_of(member, clock, lines[place][0], _end_step(member, clock))
        for place, member in enumerate(members)
    }
    is_cut = clock.end < _planned(members) or len(found) != len(members)
    return Gathered(
        members, tuple(arms), chosen, clock, lines, condensed, is_partial=partial and is_cut
    )


def collect(
    paths: Iterable[Path | str],
    baseline: str | None = None,
    partial: bool = False,
    command: str = "",
    extras: Extras = NO_EXTRAS,
) -> Study:
    """Read runs and measure them.

    Args:
        paths: Run directories or folders of them.
        baseline: Arm to compare with; `standard` by default.
        partial: See `gather`.
        command: Command line that asked for it, kept with the data.
        extras: What other measurements add.

    Raises:
        NotARun: A folder holds no run, or files are damaged.
        CannotCompare: The runs are unlike, unfinished or incomplete, or there is no such arm.
        UnlikeRuns: Success on tasks was measured in ways that cannot be compared.
    """
    return measured(gather(paths, baseline, partial), command, extras)


def measured(gathered: Gathered, command: str = "", extras: Extras = NO_EXTRAS) -> Study:
    """Measure runs that belong together; see `collect`."""
    members, clock = gathered.members, gathered.clock
    values = {
        place: measure(
            member,
            gathered.condensed[place],
            clock,
            gathered.lines[place],
            _end_step(member, clock),
        )
        for place, member in enumerate(members)
    }
    in_percent = all(np.isfinite(member.rank_units) for member in members)
    if in_percent:
        for place, member in enumerate(members):
            _scale_ranks(values[place], 100.0 / member.rank_units)
    tables = match_tables(extras.tables, gathered.arms, clock)
    reference = add_recovery(
        values,
        gathered.condensed,
        members,
        gathered.arms,
        clock,
        gathered.baseline,
        oracle_table(tables, gathered.baseline),
    )
    about = {
        "format": FORMAT,
        "baseline": gathered.baseline,
        "oracle": oracle_of(gathered.arms, gathered.baseline),
        TABLES: {name: table.plain() for name, table in tables.items()},
        TUNING: tuning_facts(gathered.arms),
        OVERHEADS: overhead_facts(extras.overheads, gathered.arms, gathered.baseline),
        "recovery_reference": reference,
        "command": command,
        "partial": gathered.is_partial,
        "end": clock.end,
        "total_steps": _planned(members),
        "windows": clock.windows,
        "stationary": clock.stationary,
        "rank_in_percent": in_percent,
        **_world_facts(members, clock),
        **cut_facts(
            members[0].config["env"], [line for line, _ in gathered.lines.values()], clock.windows
        ),
        # Tasks are evaluated at the ends of whole runs, which a cut comparison does not look at.
        **drop_unlike(values, members),
        **(add_tasks(values, members) if clock.end == _planned(members) else NO_TASKS),
        "training_commands": training_commands(members),
        **_provenance(members),
        **_begun_trained(gathered.arms),
        **({DRAWS: extras.draws} if extras.draws != NUM_RESAMPLES else {}),
        **({VERIFIED: extras.switching_verified} if extras.switching_verified else {}),
    }
    facts = _facts(gathered.arms, gathered.baseline)
    return Study(about, facts, _runs(gathered.arms, facts, members, values, clock))


def _budgets(members: Sequence[Member]) -> list[int]:
    return [int(member.config["total_steps"]) for member in members]


def _planned(members: Sequence[Member]) -> int:
    return max(_budgets(members))


def _end(members: Sequence[Member]) -> int:
    """Steps that all runs have done which have not failed."""
    budget = min(_budgets(members))
    unfinished = [member for member in members if member.status == "unfinished"]
    shortest = min(unfinished, key=lambda member: member.env_steps, default=None)
    if shortest is None:
        return budget
    if shortest.env_steps <= 0:
        raise CannotCompare(f"{shortest.path} has written nothing yet; wait, or leave it out")
    return min(shortest.env_steps, budget)


def _end_step(member: Member, clock: Clock) -> int:
    return min(member.env_steps, clock.end) if member.status == "failed" else clock.end


def _scale_ranks(values: dict[str, Array], factor: float) -> None:
    for quantity in ("curve/stable_rank", "end/stable_rank"):
        if quantity in values:
            values[quantity] = values[quantity] * factor


def _facts(arms: Sequence[Arm], baseline: str) -> tuple[ArmFacts, ...]:
    """Baseline first, then arms that are told nothing, those told of switches, fresh copies."""
    settings = {arm.name: learning_settings(arm.members[0].config) for arm in arms}
    facts = []
    for arm in arms:
        first = arm.members[0]
        uses, resets = method_flags(first.config)
        context = context_flags(first.config)
        place = first.path.resolve().parent
        facts.append(
            ArmFacts(
                arm.name,
                str(first.identity["agent"]),
                str(first.identity["network"]),
                "/".join((place.parents[1].name, place.parent.name, place.name)),
                arm.fresh_of,
                uses,
                resets,
                context.told,
                context.is_oracle,
                context.uses_boundaries,
                _differences(settings[baseline], settings[arm.name]),
                resets_replay(first.config),
            )
        )
    return tuple(
        sorted(
            facts,
            key=lambda f: (
                f.fresh_of is not None,
                f.name != baseline and f.uses_task_boundary,
                f.name != baseline,
                f.name,
            ),
        )
    )


def _differences(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: str(given.get(key, "absent"))
        for key in sorted(base.keys() | given.keys())
        if base.get(key, "absent") != given.get(key, "absent")
    }


def _runs(
    arms: Sequence[Arm],
    facts: Sequence[ArmFacts],
    members: Sequence[Member],
    values: Mapping[int, Mapping[str, Array]],
    clock: Clock,
) -> dict[str, dict[tuple[int, int], Run]]:
    places = {id(member): place for place, member in enumerate(members)}
    by_name = {arm.name: arm for arm in arms}
    runs: dict[str, dict[tuple[int, int], Run]] = {}
    for fact in facts:
        runs[fact.name] = {}
        for member in by_name[fact.name].members:
            steps = _end_step(member, clock)
            # What happened after the steps compared is not part of them.
            is_of_then = member.status != "failed" or member.env_steps <= clock.end
            runs[fact.name][member.key] = Run(
                member.status if is_of_then else "finished",
                steps,
                gradient_steps(member.config, steps),
                member.speed,
                values[places[id(member)]],
            )
    return runs


def _world_facts(members: Sequence[Member], clock: Clock) -> dict[str, Any]:
    config = members[0].config["env"]
    changes = drifts(config) or any(_has_changed(member, clock.end) for member in members)
    unchanged = {"may_change": True} if clock.stationary and may_change(config) else {}
    return {
        "env": str(members[0].identity["env"]),
        "env_kind": str(config.get("kind")),
        "world": {key: str(value) for key, value in config.items() if key != "world_seed"},
        "regime_label": regime_label(config),
        "values_change": changes,
        **unchanged,  # data of other comparisons stay as they were
    }


def _begun_trained(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """Arms whose runs go on from a checkpoint; data without any stay as they were."""
    names = [arm.name for arm in arms if begins_trained(arm.members[0].config)]
    return {BEGUN_TRAINED: names} if names else {}


def _has_changed(member: Member, end: int) -> bool:
    """Whether a run has met worlds of different values, also where windows stand for them."""
    pairs = zip(member.starts, member.values, strict=True)
    return len({value for start, value in pairs if start < end and np.isfinite(value)}) > 1


def _provenance(members: Sequence[Member]) -> dict[str, list[str]]:
    machines, commits = set(), set()
    for member in members:
        about = member.environment
        if not about:
            continue
        cpu, packages = about.get("cpu") or {}, about.get("packages") or {}
        versions = [f"{name} {packages[name]}" for name in _SHOWN_PACKAGES if packages.get(name)]
        machines.add(
            ", ".join(
                [
                    f"{cpu.get('model')} with {cpu.get('cores')} cores",
                    str(about.get("platform")),
                    f"Python {about.get('python')}",
                    *versions,
                ]
            )
        )
        dirty = " with uncommitted changes" if about.get("uncommitted_changes") else ""
        commits.add(f"{about.get('commit')}{dirty}")
    return {"machines": sorted(machines), "commits": sorted(commits)}
