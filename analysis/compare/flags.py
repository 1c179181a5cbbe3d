"""What the methods of a run are allowed to do, asked from the methods themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.base import Agent
from agents.parts import METHODS, NETWORKS, OPTIMIZERS, Parts
from configs.run import AGENTS
from configs.schema import load
from networks.registry import Registry
from networks.torso import ContextSpec

_STRENGTH = ("no", "entries", "all")
# What the worlds would say; only the settings decide what a method does.
_OBSERVATION_DIM, _ACTION_DIM, _CONTEXT_DIM = 6, 2, 4
_MAX_REPLAY = 20_000


class UnknownSettings(ValueError):
    """Settings of a run that this version cannot build its agent from."""


def method_flags(config: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the methods use announced task boundaries, and how they touch the optimizer.

    Settings decide both, so the agent is built as the run built it, for a small world.

    Args:
        config: Settings of one run.

    Returns:
        Use of boundaries, and the strongest of `no`, `entries` and `all`.

    Raises:
        UnknownSettings: The agent cannot be built; the message says why.
    """
    if config.get("fresh_at_switch"):  # whatever the methods do, it begins anew with the rest
        return True, "all"
    if not config.get("method"):
        return False, "no"
    agent = _agent(config)
    try:
        methods = [
            method for update in agent.updates.values() for method in update.methods.values()
        ]
        uses = bool(agent.methods_that_need_boundaries())
        resets = [method.resets_optimizer for method in methods]
        return uses, max(["no", *resets], key=_STRENGTH.index)
    finally:
        agent.close()


def _agent(config: Mapping[str, Any]) -> Agent:
    """Build the agent, with a context only if it asks for one."""
    reasons = []
    for context in (ContextSpec(), ContextSpec(_CONTEXT_DIM, discrete=True)):
        try:
            return _built(config, context)
        except ValueError as error:
            reasons.append(" ".join(str(error).split()))
    raise UnknownSettings(
        f"nobody can say what the methods {', '.join(config['method'])} of these runs do, since "
        f"this version cannot build their agent: {reasons[0]}"
    )


def _built(config: Mapping[str, Any], context: ContextSpec) -> Agent:
    settings = dict(config["agent"])
    if "replay_size" in settings:  # its memory is not needed here
        settings["replay_size"] = min(int(settings["replay_size"]), _MAX_REPLAY)
        settings["keep_last_n"] = min(int(settings.get("keep_last_n", 1)), _MAX_REPLAY)
    parts = Parts(
        observation_dim=_OBSERVATION_DIM,
        action_dim=_ACTION_DIM,
        num_envs=int(config["env"].get("num_envs", 1)),
        network=_typed(NETWORKS, config["network"], "network"),
        optimizer=_typed(OPTIMIZERS, config["optimizer"], "optimizer"),
        methods={
            name: _typed(METHODS, method, f"method.{name}")
            for name, method in config["method"].items()
        },
        context=context,
        total_steps=int(config["total_steps"]),
    )
    agent = _typed(AGENTS, settings, "agent")
    return AGENTS.get(str(settings["kind"])).build(agent, parts)


def _typed(registry: Registry, settings: Mapping[str, Any], where: str) -> Any:
    return load(registry.get(str(settings.get("kind"))).Config, settings, where)
