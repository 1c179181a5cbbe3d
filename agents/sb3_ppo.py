"""The PPO of stable-baselines3 inside our loop, as a baseline.

Its networks, its sampling, its buffer, its advantages and its update run unchanged; only the
transitions come from our worlds. Settings that the reference PPO names have its values, so that
the two differ in what the libraries do, not in what they were told.

Deviation from our own PPO, all of them SB3's ways: actions are clipped to [-1, 1] before the
environment sees them (the unclipped action is what is learnt from), one Adam over policy and
value, advantages normalised per minibatch, orthogonal initialisation with a small policy head,
and a truncated episode bootstraps by adding discount * V(last observation) to its last reward.

Source: Raffin et al. 2021, "Stable-Baselines3: Reliable Reinforcement Learning Implementations".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from agents.base import Agent, Transition
from agents.global_streams import GlobalStreams
from agents.parts import Parts
from agents.sb3_networks import SharedPolicy, SharedTorso, SharedValue
from agents.sb3_parts import joined_inputs, refuse_what_sb3_cannot_take, spaces
from agents.update import (
    NumericalFailure,
    clone,
    forget_parameters,
    load_optimizer_state,
    optimizer_state,
)
from networks.activations import ACTIVATIONS, activation
from networks.heads import Network
from networks.initializers import Initializer

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


@dataclass(frozen=True)
class Config:
    """Settings of SB3's PPO, by our names.

    The groups `network` and `optimizer` do not reach SB3, which builds its own; leave them at
    their presets `mlp` and `adam`.

    Attributes:
        kind: Name of this file.
        rollout_length: Vector steps between updates (`n_steps`).
        num_epochs: Passes over a rollout (`n_epochs`).
        minibatch_size: Transitions per gradient step (`batch_size`); must divide a rollout.
        learning_rate: Of the one Adam over both networks.
        adam_epsilon: Of that Adam; 1e-5 is SB3's default.
        discount: In [0, 1] (`gamma`).
        gae_lambda: In [0, 1].
        clip_range: Ratio is clipped to [1 - clip_range, 1 + clip_range].
        value_coefficient: Factor of the value loss (`vf_coef`; SB3's default is 0.5).
        entropy_coefficient: Factor of the entropy bonus (`ent_coef`).
        normalize_advantage: Standardise advantages in every minibatch.
        max_grad_norm: Clip the joint gradient norm, None for no clipping.
        hidden_sizes: Units of each hidden layer, in both networks (`net_arch`).
        activation: Name of the nonlinearity.
        orthogonal_init: SB3's initialisation; false is that of PyTorch.
    """

    kind: str = "sb3_ppo"
    rollout_length: int = 128
    num_epochs: int = 10
    minibatch_size: int = 128
    learning_rate: float = 1e-4
    adam_epsilon: float = 1e-5
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    value_coefficient: float = 1.0
    entropy_coefficient: float = 0.0
    normalize_advantage: bool = True
    max_grad_norm: float | None = None
    hidden_sizes: list[int] = field(default_factory=lambda: [256, 256])
    activation: str = "relu"
    orthogonal_init: bool = True

    def __post_init__(self) -> None:
        for name in ("rollout_length", "num_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"agent.{name} is {getattr(self, name)}; give at least 1")
        if self.minibatch_size < 2:
            raise ValueError(f"agent.minibatch_size is {self.minibatch_size}; give at least 2")
        for name in ("discount", "gae_lambda"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"agent.{name} is {getattr(self, name)}; give a value in [0, 1]")
        for name in ("learning_rate", "adam_epsilon", "clip_range"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"agent.{name} is {getattr(self, name)}; give a value above 0")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0.0:
            raise ValueError(
                f"agent.max_grad_norm is {self.max_grad_norm}; give a value above 0, or null"
            )
        if not self.hidden_sizes or any(size < 1 for size in self.hidden_sizes):
            raise ValueError(
                f"agent.hidden_sizes is {list(self.hidden_sizes)}; give one or more layers of at "
                "least 1 unit"
            )
        if self.activation not in ACTIVATIONS:
            activation(self.activation)  # raises, naming the known ones


class SB3PPO(Agent):
    """The agent."""

    def __init__(self, config: Config, parts: Parts) -> None:
        refuse_what_sb3_cannot_take("sb3_ppo", parts)
        _refuse_ragged_minibatches(config, parts)
        self.config = config
        self.iteration = 0
        self._draws = GlobalStreams(parts.streams, "sb3")
        self._prediction_draws = GlobalStreams(parts.streams, "sb3_prediction")
        self._logger = Logger(folder=None, output_formats=[])  # only to read what SB3 logs
        with self._draws.lent():
            self.model = _build_model(config, parts)
        self.model.set_logger(self._logger)
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
        try:
            with self._draws.lent():
                self.model.train()
        except ValueError as error:  # SB3's distributions refuse means that are not numbers
            self._check_finite(error)
            raise
        self._check_finite(None)
        self._buffer.reset()
        self.model.policy.set_training_mode(False)
        logged, self.iteration = dict(self._logger.name_to_value), self.iteration + 1
        self._logger.name_to_value.clear()
        return {
            name: torch.tensor(factor * float(logged[key]))
            for name, (key, factor) in _STATISTICS.items()
        }

    def _check_finite(self, cause: Exception | None) -> None:
        for name, network in self.networks().items():
            if not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
                raise NumericalFailure(name, "weights") from cause

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

    def statistic_names(self) -> tuple[str, ...]:
        """Keys of what `update` returns."""
        return tuple(_STATISTICS)

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

    def organs(self) -> tuple[str, ...]:
        """Parts that a transplant can leave new."""
        return ("policy", "value", "optimizer", "log_std")

    def transplant(self, state: Mapping[str, Any], fresh_parts: Collection[str]) -> None:
        """Go on from another run's networks with some organs new; see `agents.ppo`."""
        unknown = sorted(set(fresh_parts) - set(self.organs()))
        if unknown:
            raise ValueError(
                f"fresh_parts has {', '.join(unknown)}; this agent has the parts "
                f"{', '.join(self.organs())}"
            )
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


def _refuse_ragged_minibatches(config: Config, parts: Parts) -> None:
    num_transitions = config.rollout_length * parts.num_envs
    if num_transitions % config.minibatch_size:
        raise ValueError(
            f"agent.minibatch_size={config.minibatch_size} does not divide a rollout of "
            f"{config.rollout_length} x {parts.num_envs} = {num_transitions} transitions"
        )


def _build_model(config: Config, parts: Parts) -> PPO:
    """Build SB3's PPO without an environment, as its own `load` does."""
    model = PPO(
        "MlpPolicy",
        None,  # type: ignore[arg-type]
        learning_rate=config.learning_rate,
        n_steps=config.rollout_length,
        batch_size=config.minibatch_size,
        n_epochs=config.num_epochs,
        gamma=config.discount,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        normalize_advantage=config.normalize_advantage,
        ent_coef=config.entropy_coefficient,
        vf_coef=config.value_coefficient,
        max_grad_norm=np.inf if config.max_grad_norm is None else config.max_grad_norm,
        policy_kwargs={
            "net_arch": {"pi": list(config.hidden_sizes), "vf": list(config.hidden_sizes)},
            "activation_fn": ACTIVATIONS[config.activation],
            "ortho_init": config.orthogonal_init,
            "optimizer_kwargs": {"eps": config.adam_epsilon},
        },
        device="cpu",
        _init_setup_model=False,
    )
    model.observation_space, model.action_space = spaces(parts)
    model.n_envs = parts.num_envs
    model._setup_model()
    model.policy.set_training_mode(False)
    return model


def build(config: Config, parts: Parts) -> SB3PPO:
    """Build the agent."""
    return SB3PPO(config, parts)
