"""The shape of stable-baselines3 environments, as our agents need to know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from gymnasium.spaces import Box
from stable_baselines3.common.vec_env import VecEnv


@dataclass(frozen=True)
class Shape:
    """What an agent is built for.

    Attributes:
        observation_dim: Size of an observation without its context.
        context_dim: Size of the context that the input sees; with the part of gates behind it,
            it is appended to the observation by `envs.sb3.SB3VecEnv`.
        action_dim: Size of an action.
        num_envs: Environments stepped together while training.
        action_low: Lower bounds of an action.
        action_high: Upper bounds.
        context_discrete: Whether the context is a one-hot vector (see `envs.base.EnvInfo`, also
            for the fields below).
        gate_context_dim: Length of the part of the context that only hidden layers see.
        gate_context_discrete: Whether that part is a one-hot vector.
        num_tasks: Tasks stepped side by side.
    """

    observation_dim: int
    context_dim: int
    action_dim: int
    num_envs: int
    action_low: list[float]
    action_high: list[float]
    context_discrete: bool = True
    gate_context_dim: int = 0
    gate_context_discrete: bool = True
    num_tasks: int = 1

    @classmethod
    def of(cls, env: VecEnv) -> Shape:
        """Read the shape of environments.

        Raises:
            ValueError: Observations or actions are not plain vectors.
        """
        observations, actions = env.observation_space, env.action_space
        for name, space in (("observation", observations), ("action", actions)):
            if not isinstance(space, Box) or len(space.shape) != 1:
                raise ValueError(f"the {name} space is {space}; it must be a Box of one dimension")
        actions = cast(Box, actions)
        shown = int(getattr(env, "context_dim", 0))
        kind = _context_kind(env)
        return cls(
            cast(Box, observations).shape[0] - shown,
            shown - kind.get("gate_context_dim", 0),
            actions.shape[0],
            env.num_envs,
            actions.low.tolist(),
            actions.high.tolist(),
            **kind,
        )

    @property
    def shown_dim(self) -> int:
        """Numbers behind an observation: contexts of the input and of gates."""
        return self.context_dim + self.gate_context_dim


def _context_kind(env: VecEnv) -> dict[str, Any]:
    """What our own worlds say about their contexts; nothing where the environment is foreign."""
    info = getattr(getattr(env, "envs", None), "info", None)
    names = ("context_discrete", "gate_context_dim", "gate_context_discrete", "num_tasks")
    return {name: getattr(info, name) for name in names if hasattr(info, name)}
