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
    names = ["steps_per_task"]
    is_abrupt = getattr(env, "schedule", "") in ("abrupt", "list", "cyclic")
    if is_abrupt and env.switch_rule == "exact" and env.intervals == "fixed":
        names.append("switch_interval")
    found = {name: getattr(env, name, None) for name in names}
    return {name: steps for name, steps in found.items() if steps and steps < total_steps}
