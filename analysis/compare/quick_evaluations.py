"""Quick evaluations on a few goals: which runs have them, and curves of several runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from analysis.compare.members import QUICK_SUCCESS, Member
from analysis.compare.study import Run, Study
from analysis.continual.episodes import Array

# Goals that runs were evaluated on, where they were not the same; absent where they were.
UNLIKE_GOALS = "quick_goals"
_QUANTITIES = ("quick/step", "quick/success")


def quick_evaluations(run: Run) -> tuple[Array, Array] | None:
    """(evaluations,) environment steps and success from 0 to 1; None for a run without any."""
    steps, success = (run.values.get(name) for name in _QUANTITIES)
    return None if steps is None or success is None or not len(steps) else (steps, success)


def drop_unlike(
    values: Mapping[int, dict[str, Array]], members: Sequence[Member]
) -> dict[str, list[str]]:
    """Take quick evaluations away from all runs if these visited other goals in some of them.

    Success on the easiest goal and on fifty is not the same quantity, so neither a curve nor an
    area nor what is still learning can be compared; everything else can.

    Args:
        values: Place of a run -> its quantities, changed here.
        members: All runs.

    Returns:
        `quick_goals`, what was visited, in words; nothing where all visited the same goals.
    """
    visited: dict[tuple[int, ...], str] = {}
    for member in members:
        goals = (member.config.get("log") or {}).get("quick_evaluation_goals")
        if QUICK_SUCCESS in member.series and goals is not None:
            place = "/".join(member.path.resolve().parts[-4:])
            visited.setdefault(tuple(sorted(map(int, goals))), place)
    if len(visited) < 2:
        return {}
    for quantities in values.values():
        for name in _QUANTITIES:
            quantities.pop(name, None)
    return {UNLIKE_GOALS: [f"{list(goals)} in {place}" for goals, place in visited.items()]}


def quick_warnings(study: Study) -> list[str]:
    """What a reader must know of areas under the curve and curves of success."""
    if visited := study.about.get(UNLIKE_GOALS):
        return [
            f"quick evaluations visited other goals ({'; '.join(visited)}), so that they are left "
            "out: no area under the curve, and unknown who is still learning; train with one "
            "log.quick_evaluation_goals, or compare runs apart"
        ]
    runs = {f"{a} seed {s}": r for a, found in study.runs.items() for (_, s), r in found.items()}
    without = {name: run for name, run in runs.items() if quick_evaluations(run) is None}
    lacking = [name for name, run in without.items() if run.status != "failed"]
    if not lacking or len(without) == len(runs):
        return []
    return [
        f"no quick evaluations in {len(lacking)} of {len(runs)} runs, such as {lacking[0]}: areas "
        "under the curve, gains over the last fifth and curves of success are those of the others"
    ]


def quick_curves(runs: Sequence[Run]) -> tuple[Array, Array]:
    """Success of the quick evaluations of several runs at common steps.

    Runs may have been evaluated at different steps. Every run is read at the steps of all of them,
    on straight lines between its own evaluations, and only where all have some before and after:
    a mean over other runs at every second point would zigzag.

    Args:
        runs: Of one arm.

    Returns:
        (points,) environment steps, empty where no run was evaluated, and (runs, points) success
        from 0 to 1: NaN for a run without evaluations, 0 from a failure on, as in the table of
        tasks.
    """
    found = [quick_evaluations(run) for run in runs]
    known = [own for own in found if own is not None]
    if not known:
        return np.zeros(0), np.zeros((len(runs), 0))
    first = max(steps[0] for steps, _ in known)
    whole = [own for own, run in zip(found, runs, strict=True) if own and run.status != "failed"]
    last = min((steps[-1] for steps, _ in whole), default=math.inf)
    steps = np.unique(np.concatenate([steps for steps, _ in known]))
    steps = steps[(steps >= first) & (steps <= last)]
    success = np.full((len(runs), len(steps)), math.nan)
    for row, own, run in zip(success, found, runs, strict=True):
        if own is not None:
            row[:] = np.interp(steps, *own)
        if run.status == "failed":
            row[steps > run.env_steps] = 0.0
    return steps, success
