"""Storage of transitions, allocated once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Rollout:
    """On-policy transitions of `length` vector steps in `num_envs` environments.

    Arrays are float32, shaped (length, num_envs, ...). `observation[t]`, `action[t]` and the
    standard normal `noise[t]` behind it are written when the agent acts, the rest when it observes.

    Args:
        length: Vector steps.
        num_envs: Environments.
        observation_dim: Size of an observation.
        action_dim: Size of an action.
        context_dim: Size of the context, 0 for none.
        with_log_std: Keep the log standard deviation of every action too, as `log_std`.

    Attributes:
        log_std: That of every action; None while all actions share the one of the policy.
    """

    def __init__(
        self,
        length: int,
        num_envs: int,
        observation_dim: int,
        action_dim: int,
        context_dim: int,
        with_log_std: bool = False,
    ) -> None:
        def zeros(*shape: int) -> np.ndarray:
            return np.zeros((length, num_envs, *shape), dtype=np.float32)

        self.length = length
        self.num_envs = num_envs
        self.position = 0
        self.observation = zeros(observation_dim)
        self.next_observation = zeros(observation_dim)
        self.context = zeros(context_dim)
        self.next_context = zeros(context_dim)
        self.action = zeros(action_dim)
        self.noise = zeros(action_dim)
        self._always_log_std = with_log_std
        self.log_std = zeros(action_dim) if with_log_std else None
        self.reward = zeros()
        self.terminated = np.zeros((length, num_envs), dtype=bool)
        self.truncated = np.zeros((length, num_envs), dtype=bool)

    @property
    def is_full(self) -> bool:
        """Whether `length` vector steps are stored."""
        return self.position == self.length

    @property
    def num_transitions(self) -> int:
        """Capacity in transitions."""
        return self.length * self.num_envs

    def clear(self) -> None:
        """Begin anew; what only this rollout has kept is dropped."""
        self.position = 0
        if not self._always_log_std:
            self.log_std = None

    def keep_log_std(self, log_std: np.ndarray) -> None:
        """From now on keep the log standard deviation of every action of this rollout.

        Args:
            log_std: (act,) of all actions so far.
        """
        if self.position and self.log_std is None:
            self.log_std = np.broadcast_to(log_std, self.action.shape).copy()

    def tasks(self, num_tasks: int) -> np.ndarray:
        """Index of every transition's task, (length, num_envs).

        Args:
            num_tasks: How many leading entries of the context are the one-hot task; 0 makes all
                transitions of task 0. A row of zeros there is of task `num_tasks`.
        """
        names = self.context[..., :num_tasks]
        if not num_tasks:
            return np.zeros(names.shape[:-1], dtype=np.int64)
        return np.where(names.max(axis=-1) > 0.0, names.argmax(axis=-1), num_tasks)

    def last(self, size: int) -> tuple[Tensor, Tensor | None]:
        """Observations (size, obs) and context (size, C) of the last rows of a full rollout."""
        observation, context = self._inputs()
        return observation[-size:], None if context is None else context[-size:]

    def sample(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw observations and contexts of filled rows, uniformly with replacement."""
        filled = self.position * self.num_envs
        rows = torch.randint(filled, (size,), generator=generator)
        observation, context = self._inputs()
        return observation[rows], None if context is None else context[rows]

    def _inputs(self) -> tuple[Tensor, Tensor | None]:
        observation = torch.from_numpy(self.observation).flatten(0, 1)
        context = torch.from_numpy(self.context).flatten(0, 1)
        return observation, context if context.shape[1] else None

    def _arrays(self) -> dict[str, np.ndarray]:
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the rows filled so far."""
        rows = {name: array[: self.position].copy() for name, array in self._arrays().items()}
        return {"position": self.position, **(rows if self.position else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: The rows are of a rollout of another length or shape.
        """
        position = int(state["position"])
        if not 0 <= position <= self.length:
            raise ValueError(f"the saved rollout has {position} rows, this one holds {self.length}")
        self.clear()
        self.position = position
        if not position:
            return
        if self.log_std is None and "log_std" in state:
            self.log_std = np.zeros_like(self.action)
        for name, array in self._arrays().items():
            # Rollouts of earlier versions kept no contexts of successors.
            rows = state["context"] if name not in state else state[name]
            if tuple(rows.shape) != array[:position].shape:
                raise ValueError(
                    f"the saved rollout has {name} of the shape {tuple(rows.shape)}, this one "
                    f"needs {array[:position].shape}"
                )
            array[:position] = rows
