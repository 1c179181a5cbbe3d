"""How long the worlds of a run last, where that is known beforehand."""

from __future__ import annotations

from typing import Any


def world_lengths(env: Any, total_steps: int) -> dict[str, int]:
    """Environment steps of every world of a run that meets several, by the setting that says so.

    Empty where worlds drift, may last longer than planned, or the run ends within the first.

    Args:
        env: Settings of the environment.
        total_steps: Of the run.
    """
    found = {"steps_per_task": getattr(env, "steps_per_task", None)}
    found["switch_interval"] = first_world(env)
    return {name: steps for name, steps in found.items() if steps and steps < total_steps}


def first_world(env: Any) -> int | None:
    """Environment steps of the first physical world; None where that is not known beforehand.

    Args:
        env: Settings of the environment.
    """
    is_abrupt = getattr(env, "schedule", "") in ("abrupt", "list", "cyclic")
    is_planned = is_abrupt and env.switch_rule == "exact" and env.intervals == "fixed"
    return int(env.switch_interval) if is_planned else None
