"""Soft actor-critic with two separate critics and a learnt temperature.

Source: Haarnoja et al. 2018, arXiv 1812.05905; replay of all worlds seen, Polyak targets.

Deviation: the two critics are separate networks with optimizers, methods and gradient clipping
of their own, so that a method on one never touches the other. Episodes cut by the time limit or
by a switch of the world bootstrap from their final observation.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.acting import actors, refuse_delay
from agents.action_range import ActionRange
from agents.base import Agent, Transition
from agents.learner_threads import LearnerThreads
from agents.parts import Parts
from agents.replay import Batch
from agents.replay_normalizer import ReplayNormalizer
from agents.reservoir import replay_of
from agents.sac_capture import obstacle
from agents.sac_choice import kind_of_steps, step_settings
from agents.sac_config import Config, check_together, resolved, roundings
from agents.sac_steps import CRITICS, STATISTICS, SACSteps, Temperature, UncheckedUpdate
from agents.transplants import (
    check_parts,
    kept_in_place,
    transplant_normalizer,
    transplant_updates,
)
from agents.update import Update, clone
from agents.update_clock import UpdateClock
from networks.heads import Network, QFunction, SquashedGaussianPolicy
from networks.injected import fitted_state
from plasticity.method import InputSource

CHECK_PERIOD = 100  # gradient steps between looks at all weights


class SAC(Agent):
    """The agent.

    Attributes:
        device: Where tensors live.
        replay: Past transitions.
        targets: Target critics, in the order of `CRITICS`.
        temperature: Weight of the entropy.
        clock: Environment steps, gradient steps (of every network) and iterations.
    """

    changes_objective = False
    learns_from_replay = True

    def __init__(self, config: Config, parts: Parts) -> None:
        asked, config = config, resolved(config, parts)
        check_together(config, parts)
        self.config, self.num_envs = config, parts.num_envs
        self._roundings = roundings(asked, config)
        self.device = torch.device(config.device)
        self.action_dim = parts.action_dim
        self._range = ActionRange(parts.action_low, parts.action_high)
        standardize, size = config.normalize_observation, parts.observation_dim
        self.normalizer = ReplayNormalizer(size, self.device) if standardize else None
        self._build_networks(config, parts)
        self.switch_rule = parts.switch_rule(config, CRITICS)
        self.replay = replay_of(config, parts, self.device)
        self._generators = {
            name: parts.streams.torch(name, device)
            for name, device in (
                ("warmup", self.device),
                ("action_noise", self._acting.device),
                ("update_noise", self.device),
                ("replay", self.device),
            )
        }
        self.clock = UpdateClock(
            config.warmup_steps,
            config.updates_per_env_step,
            config.steps_per_iteration,
            config.learning_starts,
        )
        self.iteration = 0
        self._sums = torch.zeros(len(STATISTICS), dtype=torch.float64, device=self.device)

    def _build_networks(self, config: Config, parts: Parts) -> None:
        streams, pair_dim = parts.streams, parts.observation_dim + parts.action_dim
        self.actor = SquashedGaussianPolicy(
            parts.torso("actor", parts.observation_dim, 2 * parts.action_dim),
            parts.action_dim,
            parts.head_law(config.actor_head_bound),
            streams.child("actor"),
            config.log_std_min,
            config.log_std_max,
        ).to(self.device)
        self.critic_1, self.critic_2 = (
            QFunction(
                parts.of_values.torso(name, pair_dim, 1),
                parts.of_values.head_law(config.critic_head_bound),
                streams.child(name),
            ).to(self.device)
            for name in CRITICS
        )
        parts.prepare(self.networks())
        # Copied before any method hooks itself into the originals.
        critics = (self.critic_1, self.critic_2)
        self.targets = tuple(copy.deepcopy(critic).requires_grad_(False) for critic in critics)
        self._current, self._acting = actors(config.acting, self.actor, self.device)
        self.temperature = Temperature(
            config.initial_temperature,
            parts.context.dim if config.temperature_per_task else 0,
            config.temperature_learning_rate,
            self.device,
            config.temperature_epsilon,
        )
        joint = config.critic_clipping == "joint"
        learning = replace(parts, total_steps=max(0, parts.total_steps - config.learns_after))
        updates: dict[str, Update] = {
            name: learning.update(
                name,
                network,
                config.updates_per_env_step,
                None if joint and name in CRITICS else config.max_grad_norm,
                InputSource(functools.partial(self._sample_inputs, name), config.batch_size),
            )
            for name, network in self.networks().items()
        }
        if self.device.type != "cpu":
            updates = {name: UncheckedUpdate.of(update) for name, update in updates.items()}
        self.updates = updates
        if self._acting is not self._current and (reason := obstacle(updates)) is not None:
            refuse_delay(config.acting, reason)
            self._acting = self._current
        self._threads = LearnerThreads(parts.num_threads if self.device.type == "cpu" else 1)
        kind = kind_of_steps(config, self.device, updates)
        settings = step_settings(config, parts.action_dim)
        self._steps: SACSteps = kind(
            self.actor, self.targets, updates, self.temperature, settings, self._threads
        )

    # Interaction ---------------------------------------------------------------------------

    def act(self, observation: np.ndarray, context: np.ndarray, explore: bool) -> np.ndarray:
        """Sample actions, uniformly during the warm-up, or return the mode; see `Agent.act`."""
        if self.normalizer is not None and explore:
            self.normalizer.update(observation)
        observation = self._scaled(observation)
        if not explore:
            return self._range.to_world(self._current.actions(observation, context, None))
        shape, generators = (len(observation), self.action_dim), self._generators
        if self.clock.is_warming_up:
            uniform = torch.rand(shape, generator=generators["warmup"], device=self.device)
            return self._range.to_world(uniform.mul_(2.0).sub_(1.0).cpu().numpy())
        noise = torch.randn(shape, generator=generators["action_noise"], device=self._acting.device)
        return self._range.to_world(self._acting.actions(observation, context, noise))

    def sample(self, observation: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Sample actions for somebody who only watches; see `Agent.sample`."""
        noise = torch.randn(len(observation), self.action_dim, generator=self._watching_noise)
        drawn = self._current.actions(self._scaled(observation), context, noise.to(self.device))
        return self._range.to_world(drawn)

    def _scaled(self, observation: np.ndarray) -> np.ndarray:
        return observation if self.normalizer is None else self.normalizer(observation)

    def _seen(self, batch: Batch) -> Batch:
        """Transitions of the replay as the networks see them."""
        return batch if self.normalizer is None else self.normalizer.batch(batch)

    def observe(self, transition: Transition) -> None:
        """Store the outcome of the last exploring `act`."""
        action = self._range.from_world(transition.action)
        self.replay.add(replace(transition, action=action))
        self.clock.observe(len(transition.reward), self._can_learn)

    @property
    def _can_learn(self) -> bool:
        return self.replay.size >= self.config.batch_size

    def on_task_change(self, task: int) -> None:
        """Announce the change to methods that need it, and begin anew with what is configured."""
        super().on_task_change(task)
        self._steps.mirror_edits()
        self._acting.catch_up()
        if self.config.optimizer_on_switch == "reset":
            self.temperature.optimizer.state.clear()
        if self.switch_rule is not None and self.switch_rule.names:
            self._steps.forget()
        if self.config.warmup_on_switch:
            self.clock.restart_warmup()
        if self.config.buffer_on_switch == "clear":
            self.replay.keep_last(0)
        elif self.config.buffer_on_switch == "keep_last_n":
            self.replay.keep_last(self.config.keep_last_n // self.num_envs * self.num_envs)

    def methods_that_need_boundaries(self) -> list[str]:
        """Ids of methods that act at announced task changes, and the replay if it does."""
        rule, again = self.config.buffer_on_switch, self.config.warmup_on_switch
        own = [] if rule in ("keep", "reservoir") else [f"agent.buffer_on_switch={rule}"]
        own += ["agent.warmup_on_switch=true"] if again else []
        return [*own, *super().methods_that_need_boundaries()]

    # Learning ------------------------------------------------------------------------------

    @property
    def update_is_due(self) -> bool:
        """Whether the next `update` will learn."""
        return self.clock.num_due > 0 and self._can_learn

    @property
    def begins_iteration(self) -> bool:
        """Whether the next gradient step is the first of an iteration."""
        return self.clock.num_in_iteration == 0

    def update(self) -> dict[str, Tensor]:
        """Make the gradient steps that are due.

        Returns:
            Means over the iteration when these steps complete one, {} otherwise.
        """
        if not self.update_is_due:
            return {}
        for _ in range(self.clock.num_due):
            self._gradient_step()
        self._acting.follow()
        num_summed = self.clock.num_in_iteration
        if not self.clock.complete_iteration():
            return {}
        self._check_finite()
        recent = self._seen(self.replay.last(self.config.batch_size))
        for name, update in self.updates.items():
            update.network.torso.record_statistics(*self._inputs_of(name, recent))
        self._steps.mirror_edits()  # targets of boosted winners hear of the new statistics
        self.iteration = self.clock.iteration
        means = (self._sums / num_summed).float()
        self._sums.zero_()
        return dict(zip(STATISTICS, means, strict=True))

    def _gradient_step(self) -> None:
        config, generator = self.config, self._generators["update_noise"]
        if config.task_balanced_batches == "off":
            rows = self.replay.draw(config.batch_size, self._generators["replay"])
        else:
            shared = config.task_balanced_batches == "shared"
            rows = self.replay.draw_balanced(
                config.batch_size, self.num_envs, shared, self._generators["replay"]
            )
        shape = (2, config.batch_size, self.action_dim)
        noise, next_noise = torch.randn(shape, generator=generator, device=self.device)
        self._sums += self._steps.step(self._seen(self.replay.rows(rows)), noise, next_noise)
        self.clock.step()
        if self.clock.gradient_steps % CHECK_PERIOD == 0:
            self._check_finite()

    def _check_finite(self) -> None:
        for update in self.updates.values():
            update.check_finite()

    # Introspection -------------------------------------------------------------------------

    def networks(self) -> dict[str, Network]:
        """Actor and critics; targets are averages of the critics, not trained."""
        return {"actor": self.actor, "critic_1": self.critic_1, "critic_2": self.critic_2}

    def network_inputs(
        self,
        name: str,
        observation: np.ndarray,
        action: np.ndarray | None,
        context: np.ndarray,
    ) -> tuple[Tensor, Tensor | None]:
        """Convert samples; critics take observation and action side by side."""
        inputs = self._tensor(self._scaled(observation))
        if name in CRITICS:
            assert action is not None
            inputs = torch.cat((inputs, self._tensor(self._range.from_world(action))), dim=1)
        return inputs, self._tensor(context) if context.shape[-1] else None

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(array, dtype=np.float32)).to(self.device)

    def window_inputs(self, name: str, size: int) -> tuple[Tensor, Tensor | None] | None:
        """Inputs of one network for the last `size` transitions stored."""
        if not self.update_is_due:
            return None
        return self._inputs_of(name, self._seen(self.replay.last(size)))

    def _sample_inputs(
        self, name: str, size: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        rows = torch.randint(self.replay.size, (size,), generator=generator).to(self.device)
        return self._inputs_of(name, self._seen(self.replay.rows(rows)))

    @staticmethod
    def _inputs_of(name: str, batch: Batch) -> tuple[Tensor, Tensor | None]:
        if name in CRITICS:
            return torch.cat((batch.observation, batch.action), dim=1), batch.context
        return batch.observation, batch.context

    @property
    def is_at_quiet_point(self) -> bool:
        """True between iterations."""
        return self.begins_iteration and not self.update_is_due

    def announcements(self) -> list[str]:
        """What was rounded, and what the methods will do."""
        return [*self._roundings, *super().announcements()]

    def statistic_names(self) -> tuple[str, ...]:
        """Keys of what `update` returns."""
        return STATISTICS

    def log_values(self) -> dict[str, float]:
        """Scalars of all methods, the fill of the replay, and temperatures where there are many."""
        values = {**super().log_values(), "replay_size": float(self.replay.size)}
        if self.temperature.per_task:
            temperatures = self.temperature.log_temperature.detach().exp().tolist()
            values |= {f"temperature/task_{task}": t for task, t in enumerate(temperatures)}
        return values

    # State ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets, temperature, optimizers, methods, generators, replay, counters."""
        return {
            "updates": {name: update.state_dict() for name, update in self.updates.items()},
            "targets": dict(
                zip(CRITICS, (clone(t.state_dict()) for t in self.targets), strict=True)
            ),
            "temperature": self.temperature.state(),
            "generators": {name: g.get_state() for name, g in self._generators.items()},
            "replay": self.replay.state_dict(),
            "sums": clone(self._sums),
            "clock": self.clock.state_dict(),
            **self._acting.state(),
            **({} if self.normalizer is None else {"normalizer": self.normalizer.state_dict()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, update in self.updates.items():
            update.load_state_dict(state["updates"][name])
        for name, target in zip(CRITICS, self.targets, strict=True):
            target.load_state_dict(state["targets"][name])
        self.temperature.load_state(state["temperature"])
        for name, generator in self._generators.items():
            saved = state["generators"][name]
            # A position saved on another kind of device means nothing here; that stream starts
            # anew, and the run is continued, but not in the same bits.
            if saved.shape == generator.get_state().shape:
                generator.set_state(saved)
        self.replay.load_state_dict(state["replay"])
        self._steps.forget()
        self._acting.load_state(state)
        self._sums.copy_(state["sums"])
        if self.normalizer is not None:
            self.normalizer.load_state_dict(state["normalizer"])
        self.clock.load_state_dict(state["clock"])
        self.iteration = self.clock.iteration

    def organs(self) -> tuple[str, ...]:
        """Parts that a transplant can leave new."""
        return (*self.networks(), "temperature", "optimizer", "replay")

    def transplant(self, state: Mapping[str, Any], fresh_parts: Collection[str]) -> None:
        """Go on from another run with some organs new.

        A fresh critic gets a fresh target, equal to it. Random streams and counters, and with
        them the warm-up, stay those of the new run.
        """
        check_parts(fresh_parts, self.organs())
        transplant_normalizer(self.normalizer, state, set(self.networks()) <= set(fresh_parts))
        transplant_updates(self.updates, state["updates"], fresh_parts)
        for name, target in zip(CRITICS, self.targets, strict=True):
            if name not in fresh_parts:
                target.load_state_dict(fitted_state(target, clone(state["targets"][name])))
        if "temperature" not in fresh_parts:
            self.temperature.load_state(state["temperature"], "optimizer" not in fresh_parts)
        if "replay" not in fresh_parts:
            with kept_in_place(*self.replay.streams):
                self.replay.load_state_dict(state["replay"])
        self._steps.forget()
        self._acting.catch_up()

    def close(self) -> None:
        """End the learner thread."""
        self._threads.close()


def build(config: Config, parts: Parts) -> SAC:
    """Build the agent."""
    return SAC(config, parts)
