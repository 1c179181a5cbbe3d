"""The PPO of stable-baselines3, built from our settings."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from stable_baselines3 import PPO

from agents.parts import Parts
from agents.ppo_config import check_minibatches, check_rollouts
from agents.sb3_parts import check_layers, spaces
from networks.activations import ACTIVATIONS


@dataclass(frozen=True)
class Config:
    """Settings of SB3's PPO, by our names.

    The groups `network` and `optimizer` do not reach SB3, which builds its own; leave them at
    their presets `mlp` and `adam`.

    Attributes:
        kind: Name of the file of the agent.
        rollout_length: Vector steps between updates (`n_steps`).
        num_epochs: Passes over a rollout (`n_epochs`).
        minibatch_size: Transitions per gradient step (`batch_size`); must divide a rollout.
        learning_rate: Of the one Adam over both networks.
        adam_epsilon: Of that Adam; the reference value, SB3 itself has 1e-5.
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
    adam_epsilon: float = 1e-8
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
        check_rollouts(self)
        for name in ("learning_rate", "adam_epsilon", "clip_range"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"agent.{name} is {getattr(self, name)}; give a value above 0")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0.0:
            raise ValueError(
                f"agent.max_grad_norm is {self.max_grad_norm}; give a value above 0, or null"
            )
        check_layers(self.hidden_sizes, self.activation)


def build_model(config: Config, parts: Parts) -> PPO:
    """Build SB3's PPO without an environment, as its own `load` does.

    Raises:
        ValueError: The minibatch size does not divide a rollout.
    """
    check_minibatches(config, parts)
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
