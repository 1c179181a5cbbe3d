"""The SAC of stable-baselines3 inside our loop, as a baseline.

Its networks, its sampling, its replay and its update run unchanged; only the transitions and the
times of its gradient steps come from our loop. Settings that our SAC names have its values, so
that the two differ in what the libraries do, not in what they were told.

Deviation from our own SAC, all of them SB3's ways: one Adam over both critics, initialisation of
PyTorch, log-probabilities that are off by up to 1e-6 / (1 - a^2), and a replay of whole vector
steps.

Source: Raffin et al. 2021, "Stable-Baselines3: Reliable Reinforcement Learning Implementations".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from torch import Tensor, nn

from agents.action_range import ActionRange
from agents.base import Transition
from agents.parts import Parts
from agents.sb3_agent import SB3Agent, as_tensors
from agents.sb3_networks import SharedTorso, SharedValue
from agents.sb3_parts import joined_inputs
from agents.sb3_sac_model import Config, build_model
from agents.transplants import check_parts
from agents.update import clone, load_optimizer_state, optimizer_state
from agents.update_clock import UpdateClock
from networks.heads import Network
from networks.initializers import Initializer

__all__ = ["SB3SAC", "Config", "build"]

# SB3's name of what we log, and the factor between the two.
_STATISTICS = {
    "actor_loss": ("train/actor_loss", 1.0),
    "critic_loss": ("train/critic_loss", 0.5),
    "temperature": ("train/ent_coef", 1.0),
    "temperature_loss": ("train/ent_coef_loss", 1.0),
}
_ROWS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class SharedActor(Network):
    """SB3's actor: hidden layers, the mean and the log standard deviation before squashing."""

    def __init__(self, torso: SharedTorso, mean: nn.Linear, log_std: nn.Linear) -> None:
        super().__init__()
        self.torso, self.mean, self.log_std = torso, mean, log_std

    def heads(self) -> tuple[nn.Linear, ...]:
        """The mean and the log standard deviation."""
        return (self.mean, self.log_std)

    def forward(self, observation: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, inputs) to means before squashing (B, act)."""
        return self.mean(self.torso(observation))


class SB3SAC(SB3Agent[SAC]):
    """The agent."""

    statistics = _STATISTICS
    learns_from_replay = True

    def __init__(self, config: Config, parts: Parts) -> None:
        super().__init__(config, parts, build_model)
        self.clock = UpdateClock(
            config.warmup_steps, config.updates_per_env_step, config.steps_per_iteration
        )
        self._warmup = parts.streams.torch("warmup")
        self._range = ActionRange(parts.action_low, parts.action_high)
        self._networks = _shared_networks(self.model)
        self._sums = dict.fromkeys(_STATISTICS, 0.0)

    @property
    def _buffer(self) -> ReplayBuffer:
        buffer = self.model.replay_buffer
        assert buffer is not None
        return buffer

    # Interaction ---------------------------------------------------------------------------

    def act(self, observation: np.ndarray, context: np.ndarray, explore: bool) -> np.ndarray:
        """Sample actions, uniformly during the warm-up, or return the mode; see `Agent.act`."""
        inputs = torch.from_numpy(joined_inputs(observation, context))
        with torch.no_grad():
            if not explore:
                return self._range.to_world(self.model.actor(inputs, deterministic=True).numpy())
            if self.clock.is_warming_up:
                shape = (len(inputs), self._buffer.action_dim)
                uniform = torch.rand(shape, generator=self._warmup).mul_(2.0).sub_(1.0)
                return self._range.to_world(uniform.numpy())
            with self._draws.lent():
                return self._range.to_world(self.model.actor(inputs).numpy())

    def sample(self, observation: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Sample actions without preparing an `observe`; see `Agent.sample`."""
        with torch.no_grad(), self._prediction_draws.lent():
            inputs = torch.from_numpy(joined_inputs(observation, context))
            return self._range.to_world(self.model.actor(inputs).numpy())

    def observe(self, transition: Transition) -> None:
        """Store the outcome of the last exploring `act`."""
        ended = transition.terminated | transition.truncated
        cut = transition.truncated & ~transition.terminated
        self._buffer.add(
            joined_inputs(transition.observation, transition.context),
            joined_inputs(transition.next_observation, transition.next_context),
            self._range.from_world(transition.action),
            transition.reward,
            ended,
            [{"TimeLimit.truncated": bool(flag)} for flag in cut],
        )
        stored = self._buffer.size() * self._buffer.n_envs
        self.clock.observe(len(ended), stored >= self.config.batch_size)

    # Learning ------------------------------------------------------------------------------

    @property
    def update_is_due(self) -> bool:
        """Whether the next `update` will learn."""
        return self.clock.num_due > 0

    @property
    def begins_iteration(self) -> bool:
        """Whether the next gradient step is the first of an iteration."""
        return self.clock.num_in_iteration == 0

    def update(self) -> dict[str, Tensor]:
        """Make the gradient steps that are due; means when they complete an iteration, else {}."""
        due = self.clock.num_due
        if due <= 0:
            return {}
        logged = self._learn(lambda: self.model.train(due, self.config.batch_size))
        for name, value in logged.items():
            self._sums[name] += due * value
        self.clock.step(due)
        num_summed = self.clock.num_in_iteration
        if not self.clock.complete_iteration():
            return {}
        self._check_finite()
        self.iteration = self.clock.iteration
        means = as_tensors({name: total / num_summed for name, total in self._sums.items()})
        self._sums = dict.fromkeys(_STATISTICS, 0.0)
        return means

    # Introspection -------------------------------------------------------------------------

    def networks(self) -> dict[str, Network]:
        """Actor and critics; the parameters are SB3's own."""
        return dict(self._networks)

    def network_inputs(
        self,
        name: str,
        observation: np.ndarray,
        action: np.ndarray | None,
        context: np.ndarray,
    ) -> tuple[Tensor, Tensor | None]:
        """Observations with the context behind them, and for critics the action after that."""
        squashed = None if action is None else self._range.from_world(action)
        return self._squashed_inputs(name, observation, squashed, context), None

    def _squashed_inputs(
        self, name: str, observation: np.ndarray, action: np.ndarray | None, context: np.ndarray
    ) -> Tensor:
        """The same for actions in [-1, 1], which is how networks and replay know them."""
        inputs = torch.from_numpy(joined_inputs(observation, context))
        if name == "actor":
            return inputs
        assert action is not None
        return torch.cat((inputs, torch.from_numpy(np.asarray(action, np.float32))), dim=1)

    def window_inputs(self, name: str, size: int) -> tuple[Tensor, Tensor | None] | None:
        """Inputs of one network for the last `size` transitions stored."""
        if not self.update_is_due:
            return None
        buffer = self._buffer
        count = min(buffer.size(), -(-size // buffer.n_envs))
        rows = np.arange(buffer.pos - count, buffer.pos) % buffer.buffer_size
        observations = buffer.observations[rows].reshape(-1, *buffer.obs_shape)[-size:]
        actions = buffer.actions[rows].reshape(-1, buffer.action_dim)[-size:]
        no_context = np.zeros((len(actions), 0))
        return self._squashed_inputs(name, observations, actions, no_context), None

    @property
    def is_at_quiet_point(self) -> bool:
        """True between iterations."""
        return self.begins_iteration and not self.update_is_due

    # State ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """SB3's weights, optimizers, temperature, replay and generators, and our counters."""
        buffer = self._buffer
        filled = buffer.size()
        return {
            "weights": clone(self.model.policy.state_dict()),
            "log_temperature": clone(self.model.log_ent_coef),
            "optimizers": {n: optimizer_state(o) for n, o in self._optimizers().items()},
            "draws": self._draws.state_dict(),
            "warmup": self._warmup.get_state(),
            "replay": {name: getattr(buffer, name)[:filled].copy() for name in _ROWS},
            "position": buffer.pos,
            "is_full": buffer.full,
            "sums": dict(self._sums),
            "clock": self.clock.state_dict(),
        }

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        temperature = self.model.ent_coef_optimizer
        assert temperature is not None
        return {
            "actor": self.model.actor.optimizer,
            "critics": self.model.critic.optimizer,
            "temperature": temperature,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.model.policy.load_state_dict(state["weights"])
        self._load_temperature(state)
        for name, optimizer in self._optimizers().items():
            load_optimizer_state(optimizer, state["optimizers"][name])
        self._draws.load_state_dict(state["draws"])
        self._warmup.set_state(state["warmup"])
        self._load_replay(state)
        self._sums = {name: float(value) for name, value in state["sums"].items()}
        self.clock.load_state_dict(state["clock"])
        self.iteration = self.clock.iteration

    def _load_temperature(self, state: Mapping[str, Any]) -> None:
        assert self.model.log_ent_coef is not None
        with torch.no_grad():
            self.model.log_ent_coef.copy_(state["log_temperature"])

    def _load_replay(self, state: Mapping[str, Any]) -> None:
        """Restore the stored vector steps.

        Raises:
            ValueError: They are of another shape, or of another capacity.
        """
        buffer, position = self._buffer, int(state["position"])
        for name in _ROWS:
            rows, places = state["replay"][name], getattr(buffer, name)
            if rows.shape[1:] != places.shape[1:]:
                raise ValueError(
                    f"the saved replay holds {name} of shape {rows.shape[1:]}, this run needs "
                    f"{places.shape[1:]}; environments, observations, actions and context must "
                    "agree, or add replay to fresh_parts"
                )
            expected = buffer.buffer_size if state["is_full"] else position
            if len(rows) != expected or len(rows) > buffer.buffer_size:
                raise ValueError(
                    f"the saved replay of {len(rows):,} vector steps, written up to step "
                    f"{position:,}, is not of a capacity of {buffer.buffer_size:,}; leave "
                    "agent.replay_size and the number of environments as they were, or add replay "
                    "to fresh_parts"
                )
        for name in _ROWS:
            rows = state["replay"][name]
            getattr(buffer, name)[: len(rows)] = rows
        buffer.pos, buffer.full = position, bool(state["is_full"])

    def organs(self) -> tuple[str, ...]:
        """Parts that a transplant can leave new."""
        return ("actor", "critics", "temperature", "optimizer", "replay")

    def transplant(self, state: Mapping[str, Any], fresh_parts: Collection[str]) -> None:
        """Go on from another run's networks with some organs new; see `agents.sac`."""
        check_parts(fresh_parts, self.organs())
        donor = {k: v for k, v in state["weights"].items() if _organ(k) not in fresh_parts}
        self.model.policy.load_state_dict(donor, strict=False)
        if "temperature" not in fresh_parts:
            self._load_temperature(state)
        if "replay" not in fresh_parts:
            self._load_replay(state)
        for name, optimizer in self._optimizers().items():
            if not {name, "optimizer"} & set(fresh_parts):
                load_optimizer_state(optimizer, state["optimizers"][name])


def _organ(parameter: str) -> str:
    """Organ that one of SB3's parameters belongs to."""
    return "actor" if parameter.startswith("actor.") else "critics"


def _shared_networks(model: SAC) -> dict[str, Network]:
    """SB3's networks as our diagnostics see them."""
    law, actor = Initializer("pytorch"), model.actor
    assert isinstance(actor.mu, nn.Linear)
    assert isinstance(actor.log_std, nn.Linear)
    networks: dict[str, Network] = {
        "actor": SharedActor(SharedTorso(actor.latent_pi, law), actor.mu, actor.log_std)
    }
    for index, q in enumerate(model.critic.q_networks, start=1):
        assert isinstance(q, nn.Sequential)
        value = q[-1]
        assert isinstance(value, nn.Linear)
        networks[f"critic_{index}"] = SharedValue(
            SharedTorso(nn.Sequential(*list(q)[:-1]), law), value
        )
    return networks


def build(config: Config, parts: Parts) -> SB3SAC:
    """Build the agent."""
    return SB3SAC(config, parts)
