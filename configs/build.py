"""Builds environments and agents from a typed configuration."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from torch import nn

from agents.base import Agent
from agents.fresh import FreshAtTaskChange
from agents.parts import Parts
from configs.compose import CONFIG_FOLDER, method_ids, presets
from configs.reading import refuse_unread
from configs.run import AGENTS, CONTEXTS, ENVIRONMENTS, RunConfig
from configs.schema import ConfigurationError, to_plain
from configs.world_lengths import first_world, world_lengths
from envs.contexts.layer import ContextLayer, learning_provider
from networks.torso import ContextSpec

REQUIRED = "required"  # what a preset says in place of a checkpoint that it needs


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
        envs, info = module.make(config.env, config.total_steps, num_threads)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    return with_context(config, envs, info)


def with_context(config: RunConfig, envs: Any, info: Any) -> tuple[Any, Any]:
    """Put the layer of the configured context around environments, for training or evaluation.

    Args:
        config: Of the run.
        envs: Environments of its kind; they are closed if the context is refused.
        info: Their `EnvInfo`.

    Returns:
        The layer and its `EnvInfo`; what was given where no layer is needed.

    Raises:
        ConfigurationError: These environments cannot give such a context.
    """
    provide = CONTEXTS.get(config.context.kind).provide
    try:
        _check_tasks_are_shown(config)
        provider = provide(config.context, envs, info, config.env, config.total_steps, config.seed)
    except ValueError as error:
        envs.close()
        raise ConfigurationError(str(error)) from error
    if provider is None:
        return envs, info
    layer = ContextLayer(envs, info, provider)
    return layer, layer.info


def _check_tasks_are_shown(config: RunConfig) -> None:
    """Refuse agents that tell tasks apart by the context where it names none, or false ones.

    Raises:
        ValueError: Temperatures, advantages or baselines would belong to false tasks, or a
            temperature to none, or separate heads would have no context to be chosen by.
    """
    agent = config.agent
    if config.context.kind == "detected" and getattr(agent, "temperature_per_task", False):
        raise ValueError(
            "agent.temperature_per_task=true needs contexts that always name a task, and "
            "context=detected names none until it has found one, so that nothing would learn the "
            "temperature of what comes before; set agent.temperature_per_task=false, or choose a "
            "context that is given, such as context=regime"
        )
    control = getattr(config.context, "control", "none")
    networks = {"network": config.network, "value_network": config.value_network}
    for name, network in networks.items():
        kind = getattr(network, "kind", None)
        if kind != "multi_head" and not getattr(network, "separate_heads", False):
            continue
        if config.context.kind == "detected" or control == "zero":
            shows = "context.control=zero" if control == "zero" else "context=detected"
            raise ValueError(
                f"{name}={kind} has one head per context, and {shows} names none"
                f"{'' if control == 'zero' else ' until it has found one'}, so that its outputs "
                "would be 0 and nothing would be learnt; choose a network with one head, or a "
                "context that is given, such as context=regime"
            )
    if control == "none" or getattr(config.context, "input", None) == "source":
        return
    for name, wanted in (
        ("temperature_per_task", True),
        ("normalize_advantage", "per_task"),
        ("baseline", "linear"),
    ):
        if getattr(agent, name, None) == wanted:
            raise ValueError(
                f"agent.{name}={str(wanted).lower()} tells tasks apart by the context, which "
                f"context.control={control} replaces; set context.input=source, so that only the "
                "gates see the control"
            )


def context_spec(info: Any) -> ContextSpec:
    """What networks are told about the contexts of an environment."""
    gate = None
    if info.gate_context_dim:
        gate = ContextSpec(info.gate_context_dim, info.gate_context_discrete)
    return ContextSpec(info.context_dim, info.context_dim > 0 and info.context_discrete, gate)


def build_probe(config: RunConfig, envs: Any = None) -> Any:
    """Build the fixed sample set of an environment, None where it defines none.

    Args:
        config: Of the run.
        envs: Its environments, which know the contexts of the samples; None leaves those that the
            sample set has by itself.
    """
    module = ENVIRONMENTS.get(config.env.kind)
    probe = module.probe(config.env) if hasattr(module, "probe") else None
    if probe is None or not isinstance(envs, ContextLayer):
        return probe
    return ProbeWithContexts(
        probe.observations, probe.actions, probe.sha256, envs.provider.probe_contexts(probe)
    )


@dataclass(frozen=True)
class ProbeWithContexts:
    """A fixed sample set with the contexts that networks are shown, (num_samples, C)."""

    observations: np.ndarray
    actions: np.ndarray
    sha256: str
    contexts: np.ndarray


def build_agent(config: RunConfig, info: Any, num_threads: int = 1) -> Agent:
    """Build the agent of a run.

    Raises:
        ConfigurationError: Agent, network, optimizer and methods do not fit together.
    """
    if config.init_from == REQUIRED:
        raise ConfigurationError(
            "this experiment starts from a checkpoint; name it, as in "
            "init_from=runs/.../checkpoints/step-000002000000"
        )
    parts = Parts(
        observation_dim=info.observation_dim,
        action_dim=info.action_dim,
        num_envs=info.num_envs,
        network=config.network,
        value_network=config.value_network,
        optimizer=config.optimizer,
        methods=config.method,
        context=context_spec(info),
        seed=config.seed,
        total_steps=config.total_steps,
        num_threads=num_threads,
        max_episode_steps=getattr(info, "max_episode_steps", 0),
        num_tasks=info.num_tasks,
        answers=getattr(info, "answers", ""),
        action_low=getattr(info, "action_low", None),
        action_high=getattr(info, "action_high", None),
    )
    # Counters of a fresh agent begin anew in every world: that is all the time its methods have.
    lived = min([config.total_steps, *world_lengths(config.env, config.total_steps).values()])
    try:
        build = AGENTS.get(config.agent.kind).build
        agent = (
            FreshAtTaskChange(
                lambda life: build(config.agent, replace(parts, life=life, total_steps=lived))
            )
            if config.fresh_at_switch
            else build(config.agent, parts)
        )
    except ValueError as error:
        world = f" (fresh_at_switch=true makes a run of every world, {lived:,} steps here)"
        is_short = config.fresh_at_switch and lived < config.total_steps
        raise ConfigurationError(f"{error}{world if is_short else ''}") from error
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
        clocks = ", ".join(
            f"method.{name}.period=<steps> method.{name}.at_task_change=false"
            for name in needy
            if hasattr(config.method.get(name), "period")
        )
        raise ConfigurationError(
            f"{_as_typed(needy, config)} acts at task changes; set boundary=oracle to announce "
            f"them (tables will say so), {f'or a clock instead ({clocks}), ' if clocks else ''}"
            "or choose another method"
        )
    return agent


def _as_typed(needy: Sequence[str], config: RunConfig) -> str:
    """Names of what acts at task changes, of methods the preset that makes them do so."""
    return ", ".join(_preset_of(name, config) for name in needy)


def _preset_of(identifier: str, config: RunConfig) -> str:
    """The preset that a method follows in acting at task changes; its id where there is none."""
    settings = to_plain(config.method.get(identifier)) or {}
    for preset in presets("method"):
        if method_ids(preset) != [identifier]:
            continue
        own = OmegaConf.to_container(OmegaConf.load(CONFIG_FOLDER / "method" / f"{preset}.yaml"))
        assert isinstance(own, dict)
        own.pop("defaults", None)
        if own.get("at_task_change") and own.items() <= settings.items():
            return preset
    return identifier


def refuse_idle_optimizer(agent: Agent) -> None:
    """Refuse an optimizer that waits for new objectives in an agent that has only one.

    Raises:
        ConfigurationError: It would be the plain optimizer under another name.
    """
    if agent.changes_objective:
        return
    for update in agent.updates.values():
        if hasattr(update.optimizer, "new_objective"):
            raise ConfigurationError(
                "optimizer=adam_rel restarts its step count where the objective changes, with "
                "every rollout, which this agent has not (agent=ppo has), so that it would be "
                "plain Adam; choose optimizer=adam"
            )


def _refuse_idle_oracle(config: RunConfig, agent: Agent) -> None:
    """Refuse what acts at world changes in a world that never changes.

    Raises:
        ConfigurationError: Nothing would ever be announced.
    """
    fixed = getattr(config.env, "schedule", "") == "fixed"
    needy = agent.methods_that_need_boundaries()
    if (first := first_world(config.env)) and needy and first >= config.total_steps:
        raise ConfigurationError(
            f"{_as_typed(needy, config)} acts at task changes, but the first world lasts "
            f"env.switch_interval={first:,} steps and the run {config.total_steps:,}, so that "
            "there is none; set a shorter env.switch_interval or larger total_steps"
        )
    if not fixed and not hasattr(ENVIRONMENTS.get(config.env.kind), "NEVER_CHANGES"):
        return
    if needy:
        world = "env.schedule=fixed" if fixed else f"env.kind={config.env.kind}"
        raise ConfigurationError(
            f"{_as_typed(needy, config)} acts at task changes, but {world} never changes, so that "
            "boundary=oracle announces nothing; choose a world that changes, such as "
            "env=slippery_ant or env=mt10_sequence, or leave it out (where a method has a period: "
            "at_task_change=false)"
        )


def _refuse_batch_statistics(config: RunConfig, agent: Agent) -> None:
    """Refuse networks that normalise by their batch where somebody acts.

    Raises:
        ConfigurationError: An action would depend on the other environments of the batch, and
            acting would change the network.
    """
    if hasattr(AGENTS.get(config.agent.kind), "LEARNS_FROM_ANSWERS"):
        return
    for name, network in agent.networks().items():
        if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules()):
            raise ConfigurationError(
                f"the network {name} uses batch statistics (BatchNorm), with which an action "
                "depends on the other environments and acting changes the network; choose one "
                "without, such as network=layer_norm"
            )


def _refuse_lasting_context(config: RunConfig, envs: Any) -> None:
    """Refuse to begin anew with everything but what contexts have learnt in earlier worlds.

    A model that began anew as well would be silent in most of every world, and one that is made
    for several worlds in all of it.

    Raises:
        ConfigurationError: The yardstick would remember.
    """
    if config.fresh_at_switch and learning_provider(envs) is not None:
        raise ConfigurationError(
            "fresh_at_switch=true begins anew with everything in every world, but what "
            f"context={config.context.kind} has learnt of the worlds before would stay; choose a "
            "context that is given (oracle, task, none), or train fresh networks in single worlds, "
            "as experiment=oracle_grid does"
        )


def _refuse_silent_context(config: RunConfig, envs: Any) -> None:
    """Refuse a run in which contexts that are learnt show nothing but the neutral one.

    Raises:
        ConfigurationError: It ends before anything else can be shown.
    """
    provider = learning_provider(envs)
    silent = 0 if provider is None else provider.silent_steps()
    if provider is not None and config.total_steps <= silent:
        names = [*provider.waits_for, *(["delay"] if config.context.delay else [])]
        read = [f"context.{name}={getattr(config.context, name)}" for name in names]
        raise ConfigurationError(
            f"context={config.context.kind} is silent for {silent:,} environment steps "
            f"({', '.join(read)}), so that total_steps={config.total_steps:,} would end before "
            "anything is told of the world; lower these settings, or train longer"
        )


def rehearse(
    config: RunConfig,
    begin: Callable[[Agent, RunConfig, Any], None] | None = None,
    is_new: bool = True,
) -> None:
    """Build everything once, to see whether it can be built, and would act.

    Args:
        config: Of the run.
        begin: How agent and environments of a new run start, where that can be refused too.
        is_new: False leaves out what is for new runs only: what began under earlier rules may go
            on.

    Raises:
        ConfigurationError: The parts do not fit together, or one of them would never act.
    """
    if is_new and config.accept_change and not config.fresh:
        place = f"in {config.run_dir}" if config.run_dir else "of these settings"
        raise ConfigurationError(
            f"accept_change=true goes on with a run, but there is none {place}; name the directory "
            "of the run, run_dir=<dir>, or leave accept_change out"
        )
    if is_new:
        refuse_unread(config)
    envs, info = build_environment(config)
    try:
        agent = build_agent(config, info)
        try:
            if is_new:
                refuse_idle_optimizer(agent)
                _refuse_idle_oracle(config, agent)
                _refuse_batch_statistics(config, agent)
                _refuse_lasting_context(config, envs)
            if begin is not None:
                begin(agent, config, envs)
            if is_new:  # a donor may have learnt enough to be heard at once
                _refuse_silent_context(config, envs)
        finally:
            agent.close()
    finally:
        envs.close()
    del agent
    gc.collect()  # agents hold themselves in cycles, and two replays may not fit
