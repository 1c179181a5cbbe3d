"""The contract of every agent."""

from __future__ import annotations

import functools
import types
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.at_switch import SwitchRule
from agents.update import Update
from networks.heads import Network
from networks.streams import Streams


@dataclass(frozen=True, slots=True)
class Transition:
    """One vector step of N environments.

    Attributes:
        observation: (N, obs) what the agent acted on.
        action: (N, act) as returned by `Agent.act`.
        reward: (N,).
        next_observation: (N, obs) true successor; at an episode's end its final observation.
        terminated: (N,) bool, the episode ended in a state of no further value.
        truncated: (N,) bool, the episode was cut (time limit or switch): bootstrap.
        context: (N, C) what accompanied the observation; C may be 0.
        next_context: (N, C) what accompanies the successor.
        regime: (N,) index of the world or task the transition belongs to.
        target: (N, act) the right action, where the world is a supervised problem that tells it;
            NaN in entries that do not count. None in worlds that only reward.
        split: There, whether to learn from it (`train`) or not (`validation`, `test`).
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_observation: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    context: np.ndarray
    next_context: np.ndarray
    regime: np.ndarray
    target: np.ndarray | None = None
    split: str = "train"


class Agent(ABC):
    """Learns from transitions of vectorised environments.

    Attributes:
        iteration: Update phases so far.
        updates: Optimizer and methods of every trained network, by name; empty for agents whose
            learning happens elsewhere.
        switch_rule: What the agent itself begins anew at announced task changes.
        changes_objective: Whether the loss becomes another one from time to time, as with every
            rollout, of which `Update.new_objective` tells optimizers.
        learns_from_replay: Whether it takes transitions in any order, so that environments may be
            left at any step; otherwise only the successors of what it has stored may follow.
    """

    iteration: int = 0
    updates: Mapping[str, Update] = types.MappingProxyType({})
    switch_rule: SwitchRule | None = None
    changes_objective: bool = True
    learns_from_replay: bool = False

    @abstractmethod
    def act(self, observation: np.ndarray, context: np.ndarray, explore: bool) -> np.ndarray:
        """Choose actions.

        Args:
            observation: (N, obs).
            context: (N, C).
            explore: True samples and prepares the next `observe`; False returns the mode and
                leaves the agent unchanged.

        Returns:
            (N, act) float32.
        """

    def sample(self, observation: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Sample actions for somebody who only watches: no `observe` follows.

        Changes nothing that training depends on; the noise comes from a stream of its own. This
        version serves Gaussian policies whose standard deviation is a parameter `log_std`.

        Args:
            observation: (N, obs).
            context: (N, C).

        Returns:
            (N, act) float32.

        Raises:
            NotImplementedError: The policy is of another kind and the agent has no own version.
        """
        log_std = getattr(self.networks().get("policy"), "log_std", None)
        if not isinstance(log_std, Tensor):
            raise NotImplementedError(
                f"{type(self).__name__} must define sample(); until then predict with "
                "deterministic=True"
            )
        mean = self.act(observation, context, explore=False)
        noise = torch.randn(mean.shape, generator=self._watching_noise).numpy()
        return mean + noise * log_std.detach().exp().numpy()

    def begin_sampling(self) -> None:
        """Let `sample` draw its noise from the beginning: equal calls then give equal actions."""
        vars(self).pop("_watching_noise", None)

    @functools.cached_property
    def _watching_noise(self) -> torch.Generator:
        return Streams(0, "predict/").torch("noise")

    def predict(
        self,
        observation: np.ndarray,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Choose actions by the calling convention of stable-baselines3; training is untouched.

        Args:
            observation: (N, obs), or (obs,) for a single environment.
            state: Returned as it is; our policies have no memory.
            episode_start: Not used, for the same reason.
            deterministic: True returns the mode of the policy, False a sample.

        Returns:
            Actions, (N, act) or (act,) float32, not clipped to any bounds; and `state`.
        """
        batch = np.atleast_2d(observation)
        context = np.zeros((len(batch), 0), dtype=np.float32)
        action = (
            self.act(batch, context, explore=False)
            if deterministic
            else self.sample(batch, context)
        )
        return (action if np.ndim(observation) > 1 else action[0]), state

    @abstractmethod
    def observe(self, transition: Transition) -> None:
        """Take in the outcome of the actions returned by the last exploring `act`."""

    @abstractmethod
    def update(self) -> dict[str, Tensor]:
        """Learn if a gradient step is due; returns 0-dim tensors to log, {} when none was due."""

    def on_task_change(self, task: int) -> None:
        """Announce a task change to methods that declare that they need it, and act on it."""
        for update in self.updates.values():
            update.on_task_change(task)
        if self.switch_rule is not None:
            self.switch_rule.apply(self.updates, task)

    def waiting(self) -> Any:
        """What was observed of a world before its announcement and waits; None for nothing.

        An agent that begins anew at the announcement gives it to its successor (`take_over`).
        """
        return None

    def take_over(self, waiting: Any) -> None:  # noqa: B027 (optional hook)
        """Wait to learn from what another agent of the same settings had `waiting`."""

    @abstractmethod
    def networks(self) -> dict[str, Network]:
        """Trained networks by name, as diagnostics see them."""

    @abstractmethod
    def network_inputs(
        self, name: str, observation: np.ndarray, action: np.ndarray, context: np.ndarray
    ) -> tuple[Tensor, Tensor | None]:
        """Turn raw samples into what one network's forward takes: (input, context or None)."""

    def window_inputs(self, name: str, size: int) -> tuple[Tensor, Tensor | None] | None:
        """Inputs of one network for the last `size` on-policy transitions.

        None unless `update_is_due`: features are always measured before the update.
        """
        return None

    @property
    @abstractmethod
    def update_is_due(self) -> bool:
        """Whether the next `update` will learn."""

    @property
    def begins_iteration(self) -> bool:
        """Whether the next `update` is the first of an iteration; by default it is all of one."""
        return True

    @abstractmethod
    def statistic_names(self) -> tuple[str, ...]:
        """Keys of what `update` returns, known before the first update."""

    def methods_that_need_boundaries(self) -> list[str]:
        """Ids of methods, and own settings, that act at announced task changes."""
        names = (n for u in self.updates.values() for n in u.methods_that_need_boundaries())
        own = [] if self.switch_rule is None else self.switch_rule.names
        return [*own, *dict.fromkeys(names)]

    def announcements(self) -> list[str]:
        """What the methods will do in this run, printed at the start."""
        return [line for update in self.updates.values() for line in update.announcements()]

    def log_values(self) -> dict[str, float]:
        """Scalars of methods, read at log periods only."""
        return {k: v for update in self.updates.values() for k, v in update.log_values().items()}

    def pop_events(self) -> list[dict[str, Any]]:
        """Unit resets and the like since the last call."""
        return [event for update in self.updates.values() for event in update.pop_events()]

    @property
    @abstractmethod
    def is_at_quiet_point(self) -> bool:
        """Whether nothing is half collected, so that a checkpoint is small and exact."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything a bit-exact continuation needs, cloned."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    def drop_unfinished(self) -> None:  # noqa: B027 (optional hook)
        """Forget transitions of episodes that will not go on, where an update needs whole ones.

        Due after `load_state_dict` where the environments had to begin new episodes.
        """

    @abstractmethod
    def organs(self) -> tuple[str, ...]:
        """Names that `transplant` accepts as fresh parts."""

    @abstractmethod
    def transplant(self, state: Mapping[str, Any], fresh_parts: Collection[str]) -> None:
        """Load another run's state but keep some parts as newly built.

        Raises:
            ValueError: A part is unknown.
        """

    def close(self) -> None:  # noqa: B027 (optional hook)
        """Release threads."""
