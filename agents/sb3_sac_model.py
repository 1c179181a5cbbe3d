"""The SAC of stable-baselines3, built from our settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from stable_baselines3 import SAC

from agents.parts import Parts
from agents.replay import check_memory
from agents.sac_config import check_replay, check_run_length
from agents.sb3_parts import check_layers, spaces
from networks.activations import ACTIVATIONS


@dataclass(frozen=True)
class Config:
    """Settings of SB3's SAC, by our names.

    The groups `network` and `optimizer` do not reach SB3, which builds its own; leave them at
    their presets `mlp` and `adam`.

    Attributes:
        kind: Name of the file of the agent.
        learning_rate: Of actor, critics and temperature.
        discount: In [0, 1] (`gamma`).
        tau: Weight of the new in the target critics.
        batch_size: Transitions per gradient step.
        replay_size: Transitions kept (`buffer_size`).
        warmup_steps: Environment steps of uniform random actions (`learning_starts`).
        updates_per_env_step: Gradient steps per environment step after the warm-up.
        target_entropy: In nats; `auto` is -(action size).
        initial_temperature: Weight of the entropy at the start (`ent_coef=auto_...`), > 0.
        steps_per_iteration: Environment steps whose gradient steps make one iteration.
        hidden_sizes: Units of each hidden layer, in all networks (`net_arch`).
        activation: Name of the nonlinearity.
    """

    kind: str = "sb3_sac"
    learning_rate: float = 3e-4
    discount: float = 0.99
    tau: float = 0.005
    batch_size: int = 256
    replay_size: int = 1_000_000
    warmup_steps: int = 10_000
    updates_per_env_step: float = 0.125
    target_entropy: float | Literal["auto"] = "auto"
    initial_temperature: float = 1.0
    steps_per_iteration: int = 2_048
    hidden_sizes: list[int] = field(default_factory=lambda: [256, 256])
    activation: str = "relu"

    def __post_init__(self) -> None:
        for name in ("discount", "tau"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"agent.{name} is {getattr(self, name)}; give a value in [0, 1]")
        check_replay(self)
        for name in ("learning_rate", "updates_per_env_step", "initial_temperature"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"agent.{name} is {getattr(self, name)}; give a value above 0")
        if self.warmup_steps < 0:
            raise ValueError(f"agent.warmup_steps is {self.warmup_steps}; give 0 or more")
        check_layers(self.hidden_sizes, self.activation)


def build_model(config: Config, parts: Parts) -> SAC:
    """Build SB3's SAC without an environment, as its own `load` does.

    Raises:
        ValueError: The run or the replay is too short for a gradient step, or does not fit.
    """
    check_run_length(config, parts)
    whole = config.replay_size // parts.num_envs * parts.num_envs
    if whole < config.batch_size:
        raise ValueError(
            f"agent.replay_size={config.replay_size} is too small for a minibatch: SB3 keeps whole "
            f"vector steps of {parts.num_envs} environments, {whole:,} transitions; give at least "
            f"{-(-config.batch_size // parts.num_envs) * parts.num_envs:,}"
        )
    observation_space, action_space = spaces(parts)
    width = 2 * observation_space.shape[0] + parts.action_dim + 3
    check_memory(config.replay_size, width, torch.device("cpu"))
    entropy = config.target_entropy
    model = SAC(
        "MlpPolicy",
        None,  # type: ignore[arg-type]
        learning_rate=config.learning_rate,
        buffer_size=config.replay_size,
        batch_size=config.batch_size,
        tau=config.tau,
        gamma=config.discount,
        ent_coef=f"auto_{config.initial_temperature}",
        target_entropy=-float(parts.action_dim) if entropy == "auto" else float(entropy),
        policy_kwargs={
            "net_arch": list(config.hidden_sizes),
            "activation_fn": ACTIVATIONS[config.activation],
        },
        device="cpu",
        _init_setup_model=False,
    )
    model.observation_space, model.action_space = observation_space, action_space
    model.n_envs = parts.num_envs
    model._setup_model()
    model.policy.set_training_mode(False)
    return model
