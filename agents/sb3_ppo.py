"""The PPO of stable-baselines3 inside our loop, as a baseline.

Its networks, its sampling, its buffer, its advantages and its update run unchanged; only the
transitions come from our worlds. Settings that the reference PPO names have its values, so that
the two differ in what the libraries do, not in what they were told.

Deviation from our own PPO, all of them SB3's ways: actions are clipped to their bounds before
the environment sees them (the unclipped action is what is learnt from), one Adam over policy and
value, advantages normalised per minibatch, orthogonal initialisation with a small policy head,
and a truncated episode bootstraps by adding discount * V(last observation) to its last reward.

Source: Raffin et al. 2021, "Stable-Baselines3: Reliable Reinforcement Learning Implementations".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from torch import Tensor, nn

from agents.base import Transition
from agents.parts import Parts
from agents.sb3_agent import SB3Agent, as_tensors
from agents.sb3_networks import SharedPolicy, SharedTorso, SharedValue
from agents.sb3_parts import joined_inputs
from agents.sb3_ppo_model import Config, build_model
from agents.transplants import check_parts
from agents.update import (
    clone,
    forget_parameters,
    load_optimizer_state,
    optimizer_state,
)
from networks.heads import Network
from networks.initializers import Initializer

__all__ = ["SB3PPO", "Config", "build"]

# SB3's name of what we log, and the factor between the two.
_STATISTICS = {
    "policy_loss": ("train/policy_gradient_loss", 1.0),
    "value_loss": ("train/value_loss", 1.0),
    "explained_variance": ("train/explained_variance", 1.0),
    "approx_kl": ("train/approx_kl", 1.0),
    "clip_fraction": ("train/clip_fraction", 1.0),
    "entropy": ("train/entropy_loss", -1.0),
    "action_std": ("train/std", 1.0),
}
_ROWS = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs")


class SB3PPO(SB3Agent[PPO]):
    """The agent."""

    statistics = _STATISTICS

    def __init__(self, config: Config, parts: Parts) -> None:
        super().__init__(config, parts, build_model)
        sb3 = self.model.policy
        assert isinstance(sb3.action_net, nn.Linear)
        law = Initializer("orthogonal" if config.orthogonal_init else "pytorch")
        extractor = sb3.mlp_extractor
        self.policy = SharedPolicy(
            SharedTorso(extractor.policy_net, law), sb3.action_net, sb3.log_std
        )
        self.value = SharedValue(SharedTorso(extractor.value_net, law), sb3.value_net)
        self._episode_starts = np.ones(parts.num_envs, dtype=bool)
        self._successor = np.zeros(self._buffer.observations.shape[1:], dtype=np.float32)
        self._drawn: tuple[np.ndarray, Tensor, Tensor] | None = None

    @property
    def _buffer(self):
        return self.model.rollout_buffer

    # Interaction ---------------------------------------------------------------------------

    def act(self, observation: np.ndarray, context: np.ndarray, explore: bool) -> np.ndarray:
        """Sample actions, or return the mean, clipped to the bounds; see `Agent.act`."""
        inputs = torch.from_numpy(joined_inputs(observation, context))
        with torch.no_grad():
            if not explore:
                return self._clipped(self.policy(inputs).numpy())
            with self._draws.lent():
                actions, values, log_probabilities = self.model.policy(inputs)
        self._drawn = (actions.numpy(), values, log_probabilities)
        return self._clipped(self._drawn[0])

    def sample(self, observation: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Sample actions without preparing an `observe`; see `Agent.sample`."""
        with torch.no_grad(), self._prediction_draws.lent():
            actions = self.model.policy(torch.from_numpy(joined_inputs(observation, context)))[0]
        return self._clipped(actions.numpy())

    def _clipped(self, actions: np.ndarray) -> np.ndarray:
        space = self.model.action_space
        assert isinstance(space, Box)
        return np.clip(actions, space.low, space.high)

    def observe(self, transition: Transition) -> None:
        """Store the outcome of the last exploring `act`."""
        if self._drawn is None:
            raise RuntimeError("observe() needs the act(explore=True) that it is the outcome of")
        actions, values, log_probabilities = self._drawn
        successor = joined_inputs(transition.next_observation, transition.next_context)
        rewards = np.array(transition.reward, dtype=np.float32)
        cut = transition.truncated & ~transition.terminated
        for index in np.flatnonzero(cut).tolist():  # one by one, as SB3 does, for equal bits
            last_value = self._predict_values(successor[index : index + 1])
            rewards[index] += (self.config.discount * last_value).item()
        self._buffer.add(
            joined_inputs(transition.observation, transition.context),
            actions,
            rewards,
            self._episode_starts,
            values,
            log_probabilities,
        )
        self._episode_starts = transition.terminated | transition.truncated
        self._successor, self._drawn = successor, None

    def _predict_values(self, inputs: np.ndarray) -> Tensor:
        with torch.no_grad():
            return self.model.policy.predict_values(torch.from_numpy(inputs))

    # Learning ------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Learn from a full rollout; {} while it is still filling."""
        if not self._buffer.full:
            return {}
        # After an episode's end the successor does not count, so any value serves there.
        self._buffer.compute_returns_and_advantage(
            self._predict_values(self._successor), self._episode_starts
        )
        logged = self._learn(self.model.train)
        self._check_finite()
        self._buffer.reset()
        self.iteration += 1
        return as_tensors(logged)

    # Introspection -------------------------------------------------------------------------

    def networks(self) -> dict[str, Network]:
        """Policy and value network; the parameters are SB3's own."""
        return {"policy": self.policy, "value": self.value}

    def network_inputs(
        self,
        name: str,
        observation: np.ndarray,
        action: np.ndarray | None,
        context: np.ndarray,
    ) -> tuple[Tensor, Tensor | None]:
        """Observations with the context behind them; actions are no input of either network."""
        return torch.from_numpy(joined_inputs(observation, context)), None

    def window_inputs(self, name: str, size: int) -> tuple[Tensor, Tensor | None] | None:
        """Inputs of one network for the last `size` transitions of a full rollout."""
        if not self._buffer.full:
            return None
        rows = self._buffer.observations
        return torch.from_numpy(rows.reshape(-1, rows.shape[-1])[-size:].copy()), None

    @property
    def update_is_due(self) -> bool:
        """Whether the next `update` will learn."""
        return self._buffer.full

    @property
    def is_at_quiet_point(self) -> bool:
        """True between an update and the next action."""
        return self._buffer.pos == 0

    # State ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """SB3's weights, optimizer, generators and an unfinished rollout."""
        position = self._buffer.pos
        return {
            "weights": clone(self.model.policy.state_dict()),
            "optimizer": optimizer_state(self.model.policy.optimizer),
            "draws": self._draws.state_dict(),
            "rollout": {name: getattr(self._buffer, name)[:position].copy() for name in _ROWS},
            "position": position,
            "episode_starts": self._episode_starts.copy(),
            "successor": self._successor.copy(),
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.model.policy.load_state_dict(state["weights"])
        load_optimizer_state(self.model.policy.optimizer, state["optimizer"])
        self._draws.load_state_dict(state["draws"])
        self._buffer.reset()
        position = int(state["position"])
        for name in _ROWS:
            getattr(self._buffer, name)[:position] = state["rollout"][name]
        self._buffer.pos, self._buffer.full = position, position == self._buffer.buffer_size
        self._episode_starts = np.array(state["episode_starts"])
        self._successor = np.array(state["successor"])
        self.iteration = int(state["iteration"])

    def drop_unfinished(self) -> None:
        """Begin the rollout anew, with the first steps of episodes; see `agents.ppo`."""
        self._buffer.reset()
        self._episode_starts = np.ones_like(self._episode_starts)

    def organs(self) -> tuple[str, ...]:
        """Parts that a transplant can leave new."""
        return ("policy", "value", "optimizer", "log_std")

    def transplant(self, state: Mapping[str, Any], fresh_parts: Collection[str]) -> None:
        """Go on from another run's networks with some organs new; see `agents.ppo`."""
        check_parts(fresh_parts, self.organs())
        parameters = dict(self.model.policy.named_parameters())
        fresh = [name for name in parameters if _organ(name) in fresh_parts]
        donor = {k: v for k, v in state["weights"].items() if k not in fresh}
        self.model.policy.load_state_dict(donor, strict=False)
        if "optimizer" not in fresh_parts:
            load_optimizer_state(self.model.policy.optimizer, state["optimizer"])
            forget_parameters(self.model.policy.optimizer, [parameters[name] for name in fresh])


def _organ(parameter: str) -> str:
    """Organ that one of SB3's parameters belongs to."""
    if parameter == "log_std":
        return "log_std"
    return "policy" if parameter.startswith(("mlp_extractor.policy_net", "action_net")) else "value"


def build(config: Config, parts: Parts) -> SB3PPO:
    """Build the agent."""
    return SB3PPO(config, parts)
