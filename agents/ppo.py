"""Proximal policy optimisation with separate policy and value networks.

Source: Schulman et al. 2017, arXiv 1707.06347; settings of Dohare et al. 2024 for the Ant:
rollouts of 2,048 transitions, 10 epochs of 16 minibatches of 128, learning rate 1e-4, no entropy
bonus, no gradient clipping, no value clipping, LeCun-uniform networks of 256-256 ReLU units.

Deviation: episodes cut by the time limit or by a switch of the world bootstrap from their final
observation; `timeouts_terminal=true` restores the published treatment as terminal states.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.base import Agent, Transition
from agents.buffers import Rollout
from agents.distributions import gaussian_entropy, standard_log_probability
from agents.learner_threads import LearnerThreads
from agents.normalization import RunningNormalizer
from agents.parts import Parts
from agents.ppo_steps import AutogradSteps, FusedSteps, Losses, Minibatch, Steps
from agents.returns import generalized_advantages, normalized
from agents.transplants import check_parts, transplant_updates
from agents.update import Update, forget_parameters
from networks.fused import FusedPerceptron
from networks.heads import GaussianPolicy, Network, ValueFunction
from plasticity.method import InputSource

STATISTICS = (
    "policy_loss",
    "value_loss",
    "explained_variance",
    "approx_kl",
    "clip_fraction",
    "entropy",
    "action_std",
)


@dataclass(frozen=True)
class Config:
    """Settings of PPO.

    Attributes:
        kind: Name of this file.
        rollout_length: Vector steps between updates; times the number of environments gives the
            transitions of a rollout.
        num_epochs: Passes over a rollout.
        minibatch_size: Transitions per gradient step; must divide a rollout.
        discount: In [0, 1].
        gae_lambda: In [0, 1].
        clip_range: Ratio is clipped to [1 - clip_range, 1 + clip_range].
        value_coefficient: Factor of the value loss.
        entropy_coefficient: Factor of the entropy bonus.
        normalize_advantage: Standardise advantages once per rollout.
        normalize_observation: Standardise observations by running moments.
        timeouts_terminal: Treat truncation as termination, as published (biases values).
        max_grad_norm: Clip each network's gradient norm, None for no clipping.
        fast_path: Use the hand-written backward pass where the networks allow it; results then
            differ from autograd's by floating-point reordering only.
    """

    kind: str = "ppo"
    rollout_length: int = 128
    num_epochs: int = 10
    minibatch_size: int = 128
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    value_coefficient: float = 1.0
    entropy_coefficient: float = 0.0
    normalize_advantage: bool = True
    normalize_observation: bool = False
    timeouts_terminal: bool = False
    max_grad_norm: float | None = None
    fast_path: bool = True

    def __post_init__(self) -> None:
        for name in ("rollout_length", "num_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"agent.{name} is {getattr(self, name)}; give at least 1")
        if self.minibatch_size < 2:
            raise ValueError(f"agent.minibatch_size is {self.minibatch_size}; give at least 2")
        for name in ("discount", "gae_lambda"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"agent.{name} is {getattr(self, name)}; give a value in [0, 1]")
        if self.clip_range <= 0.0:
            raise ValueError(f"agent.clip_range is {self.clip_range}; give a value above 0")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0.0:
            raise ValueError(
                f"agent.max_grad_norm is {self.max_grad_norm}; give a value above 0, or null"
            )


class PPO(Agent):
    """The agent."""

    def __init__(self, config: Config, parts: Parts) -> None:
        self.config = config
        self.rollout = Rollout(
            config.rollout_length,
            parts.num_envs,
            parts.observation_dim,
            parts.action_dim,
            parts.context.dim,
        )
        num_transitions = self.rollout.num_transitions
        if num_transitions % config.minibatch_size:
            raise ValueError(
                f"agent.minibatch_size={config.minibatch_size} does not divide a rollout of "
                f"{config.rollout_length} x {parts.num_envs} = {num_transitions} transitions"
            )
        head, streams = parts.head_initializer, parts.streams
        self.policy = GaussianPolicy(
            parts.torso("policy", parts.observation_dim),
            parts.action_dim,
            head,
            streams.child("policy"),
        )
        self.value = ValueFunction(
            parts.torso("value", parts.observation_dim), head, streams.child("value")
        )
        parts.prepare(self.networks())
        rate = config.num_epochs / config.minibatch_size
        inputs = InputSource(self.rollout.sample, config.minibatch_size)
        self.updates: dict[str, Update] = {
            name: parts.update(name, network, rate, config.max_grad_norm, inputs)
            for name, network in self.networks().items()
        }
        self.normalizer = (
            RunningNormalizer(parts.observation_dim) if config.normalize_observation else None
        )
        self.iteration = 0
        self._action_noise = streams.torch("action_noise")
        self._shuffle = streams.torch("shuffle")
        self._threads = LearnerThreads(parts.num_threads)
        self._minibatches = [
            slice(start, start + config.minibatch_size)
            for start in range(0, num_transitions, config.minibatch_size)
        ]
        losses = Losses(config.clip_range, config.value_coefficient, config.entropy_coefficient)
        fast = config.fast_path and FusedSteps.supports(self.updates)
        self._fast_policy = FusedPerceptron(self.policy, parts.num_envs) if fast else None
        self._steps: Steps = (
            FusedSteps(self.policy, self.value, self.updates, losses, config.minibatch_size)
            if fast
            else AutogradSteps(self.policy, self.value, self.updates, losses)
        )

    # Interaction ---------------------------------------------------------------------------

    def act(self, observation: np.ndarray, context: np.ndarray, explore: bool) -> np.ndarray:
        """Sample actions, or return the mean; see `Agent.act`."""
        if not explore:
            inputs, gate = self.network_inputs("policy", observation, None, context)
            with torch.inference_mode():
                return self.policy(inputs, gate).numpy()
        row, t = self.rollout, self.rollout.position
        if self.normalizer is not None:
            self.normalizer.update(observation)
            observation = self.normalizer(observation)
        row.observation[t] = observation
        row.context[t] = context
        with torch.inference_mode():
            inputs = torch.from_numpy(row.observation[t])
            if self._fast_policy is not None:
                mean = self._fast_policy.forward(inputs)
            else:
                gate = torch.from_numpy(row.context[t]) if row.context.shape[-1] else None
                mean = self.policy(inputs, gate)
            noise = torch.from_numpy(row.noise[t])
            noise.normal_(generator=self._action_noise)
            action = torch.from_numpy(row.action[t])
            torch.addcmul(mean, noise, self.policy.log_std.exp(), out=action)
        return row.action[t].copy()

    def observe(self, transition: Transition) -> None:
        """Store the outcome of the last exploring `act`."""
        row, t = self.rollout, self.rollout.position
        row.reward[t] = transition.reward
        row.terminated[t] = transition.terminated
        row.truncated[t] = transition.truncated
        successor = transition.next_observation
        row.next_observation[t] = (
            successor if self.normalizer is None else self.normalizer(successor)
        )
        row.position = t + 1

    # Learning ------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Learn from a full rollout; {} while it is still filling."""
        if not self.rollout.is_full:
            return {}
        with torch.no_grad():
            batch, statistics = self._prepare()
        for update in self.updates.values():
            update.new_objective()
        size = len(batch.advantage)
        orders = [
            torch.randperm(size, generator=self._shuffle) for _ in range(self.config.num_epochs)
        ]
        policy_statistics, value_statistics = self._threads.run(
            functools.partial(self._learn_policy, batch, orders),
            functools.partial(self._learn_value, batch, orders),
        )
        for update in self.updates.values():
            update.check_finite()
            update.network.torso.record_statistics(batch.observation, batch.context)
        self.rollout.position = 0
        self.iteration += 1
        return {**statistics, **policy_statistics, **value_statistics}

    def _learn_policy(self, batch: Minibatch, orders: Sequence[Tensor]) -> dict[str, Tensor]:
        losses, log_ratios = [], []
        for order in orders:
            shuffled, log_ratios = batch.rows(order), []
            for rows in self._minibatches:
                loss, log_ratio = self._steps.policy(shuffled.rows(rows))
                losses.append(loss)
                log_ratios.append(log_ratio)
        log_ratio = torch.cat(log_ratios)  # of the last epoch
        log_std = self.policy.log_std.detach()
        return {
            "policy_loss": torch.tensor(losses).mean(),
            "approx_kl": (torch.expm1(log_ratio) - log_ratio).mean(),
            "clip_fraction": (torch.expm1(log_ratio).abs() > self.config.clip_range).float().mean(),
            "entropy": gaussian_entropy(log_std),
            "action_std": log_std.exp().mean(),
        }

    def _learn_value(self, batch: Minibatch, orders: Sequence[Tensor]) -> dict[str, Tensor]:
        losses = []
        for order in orders:
            shuffled = batch.rows(order)
            losses += [self._steps.value(shuffled.rows(rows)) for rows in self._minibatches]
        return {"value_loss": torch.tensor(losses).mean()}

    def _prepare(self) -> tuple[Minibatch, dict[str, Tensor]]:
        """Values, advantages and targets of a full rollout, and what is logged about them."""
        config, row = self.config, self.rollout
        values, next_values = self._values()
        terminated = row.terminated | row.truncated if config.timeouts_terminal else row.terminated
        advantages = generalized_advantages(
            row.reward.astype(np.float64),
            values,
            next_values,
            terminated,
            row.truncated,
            config.discount,
            config.gae_lambda,
        )
        targets = advantages + values
        spread = targets.var()
        explained = 1.0 - (targets - values).var() / spread if spread > 0.0 else np.nan
        if config.normalize_advantage:
            advantages = normalized(advantages)

        log_probability = standard_log_probability(torch.from_numpy(row.noise), self.policy.log_std)

        def flat(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array.reshape(row.num_transitions, *array.shape[2:])).float()

        batch = Minibatch(
            flat(row.observation),
            flat(row.context) if row.context.shape[-1] else None,
            flat(row.action),
            log_probability.flatten(),
            flat(advantages),
            flat(targets),
        )
        return batch, {"explained_variance": torch.tensor(explained)}

    def _values(self) -> tuple[np.ndarray, np.ndarray]:
        """V(o_t) and V(true successor of o_t), both (T, N) float64.

        Inside an episode the successor is the next observation of the rollout; only boundaries
        and the last row need another look at the network.
        """
        row = self.rollout
        boundary = row.terminated | row.truncated
        boundary[-1] = True
        ends = np.flatnonzero(boundary)
        stacked = np.concatenate(
            (
                row.observation.reshape(row.num_transitions, -1),
                row.next_observation.reshape(row.num_transitions, -1)[ends],
            )
        )
        context = row.context.reshape(row.num_transitions, -1)
        gates = np.concatenate((context, context[ends])) if context.shape[1] else None
        values = self.value(
            torch.from_numpy(stacked), None if gates is None else torch.from_numpy(gates)
        )
        values = values.numpy().astype(np.float64)
        current = values[: row.num_transitions].reshape(row.length, row.num_envs)
        successor = np.concatenate((current[1:], current[-1:]))
        successor.reshape(-1)[ends] = values[row.num_transitions :]
        return current, successor

    # Introspection -------------------------------------------------------------------------

    def networks(self) -> dict[str, Network]:
        """Policy and value network."""
        return {"policy": self.policy, "value": self.value}

    def network_inputs(
        self,
        name: str,
        observation: np.ndarray,
        action: np.ndarray | None,
        context: np.ndarray,
    ) -> tuple[Tensor, Tensor | None]:
        """Normalise and convert observations; actions are not an input of either network."""
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        gate = torch.from_numpy(context).float() if context.shape[-1] else None
        return torch.from_numpy(np.asarray(observation, dtype=np.float32)), gate

    def window_inputs(self, name: str, size: int) -> tuple[Tensor, Tensor | None] | None:
        """Inputs of one network for the last `size` transitions of a full rollout."""
        return self.rollout.last(size) if self.rollout.is_full else None

    @property
    def update_is_due(self) -> bool:
        """Whether the next `update` will learn."""
        return self.rollout.is_full

    @property
    def is_at_quiet_point(self) -> bool:
        """True between an update and the next action."""
        return self.rollout.position == 0

    def statistic_names(self) -> tuple[str, ...]:
        """Keys of what `update` returns."""
        return STATISTICS

    # State ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizers, methods, generators, normaliser and an unfinished rollout."""
        state: dict[str, Any] = {
            "updates": {name: update.state_dict() for name, update in self.updates.items()},
            "action_noise": self._action_noise.get_state(),
            "shuffle": self._shuffle.get_state(),
            "rollout": self.rollout.state_dict(),
            "iteration": self.iteration,
        }
        if self.normalizer is not None:
            state["normalizer"] = self.normalizer.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, update in self.updates.items():
            update.load_state_dict(state["updates"][name])
        self._action_noise.set_state(state["action_noise"])
        self._shuffle.set_state(state["shuffle"])
        self.rollout.load_state_dict(state["rollout"])
        self.iteration = int(state["iteration"])
        if self.normalizer is not None:
            self.normalizer.load_state_dict(state["normalizer"])

    def organs(self) -> tuple[str, ...]:
        """Parts that a transplant can leave new."""
        return ("policy", "value", "optimizer", "log_std")

    def transplant(self, state: Mapping[str, Any], fresh_parts: Collection[str]) -> None:
        """Go on from another run's networks with some organs new.

        A fresh network also gets fresh optimizer and method state; `log_std` is an organ of its
        own and belongs to neither. Random streams and counters stay those of the new run.
        """
        check_parts(fresh_parts, self.organs())
        initial_log_std = self.policy.log_std.detach().clone()
        transplant_updates(self.updates, state["updates"], fresh_parts)
        with torch.no_grad():
            if "log_std" in fresh_parts:
                self.policy.log_std.copy_(initial_log_std)
                forget_parameters(self.updates["policy"].optimizer, [self.policy.log_std])
            elif "policy" in fresh_parts:
                self.policy.log_std.copy_(state["updates"]["policy"]["network"]["log_std"])
        if self.normalizer is not None and "normalizer" in state:
            self.normalizer.load_state_dict(state["normalizer"])

    def close(self) -> None:
        """End the learner thread."""
        self._threads.close()


def build(config: Config, parts: Parts) -> PPO:
    """Build the agent."""
    return PPO(config, parts)
