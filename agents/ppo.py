"""Proximal policy optimisation with separate policy and value networks.

Source: Schulman et al. 2017, arXiv 1707.06347; settings of Dohare et al. 2024 for the Ant:
rollouts of 2,048 transitions, 10 epochs of 16 minibatches of 128, learning rate 1e-4, no entropy
bonus, no gradient clipping, no value clipping, LeCun-uniform networks of 256-256 ReLU units.

On many tasks at once advantages can be standardised per task, and a linear fit per task can take
the place of the value network. Source: multi-task PPO of Meta-World+, McLean et al. 2025, arXiv
2505.11289.

Deviation: episodes cut by the time limit or by a switch of the world bootstrap from their final
observation; `timeouts_terminal=true` restores the published treatment as terminal states.
Actions are stored and scored as they were drawn; clipping them is left to the environment.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.base import Agent, Transition
from agents.baselines import Baseline, LinearBaseline, NetworkBaseline
from agents.buffers import Rollout
from agents.distributions import gaussian_entropy, standard_log_probability
from agents.learner_threads import LearnerThreads
from agents.minibatches import Minibatch, Shuffler
from agents.normalization import RunningNormalizer
from agents.parts import Parts
from agents.ppo_config import Config as Config
from agents.ppo_config import check_together
from agents.ppo_steps import AutogradSteps, FusedSteps, Losses, Steps
from agents.returns import (
    generalized_advantages,
    normalized,
    normalized_in_minibatches,
    normalized_per_task,
)
from agents.transplants import check_parts, transplant_normalizer, transplant_updates
from agents.update import Update, forget_parameters
from networks.fused import FusedPerceptron
from networks.fused_bfloat16 import BFloat16Perceptron
from networks.heads import GaussianPolicy, Network, StateGaussianPolicy, ValueFunction
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

PERCEPTRONS = {"float32": FusedPerceptron, "bfloat16": BFloat16Perceptron}


class PPO(Agent):
    """The agent.

    Attributes:
        policy: Gaussian policy; its standard deviation is a parameter or depends on the state.
        value: Value network, None where the baseline is linear.
        rollout: Transitions since the last update.
    """

    def __init__(self, config: Config, parts: Parts) -> None:
        check_together(config, parts)
        self.config = config
        self.switch_rule = parts.switch_rule(config, ("value",))
        self._num_tasks = parts.context.dim if parts.context.discrete else 0
        self.rollout = Rollout(
            config.rollout_length,
            parts.num_envs,
            parts.observation_dim,
            parts.action_dim,
            parts.context.width,
            with_log_std=config.state_dependent_std,
        )
        self._build_networks(config, parts)
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
        self._action_noise = parts.streams.torch("action_noise")
        self._shuffle = parts.streams.torch("shuffle")
        self._threads = LearnerThreads(parts.num_threads)
        self._shufflers = {name: Shuffler(config.minibatch_size) for name in self.updates}
        losses = Losses(config.clip_range, config.value_coefficient, config.entropy_coefficient)
        self._fast_policy: FusedPerceptron | None = None
        self._steps: Steps = AutogradSteps(self.policy, self.value, self.updates, losses)
        is_plain = config.fast_path and FusedSteps.supports(self.updates)
        if is_plain and isinstance(self.policy, GaussianPolicy):
            self._fast_policy = FusedPerceptron(self.policy, parts.num_envs)
            kind = PERCEPTRONS[config.matmul_precision]
            self._steps = FusedSteps(
                self.policy, self.value, self.updates, losses, config.minibatch_size, kind
            )
        elif config.matmul_precision != "float32":
            raise ValueError(
                f"agent.matmul_precision={config.matmul_precision} exists for plain perceptrons on "
                "the fast path only; use float32 with this network and these methods"
            )

    def _build_networks(self, config: Config, parts: Parts) -> None:
        head, streams = parts.head_law(config.policy_head_bound), parts.streams
        outputs = parts.action_dim * (2 if config.state_dependent_std else 1)
        torso = parts.torso("policy", parts.observation_dim, outputs)
        stream = streams.child("policy")
        self.policy: GaussianPolicy | StateGaussianPolicy = (
            StateGaussianPolicy(
                torso, parts.action_dim, head, stream, config.log_std_min, config.log_std_max
            )
            if config.state_dependent_std
            else GaussianPolicy(torso, parts.action_dim, head, stream)
        )
        self.value: ValueFunction | None = None
        self._baseline: Baseline = LinearBaseline(config.discount, self._num_tasks)
        if config.baseline == "network":
            torso = parts.of_values.torso("value", parts.observation_dim, 1)
            head = parts.of_values.head_law(config.value_head_bound)
            self.value = ValueFunction(torso, head, streams.child("value"))
            self._baseline = NetworkBaseline(self.value)

    # Interaction ---------------------------------------------------------------------------

    def act(self, observation: np.ndarray, context: np.ndarray, explore: bool) -> np.ndarray:
        """Sample actions, or return the mean; see `Agent.act`."""
        if not explore:
            return self._moments(observation, context)[0].numpy()
        row, t = self.rollout, self.rollout.position
        if self.normalizer is not None:
            self.normalizer.update(observation)
            observation = self.normalizer(observation)
        row.observation[t] = observation
        row.context[t] = context
        with torch.inference_mode():
            inputs = torch.from_numpy(row.observation[t])
            if self._fast_policy is not None:
                mean, log_std = self._fast_policy.forward(inputs), self._free_log_std
            else:
                gate = torch.from_numpy(row.context[t]) if row.context.shape[-1] else None
                mean, log_std = self.policy.moments(inputs, gate)
            noise = torch.from_numpy(row.noise[t])
            noise.normal_(generator=self._action_noise)
            action = torch.from_numpy(row.action[t])
            torch.addcmul(mean, noise, log_std.exp(), out=action)
            if row.log_std is not None:
                row.log_std[t] = log_std.detach().numpy()
        return row.action[t].copy()

    @torch.inference_mode()
    def sample(self, observation: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Sample actions for somebody who only watches; see `Agent.sample`."""
        mean, log_std = self._moments(observation, context)
        noise = torch.randn(mean.shape, generator=self._watching_noise)
        return (mean + noise * log_std.exp()).numpy()

    @torch.inference_mode()
    def _moments(self, observation: np.ndarray, context: np.ndarray) -> tuple[Tensor, Tensor]:
        inputs, gate = self.network_inputs("policy", observation, None, context)
        return self.policy.moments(inputs, gate)

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
        row.next_context[t] = transition.next_context
        row.position = t + 1

    def on_task_change(self, task: int) -> None:
        """Announce the change; actions so far stay those of the spread they were drawn with."""
        is_free = self.rollout.log_std is None
        acted_with = self._free_log_std.detach().clone() if is_free else None
        super().on_task_change(task)
        if acted_with is not None and not torch.equal(acted_with, self._free_log_std):
            self.rollout.keep_log_std(acted_with.numpy())

    @property
    def _free_log_std(self) -> Tensor:
        """The log standard deviation as a parameter, (act,)."""
        assert isinstance(self.policy, GaussianPolicy)
        return self.policy.log_std

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
        self.rollout.clear()
        self.iteration += 1
        return {**statistics, **policy_statistics, **value_statistics}

    def _learn_policy(self, batch: Minibatch, orders: Sequence[Tensor]) -> dict[str, Tensor]:
        losses, log_ratios, last = [], [], batch
        for order in orders:
            log_ratios = []
            for last in self._shuffled("policy", batch, order):
                loss, log_ratio = self._steps.policy(last)
                losses.append(loss)
                log_ratios.append(log_ratio)
        log_ratio = torch.cat(log_ratios)  # of the last epoch
        with torch.no_grad():
            log_std = self.policy.moments(last.observation, last.context)[1].detach()
        return {
            "policy_loss": torch.tensor(losses).mean(),
            "approx_kl": (torch.expm1(log_ratio) - log_ratio).mean(),
            "clip_fraction": (torch.expm1(log_ratio).abs() > self.config.clip_range).float().mean(),
            "entropy": gaussian_entropy(log_std).mean(),
            "action_std": log_std.exp().mean(),
        }

    def _learn_value(self, batch: Minibatch, orders: Sequence[Tensor]) -> dict[str, Tensor]:
        if self.value is None:
            return {}
        losses = []
        for order in orders:
            losses += [self._steps.value(rows) for rows in self._shuffled("value", batch, order)]
        return {"value_loss": torch.tensor(losses).mean()}

    def _shuffled(self, name: str, batch: Minibatch, order: Tensor) -> Sequence[Minibatch]:
        """One epoch's minibatches for one network, valid until its next epoch."""
        minibatches = self._shufflers[name].shuffle(batch, order)
        if self.config.advantage_scope == "minibatch":
            for rows in minibatches:
                rows.advantage.copy_(normalized_in_minibatches(rows.advantage, len(rows.advantage)))
        return minibatches

    def _prepare(self) -> tuple[Minibatch, dict[str, Tensor]]:
        """Values, advantages and targets of a full rollout, and what is logged about them."""
        config, row = self.config, self.rollout
        values, next_values = self._baseline.values(row)
        timeouts_terminal = config.timeouts_terminal or self._baseline.ends_at_timeouts
        advantages = generalized_advantages(
            row.reward.astype(np.float64),
            values,
            next_values,
            row.terminated | row.truncated if timeouts_terminal else row.terminated,
            row.truncated,
            config.discount,
            config.gae_lambda,
        )
        targets = advantages + values
        spread = targets.var()
        explained = 1.0 - (targets - values).var() / spread if spread > 0.0 else np.nan
        if config.advantage_scope == "rollout":
            advantages = normalized(advantages)
        elif config.advantage_scope == "per_task":
            advantages = normalized_per_task(advantages, row.tasks(self._num_tasks))

        log_std = self._free_log_std if row.log_std is None else torch.from_numpy(row.log_std)
        log_probability = standard_log_probability(torch.from_numpy(row.noise), log_std)

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

    # Introspection -------------------------------------------------------------------------

    def networks(self) -> dict[str, Network]:
        """Policy and, unless the baseline is linear, value network."""
        value = {} if self.value is None else {"value": self.value}
        return {"policy": self.policy, **value}

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
        return tuple(key for key in STATISTICS if key != "value_loss" or self.value is not None)

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

    def drop_unfinished(self) -> None:
        """Begin the rollout anew: its last row would be joined to the first of a new episode."""
        self.rollout.clear()

    def organs(self) -> tuple[str, ...]:
        """Parts that a transplant can leave new."""
        own = ("log_std",) if isinstance(self.policy, GaussianPolicy) else ()
        return (*self.networks(), "optimizer", *own)

    def transplant(self, state: Mapping[str, Any], fresh_parts: Collection[str]) -> None:
        """Go on from another run's networks with some organs new.

        A fresh network also gets fresh optimizer and method state; `log_std` is an organ of its
        own and belongs to neither. Random streams and counters stay those of the new run.
        """
        check_parts(fresh_parts, self.organs())
        transplant_normalizer(self.normalizer, state, set(self.networks()) <= set(fresh_parts))
        free = self._free_log_std if "log_std" in self.organs() else None
        initial = None if free is None else free.detach().clone()
        transplant_updates(self.updates, state["updates"], fresh_parts)
        if free is not None and initial is not None:
            with torch.no_grad():
                if "log_std" in fresh_parts:
                    free.copy_(initial)
                    forget_parameters(self.updates["policy"].optimizer, [free])
                elif "policy" in fresh_parts:
                    free.copy_(state["updates"]["policy"]["network"]["log_std"])

    def close(self) -> None:
        """End the learner thread."""
        self._threads.close()


def build(config: Config, parts: Parts) -> PPO:
    """Build the agent."""
    return PPO(config, parts)
