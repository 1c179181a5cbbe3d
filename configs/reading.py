"""Which settings are read under which choice: tables of environments, contexts, agents, methods.

`envs.reading` has that of schedules. Left out are settings that say how to compute (`fast_path`,
`capture`, `acting`), because the device may change within a run, and those whose agent refuses them
by a sentence of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configs.run import RunConfig
from configs.schema import ConfigurationError
from envs.reading import Reader, unread


def _tells_friction(config: RunConfig) -> bool:
    """Walking robots announce no task, so that `auto` tells how their world is."""
    source = config.context.source
    return source == "friction" or (source == "auto" and hasattr(config.env, "friction_low"))


_DRAWN_GOALS = Reader("env.goal_manifest=null", lambda c: c.env.goal_manifest is None)
_CLUSTERS = Reader("env.context=clusters", lambda c: c.env.context == "clusters")
ENVIRONMENTS = {
    "meta_world": {
        "task": Reader("env.benchmark=mt1", lambda c: c.env.benchmark == "mt1"),
        "goal_seed": _DRAWN_GOALS,
    },
    "sequences": {"goal_seed": _DRAWN_GOALS},
    "permuted_tasks": {"num_features": _CLUSTERS, "cluster_rule": _CLUSTERS},
}

_LEARNING = Reader("context.freeze_after above 0", lambda c: c.context.freeze_after > 0)
CONTEXTS = {
    "given": {
        "features": Reader(
            "context.source=friction, and context.source=auto on walking robots", _tells_friction
        ),
        "num_regimes": Reader("context.source=regime", lambda c: c.context.source == "regime"),
    },
    "window": {
        "train_every": _LEARNING,
        "decoder_hidden": _LEARNING,
        "learning_rate": _LEARNING,
        "reservoir": _LEARNING,
        "minibatch_size": _LEARNING,
    },
}

_SPREAD = Reader("agent.state_dependent_std=true", lambda c: c.agent.state_dependent_std)
_VALUES = Reader("agent.baseline=network", lambda c: c.agent.baseline == "network")
_TUNED = Reader(
    "agent.temperature_learning_rate above 0", lambda c: c.agent.temperature_learning_rate > 0.0
)
AGENTS = {
    "ppo": {
        "log_std_min": _SPREAD,
        "log_std_max": _SPREAD,
        "value_coefficient": _VALUES,
        "timeouts_terminal": _VALUES,
    },
    "sac": {
        "keep_last_n": Reader(
            "agent.buffer_on_switch=keep_last_n",
            lambda c: c.agent.buffer_on_switch == "keep_last_n",
        ),
        "target_entropy": _TUNED,
        "temperature_epsilon": _TUNED,
    },
}


_RANKED = Reader(
    "every method.continual_backprop.utility but random",
    lambda c: c.method["continual_backprop"].utility != "random",
)
METHODS = {
    "continual_backprop": {"utility_decay": _RANKED, "rank_key": _RANKED},
    "redo": {
        "window_samples": Reader(
            "method.redo.score_batch=window", lambda c: c.method["redo"].score_batch == "window"
        )
    },
    "shrink_perturb": {
        "noise": Reader(
            "method.shrink_perturb.variance_preserving=false",
            lambda c: not c.method["shrink_perturb"].variance_preserving,
        )
    },
}


def refuse_unread(config: RunConfig) -> None:
    """Refuse settings away from their defaults that another choice makes idle.

    Raises:
        ConfigurationError: Naming the setting, who reads it, and what else to do.
    """
    chosen: list[tuple[str, Any, Mapping[str, Mapping[str, Reader]]]]
    chosen = [
        ("env", config.env, ENVIRONMENTS),
        ("context", config.context, CONTEXTS),
        ("agent", config.agent, AGENTS),
    ]
    chosen += [(f"method.{name}", method, METHODS) for name, method in config.method.items()]
    for group, settings, tables in chosen:
        for found in unread(settings, tables.get(settings.kind, {}), config):
            default = "null" if found.default is None else found.default
            raise ConfigurationError(
                f"{group}.{found.name}={found.value} is not read in this run; it is read by "
                f"{found.who}: choose that, or leave {group}.{found.name} at {default}"
            )
