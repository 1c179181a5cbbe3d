"""What the methods of a run are allowed to do, asked from the methods themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents.base import Agent
from agents.parts import METHODS, NETWORKS, OPTIMIZERS, Parts
from analysis.run_clock import num_envs
from configs.run import AGENTS, ANNOUNCED, CONTEXTS
from configs.schema import load
from networks.registry import Registry
from networks.torso import ContextSpec
from plasticity.method import Method

# Plain `entries`: heads that are forgotten whole, and methods that do not say how they forget.
_STRENGTH = ("no", "entries (zero_moments)", "entries (per_unit_step)", "entries", "all")
# What the worlds would say; only the settings decide what a method does.
_OBSERVATION_DIM, _ACTION_DIM, _CONTEXT_DIM = 6, 2, 4
_MAX_REPLAY = 20_000


class UnknownSettings(ValueError):
    """Settings of a run that this version cannot build its agent from."""


@dataclass(frozen=True)
class ContextFlags:
    """What the networks of a run are told about the world.

    Attributes:
        told: What, in a word or two.
        is_oracle: Whether it is the truth, which no agent could have found out by itself.
        uses_boundaries: Whether it shows when the world changes.
    """

    told: str
    is_oracle: bool
    uses_boundaries: bool


def context_flags(config: Mapping[str, Any]) -> ContextFlags:
    """What the context of a run gives away, decided by its settings.

    Args:
        config: Settings of one run.

    Raises:
        UnknownSettings: The kind of context does not say.
    """
    settings = config.get("context") or {}
    kind = str(settings.get("kind", ANNOUNCED.kind))
    if kind != ANNOUNCED.kind:
        module = CONTEXTS.get(kind)
        names = ("is_oracle", "uses_boundaries")
        lacking = [name for name in names if not isinstance(getattr(module, name, None), bool)]
        if lacking:
            raise UnknownSettings(
                f"envs/contexts/{kind}.py must say {' and '.join(lacking)} (True or False at its "
                "top): every result table states them"
            )
        return ContextFlags(kind, *(bool(getattr(module, name)) for name in names))
    given = {**vars(ANNOUNCED), **settings}
    env = config["env"]
    has_friction = "friction_low" in env or "fixed_friction" in env
    announced = "none" if has_friction or env.get("hide_task_id") else "task"
    source = str(given["source"])
    if source == "auto":
        source = "friction" if has_friction else announced
    elif source == "task":
        source = announced
    if source == "none":
        return ContextFlags("none", is_oracle=False, uses_boundaries=False)
    control, at_input = str(given["control"]), given["input"] == "source"
    told = source if control == "none" else f"{source}, {control}"
    told += " at gates, true at the input" if control != "none" and at_input else ""
    true = control in ("none", "delayed") or at_input
    # Joint training meets all tasks at all times: there the task says nothing about time.
    changes = source != "task" or _tasks_follow_each_other(env)
    return ContextFlags(told, is_oracle=true, uses_boundaries=true and changes)


def _tasks_follow_each_other(env: Mapping[str, Any]) -> bool:
    return str(env.get("kind")) not in ("meta_world",)


def method_flags(config: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a run uses announced task boundaries, and how it touches the optimizer.

    Methods and settings of the agent (`optimizer_on_switch=reset` ...) decide both, so the agent
    is built as the run built it, for a small world.

    Args:
        config: Settings of one run.

    Returns:
        Use of boundaries, and the strongest of `no`, `entries` and `all`; entries with the policy
        in brackets where a method has one (`plasticity.optimizer_state`).

    Raises:
        UnknownSettings: The agent cannot be built; the message says why.
    """
    if config.get("fresh_at_switch"):  # whatever the methods do, it begins anew with the rest
        return True, "all"
    if not config.get("method") and not _switch_settings(config):
        return False, "no"
    agent = _agent(config)
    try:
        methods = [
            method for update in agent.updates.values() for method in update.methods.values()
        ]
        uses = bool(agent.methods_that_need_boundaries())
        resets = [_forgetting(method) for method in methods]
        # Critics drawn anew come with an optimizer that has forgotten all about them.
        if agent.switch_rule is not None and agent.switch_rule.names:
            resets.append("all")
        return uses, max(["no", *resets], key=_STRENGTH.index)
    finally:
        agent.close()


def _forgetting(method: Method) -> str:
    """What a method makes the optimizer forget, and by which policy."""
    policy = getattr(getattr(method, "config", None), "optimizer_state", None)
    if method.resets_optimizer != "entries" or policy is None:
        return method.resets_optimizer
    return f"entries ({policy})"


def _switch_settings(config: Mapping[str, Any]) -> list[str]:
    """Settings of the agent itself that act when the world changes."""
    idle = (None, False, "keep", "reservoir")
    settings = config["agent"].items()
    return [str(key) for key, value in settings if key.endswith("_on_switch") and value not in idle]


def resets_replay(config: Mapping[str, Any]) -> bool | str:
    """What becomes of transitions of earlier worlds at announced switches.

    Returns:
        False where nothing is done, True where everything begins anew, else the rule of the
        replay: `clear`, `keep_last_n` or `reservoir`. It confounds what a method does.
    """
    rule = str(config["agent"].get("buffer_on_switch", "keep"))
    return bool(config.get("fresh_at_switch")) or (rule != "keep" and rule)


def _agent(config: Mapping[str, Any]) -> Agent:
    """Build the agent, with a context only if it asks for one."""
    reasons = []
    for context in (ContextSpec(), ContextSpec(_CONTEXT_DIM, discrete=True)):
        try:
            return _built(config, context)
        except ValueError as error:
            reasons.append(" ".join(str(error).split()))
    raise UnknownSettings(
        f"nobody can say what {_named(config)} of these runs do, since this version cannot build "
        f"their agent: {reasons[0]}"
    )


def _named(config: Mapping[str, Any]) -> str:
    if config.get("method"):
        return f"the methods {', '.join(config['method'])}"
    return ", ".join(f"agent.{name}" for name in _switch_settings(config))


def _built(config: Mapping[str, Any], context: ContextSpec) -> Agent:
    settings = dict(config["agent"])
    if "replay_size" in settings:  # its memory is not needed here
        settings["replay_size"] = min(int(settings["replay_size"]), _MAX_REPLAY)
        settings["keep_last_n"] = min(int(settings.get("keep_last_n", 1)), _MAX_REPLAY)
    parts = Parts(
        observation_dim=_OBSERVATION_DIM,
        action_dim=_ACTION_DIM,
        num_envs=num_envs(config["env"]),
        network=_typed(NETWORKS, config["network"], "network"),
        value_network=_value_network(config),
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


def _value_network(config: Mapping[str, Any]) -> Any:
    settings = config.get("value_network")
    return None if settings is None else _typed(NETWORKS, settings, "value_network")


def _typed(registry: Registry, settings: Mapping[str, Any], where: str) -> Any:
    return load(registry.get(str(settings.get("kind"))).Config, settings, where)
