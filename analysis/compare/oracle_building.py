"""From runs in single worlds to tables of fresh networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from analysis.compare.arms import CannotCompare, stripped
from analysis.compare.members import Member, find_members, training_commands
from analysis.compare.oracle_settings import OracleSettings, world_value
from analysis.compare.oracle_table import OracleTable, grid_of
from analysis.continual import end_of_phase, lifetime_average, score_failures, zero_shot_return


def build_tables(paths: Iterable[Path | str], command: str = "") -> list[OracleTable]:
    """Make a table of every agent among runs of single worlds.

    Args:
        paths: Run directories or folders of them, such as runs/oracle_grid.
        command: Command line that asked for it, kept with the table.

    Raises:
        NotARun: A folder holds no run, or files are damaged.
        CannotCompare: Runs that are no part of a grid, or a grid with holes.
    """
    groups: dict[str, list[Member]] = {}
    for member in find_members(paths):
        _refuse_wrong(member)
        groups.setdefault(_settings(member).key, []).append(member)
    return [_table(members, command) for members in groups.values()]


def _settings(member: Member) -> OracleSettings:
    return OracleSettings.of(member.config, int(member.config["total_steps"]))


def _refuse_wrong(member: Member) -> None:
    try:
        world_value(member.config["env"])
    except ValueError as error:
        raise CannotCompare(
            f"{member.path} is not a run of fresh networks in a single world: {error}; name runs "
            "such as those of experiment=oracle_grid"
        ) from error
    if member.condensed is not None:
        raise CannotCompare(
            f"{member.path} is a small copy; name the runs themselves (their table is small enough "
            "to keep)"
        )
    if member.status == "unfinished":
        raise CannotCompare(
            f"{member.path} is at step {member.env_steps:,} of "
            f"{member.config['total_steps']:,}; give the training command again to finish it"
        )


def _table(members: Sequence[Member], command: str) -> OracleTable:
    rows = [_row(member) for member in members]
    try:
        seeds, grid = grid_of(rows)
    except ValueError as error:
        place = members[0].path.resolve().parent
        raise CannotCompare(f"the runs beside {place} make no table: {error}") from error
    first = members[0].identity
    arm = stripped(first)
    commits = {str(m.environment.get("commit")) for m in members if m.environment}
    about = {
        "command": command,
        "training_commands": training_commands(members),
        "commits": sorted(commits),
        "failed": sum(member.status == "failed" for member in members),
    }
    label = "-".join([str(first["env"]), str(first["agent"]), str(first["network"]), arm])
    return OracleTable(arm, label, _settings(members[0]), seeds, grid, about)


def _row(member: Member) -> tuple[float, int, float, float, float]:
    """One run; from a failure on it earns the untrained policy's return."""
    interval, episodes = int(member.config["total_steps"]), member.episodes
    untrained = zero_shot_return(episodes, 0)
    area = lifetime_average(episodes.returns, episodes.lengths)
    phase = float(end_of_phase(episodes, [0, interval])[0])
    if member.status == "failed":
        done = member.env_steps / interval
        area = float(score_failures([area], [done], untrained)[0])
        phase = untrained
    if not np.isfinite([area, phase, untrained]).all():
        raise CannotCompare(
            f"{member.path} has no complete episode at its beginning or its end; train longer"
        )
    return world_value(member.config["env"]), int(member.identity["seed"]), area, phase, untrained
