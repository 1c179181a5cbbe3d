"""Success on tasks, for runs that end with an evaluation of every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.compare.members import Member
from analysis.continual.episodes import Array
from analysis.multitask.records import FILE, Evaluation, load_evaluations
from analysis.multitask.study import check_alike
from configs.run import can_visit_goals

FACTS = ("benchmark", "reward_version", "horizon", "success", "num_goals", "goal_policy", "backend")
# Runs whose evaluation is of another step than their last -> that step and the last one; absent
# where there is none, and in older data.
OF_OTHER_STEPS = "evaluated_at_other_steps"
NO_TASKS: Mapping[str, Any] = {"tasks": [], "task_facts": {}, "not_evaluated": []}


def has_evaluation(member: Member) -> bool:
    """Whether a run has an evaluation of its tasks.

    Walking robots have a file of the same name with returns in chosen worlds.
    """
    return (member.path / FILE).is_file() and can_visit_goals(str(member.config["env"]["kind"]))


def add_tasks(values: Mapping[int, dict[str, Array]], members: Sequence[Member]) -> dict[str, Any]:
    """Add success by task to the values of all runs that have it.

    A failed run has no final checkpoint to evaluate: it counts as no success at all.

    Args:
        values: Place of a run -> its quantities, extended here.
        members: All runs.

    Returns:
        `tasks`, their labels, empty where nothing was evaluated; `task_facts`, what makes the
        numbers comparable; `not_evaluated`, runs without an evaluation of their last step; and
        `OF_OTHER_STEPS`, those of them that have one of an earlier or later checkpoint.

    Raises:
        NotAnEvaluation: A file is damaged.
        UnlikeRuns: The evaluations mean different things.
    """
    found: dict[int, Evaluation] = {}
    others: dict[str, list[int]] = {}
    for place, member in enumerate(members):
        if member.status != "failed" and has_evaluation(member):
            (evaluation,) = load_evaluations(member.path)
            steps = int(evaluation.about["env_steps"])
            if steps == member.env_steps:
                found[place] = evaluation
            else:
                others[_short_name(member)] = [steps, member.env_steps]
    left_out = {OF_OTHER_STEPS: others} if others else {}
    if not found:
        return {**NO_TASKS, **left_out}
    check_alike(list(found.values()))
    first = next(iter(found.values()))
    lacking = []
    for place, member in enumerate(members):
        if place in found:
            outcomes = found[place].outcomes
            values[place]["task/success"] = outcomes.rates.astype(np.float64)
            values[place]["task/final_success"] = outcomes.final_success.mean(axis=1)
            values[place]["task/return"] = outcomes.episode_return.mean(axis=1)
        elif member.status == "failed":
            for name in ("success", "final_success"):
                values[place][f"task/{name}"] = np.zeros(len(first.tasks))
        else:
            lacking.append(_short_name(member))
    facts = {key: first.manifest[key] for key in FACTS}
    about = {"tasks": list(first.labels), "task_facts": facts, "not_evaluated": lacking}
    return {**about, **left_out}


def _short_name(member: Member) -> str:
    return "/".join(member.path.resolve().parts[-4:])
