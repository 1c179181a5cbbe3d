"""How the steps of a run are counted, from its stored settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DRIFTING = ("gradual", "sinusoidal")


def num_envs(env: Mapping[str, Any]) -> int:
    """Environments that are stepped together in training.

    Args:
        env: The part `env` of a configuration.
    """
    if "num_envs" in env:
        return int(env["num_envs"])
    copies = int(env.get("copies", 1))
    if env.get("kind") != "meta_world":  # a sequence trains on one task at a time
        return copies
    # Reading files must not import MuJoCo: films choose its OpenGL before it is imported.
    from envs.meta_world_tasks import benchmark_tasks

    named = str(env.get("task", "")), tuple(env.get("tasks") or ())
    tasks = benchmark_tasks(str(env["benchmark"]), *named)
    return copies * len(tasks)


def learning_steps(config: Mapping[str, Any], env_steps: int) -> int:
    """Environment steps of soft actor-critic of which gradient steps were owed.

    Args:
        config: Of the run; its agent waits before it learns, at every announced switch again with
            `warmup_on_switch`.
        env_steps: Done so far.
    """
    agent, env = config["agent"], config["env"]
    starts = agent.get("learning_starts")
    wait = int(agent.get("warmup_steps", 0) if starts is None else starts)
    length = int(env.get("steps_per_task") or env.get("switch_interval") or 0)
    again = agent.get("warmup_on_switch") and config.get("boundary") == "oracle"
    if not again or not length:
        return max(0, env_steps - wait)
    whole, rest = divmod(env_steps, length)
    return whole * max(0, length - wait) + max(0, rest - wait)


def drifts(env: Mapping[str, Any]) -> bool:
    """Whether values drift within worlds, so that steps without a switch are no standstill."""
    return env.get("schedule") in DRIFTING


def may_change(env: Mapping[str, Any]) -> bool:
    """Whether a longer run meets another world."""
    if env.get("kind") == "sequences":
        return env.get("only_task") is None
    return env.get("schedule", "fixed") != "fixed"
