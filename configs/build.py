"""Builds environments and agents from a typed configuration."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from agents.base import Agent
from agents.fresh import FreshAtTaskChange
from agents.parts import Parts
from configs.run import AGENTS, ENVIRONMENTS, RunConfig
from configs.schema import ConfigurationError
from networks.torso import ContextSpec


def resolve_threads(config: RunConfig) -> int:
    """Threads of this run: what was asked for, or up to two of the cores this process may use."""
    if config.num_threads != "auto":
        return config.num_threads
    return min(2, len(os.sched_getaffinity(0)))


def build_environment(config: RunConfig, num_threads: int = 1) -> tuple[Any, Any]:
    """Build the environments of a run.

    Returns:
        The vector environment and its `EnvInfo`.
    """
    module = ENVIRONMENTS.get(config.env.kind)
    try:
        return module.make(config.env, config.total_steps, num_threads)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def build_probe(config: RunConfig) -> Any:
    """Build the fixed sample set of an environment, None where it defines none."""
    module = ENVIRONMENTS.get(config.env.kind)
    return module.probe(config.env) if hasattr(module, "probe") else None


def build_agent(config: RunConfig, info: Any, num_threads: int = 1) -> Agent:
    """Build the agent of a run.

    Raises:
        ConfigurationError: Agent, network, optimizer and methods do not fit together.
    """
    parts = Parts(
        observation_dim=info.observation_dim,
        action_dim=info.action_dim,
        num_envs=info.num_envs,
        network=config.network,
        optimizer=config.optimizer,
        methods=config.method,
        context=ContextSpec(info.context_dim, discrete=info.context_dim > 0),
        seed=config.seed,
        total_steps=config.total_steps,
        num_threads=num_threads,
        max_episode_steps=getattr(info, "max_episode_steps", 0),
        num_tasks=info.num_tasks,
    )
    try:
        build = AGENTS.get(config.agent.kind).build
        agent = (
            FreshAtTaskChange(lambda life: build(config.agent, replace(parts, life=life)))
            if config.fresh_at_switch
            else build(config.agent, parts)
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    known = set(agent.networks())
    for identifier, method in config.method.items():
        chosen = getattr(method, "networks", "all")
        unknown = [] if isinstance(chosen, str) else sorted(set(chosen) - known)
        if unknown:
            raise ConfigurationError(
                f"method.{identifier}.networks names {', '.join(unknown)}; this agent has "
                f"{', '.join(sorted(known))}"
            )
    if config.boundary == "none" and (needy := agent.methods_that_need_boundaries()):
        raise ConfigurationError(
            f"{', '.join(needy)} acts at task changes; set boundary=oracle to announce them "
            "(tables will say so), or choose another method"
        )
    return agent
