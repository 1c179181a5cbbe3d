"""How our settings, observations and actions look to stable-baselines3."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium.spaces import Box

from agents.parts import Parts
from networks.activations import ACTIVATIONS, activation


def check_layers(hidden_sizes: Sequence[int], name: str) -> None:
    """Check hidden layers and the nonlinearity that SB3 is to build.

    Raises:
        ValueError: A layer has no unit, or there is no such nonlinearity.
    """
    if not hidden_sizes or any(size < 1 for size in hidden_sizes):
        raise ValueError(
            f"agent.hidden_sizes is {list(hidden_sizes)}; give one or more layers of at least 1 "
            "unit"
        )
    if name not in ACTIVATIONS:
        activation(name)  # raises, naming the known ones


def joined_inputs(observation: np.ndarray, context: np.ndarray) -> np.ndarray:
    """Observations (N, obs) and contexts (N, C) as SB3's one input, (N, obs + C) float32, fresh."""
    joined = np.concatenate((observation, context), axis=-1) if context.shape[-1] else observation
    return np.array(joined, dtype=np.float32)


def spaces(parts: Parts) -> tuple[Box, Box]:
    """Observation and action space; actions lie in [-1, 1] where nobody says otherwise."""
    input_dim = parts.observation_dim + parts.context.width
    ones = np.ones(parts.action_dim, dtype=np.float32)
    low = -ones if parts.action_low is None else np.asarray(parts.action_low, dtype=np.float32)
    high = ones if parts.action_high is None else np.asarray(parts.action_high, dtype=np.float32)
    return (Box(-np.inf, np.inf, (input_dim,), np.float32), Box(low, high, dtype=np.float32))


def refuse_what_sb3_cannot_take(kind: str, parts: Parts) -> None:
    """Refuse settings that would otherwise be ignored without a word.

    Args:
        kind: The agent's kind, which ends in the name of our own agent of the same algorithm.
        parts: What the run is configured with.

    Raises:
        ValueError: There are methods, or other than preset networks or optimizers.
    """
    if parts.methods:
        raise ValueError(
            f"agent={kind} cannot run {', '.join(parts.methods)}: stable-baselines3 has no hook "
            f"for methods; use agent={kind.removeprefix('sb3_')}, or method=[]"
        )
    if parts.value_network is not None:
        raise ValueError(
            f"agent={kind} builds its own networks and would ignore value_network; leave it null"
        )
    for group, given, preset in (
        ("network", parts.network, "mlp"),
        ("optimizer", parts.optimizer, "adam"),
    ):
        if given.kind != preset or given != type(given)():
            raise ValueError(
                f"agent={kind} builds its own {group} and would ignore the {group} settings "
                f"given; leave {group}={preset} and use the settings of the agent group instead"
            )
