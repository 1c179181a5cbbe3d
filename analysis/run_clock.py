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
            `warmup_on_switch` or where it begins anew.
        env_steps: Done so far.
    """
    agent = config["agent"]
    starts = agent.get("learning_starts")
    wait = int(agent.get("warmup_steps", 0) if starts is None else starts)
    length = _announced_length(config)
    again = agent.get("warmup_on_switch") or config.get("fresh_at_switch")
    if not again or not length:
        return max(0, env_steps - wait)
    whole, rest = divmod(env_steps, length)
    return whole * max(0, length - wait) + max(0, rest - wait)


def num_rollouts(config: Mapping[str, Any], env_steps: int, rollout: int) -> int:
    """Rollouts that an on-policy agent has learnt from.

    Args:
        config: Of the run. An agent that begins anew at announced switches drops the rollout that
            it was filling, or had filled with the last step before one that is announced at once.
        env_steps: Done so far.
        rollout: Environment steps of a rollout.
    """
    length = _announced_length(config)
    if not config.get("fresh_at_switch") or not length:
        return env_steps // rollout
    num_switches = max(0, env_steps - 1) // length  # nothing is announced at the very end
    learns_first = config["env"].get("kind") == "sequences"  # announces_after_update
    until_switch = (length if learns_first else length - 1) // rollout
    return num_switches * until_switch + (env_steps - num_switches * length) // rollout


def _announced_length(config: Mapping[str, Any]) -> int:
    """Environment steps of a world that ends with an announced switch; 0 where none does."""
    env = config["env"]
    if config.get("boundary") != "oracle":
        return 0
    return int(env.get("steps_per_task") or env.get("switch_interval") or 0)


def drifts(env: Mapping[str, Any]) -> bool:
    """Whether values drift within worlds, so that steps without a switch are no standstill."""
    return env.get("schedule") in DRIFTING


def may_change(env: Mapping[str, Any]) -> bool:
    """Whether a longer run meets another world."""
    if env.get("kind") == "sequences":
        return env.get("only_task") is None
    return env.get("schedule", "fixed") != "fixed"
