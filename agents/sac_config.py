"""Settings of soft actor-critic, and what they need of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from agents.parts import Parts


@dataclass(frozen=True)
class Config:
    """Settings of SAC. The group `optimizer` configures actor and critics alike.

    Attributes:
        kind: Name of this file.
        discount: In [0, 1].
        tau: Weight of the new in the Polyak average of the target critics, in (0, 1].
        batch_size: Transitions per gradient step.
        replay_size: Transitions kept.
        warmup_steps: Environment steps of uniform random actions before the first gradient step.
        updates_per_env_step: Gradient steps per environment step after the warm-up; fractions
            add up over vector steps.
        target_entropy: Entropy that the policy is to keep, in nats; `auto` is -(action size).
        initial_temperature: Weight of the entropy at the start, > 0.
        temperature_learning_rate: Of the temperature's own Adam; 0 keeps it constant.
        temperature_per_task: Learn one temperature per task; needs a one-hot context.
        log_std_min: Lower clip of the policy's log standard deviation.
        log_std_max: Upper clip.
        buffer_on_switch: `keep` the replay of old worlds, `clear` it, or `keep_last_n`. The last
            two act on announced switches and so need boundary=oracle.
        keep_last_n: Transitions kept by `keep_last_n`, rounded down to whole vector steps.
        task_balanced_batches: `off` draws uniformly; `shared` draws vector steps and takes the
            rows of all environments, `independent` draws equally many rows of every
            environment. Balanced over tasks where every environment has its own.
        timeouts_terminal: Treat truncation as termination (biases values).
        max_grad_norm: Clip each network's gradient norm, None for no clipping.
        steps_per_iteration: Environment steps whose gradient steps make one iteration, the unit
            of all log periods; 2,048 are one rollout of the reference PPO.
        device: `cpu` or `cuda`: where networks, replay and updates live.
    """

    kind: str = "sac"
    discount: float = 0.99
    tau: float = 0.005
    batch_size: int = 256
    replay_size: int = 1_000_000
    warmup_steps: int = 10_000
    updates_per_env_step: float = 0.125
    target_entropy: float | Literal["auto"] = "auto"
    initial_temperature: float = 1.0
    temperature_learning_rate: float = 3e-4
    temperature_per_task: bool = False
    log_std_min: float = -20.0
    log_std_max: float = 2.0
    buffer_on_switch: Literal["keep", "clear", "keep_last_n"] = "keep"
    keep_last_n: int = 100_000
    task_balanced_batches: Literal["off", "shared", "independent"] = "off"
    timeouts_terminal: bool = False
    max_grad_norm: float | None = None
    steps_per_iteration: int = 2_048
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        if not 0.0 <= self.discount <= 1.0:
            raise ValueError(f"agent.discount is {self.discount}; give a value in [0, 1]")
        if not 0.0 < self.tau <= 1.0:
            raise ValueError(f"agent.tau is {self.tau}; give a value above 0 and at most 1")
        for name in ("batch_size", "replay_size", "keep_last_n", "steps_per_iteration"):
            if getattr(self, name) < 1:
                raise ValueError(f"agent.{name} is {getattr(self, name)}; give at least 1")
        for name in ("updates_per_env_step", "initial_temperature"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"agent.{name} is {getattr(self, name)}; give a value above 0")
        for name in ("warmup_steps", "temperature_learning_rate"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"agent.{name} is {getattr(self, name)}; give 0 or more")
        if not self.log_std_min < self.log_std_max:
            raise ValueError(
                f"agent.log_std_min is {self.log_std_min}; give a value below "
                f"agent.log_std_max={self.log_std_max}"
            )
        if self.replay_size < self.batch_size:
            raise ValueError(
                f"agent.replay_size is {self.replay_size}; give at least "
                f"agent.batch_size={self.batch_size}"
            )
        if self.max_grad_norm is not None and not self.max_grad_norm > 0.0:
            raise ValueError(
                f"agent.max_grad_norm is {self.max_grad_norm}; give a value above 0, or null"
            )


def check_together(config: Config, parts: Parts) -> None:
    """Refuse settings that do not fit the run.

    Raises:
        ValueError: No CUDA device, no one-hot context, a width that does not divide, or a run
            that ends within the warm-up.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "agent.device is cuda, but torch finds no CUDA device; set agent.device=cpu"
        )
    if config.temperature_per_task and not (parts.context.discrete and parts.context.dim):
        raise ValueError(
            "agent.temperature_per_task=true needs a one-hot context that names the task; this "
            "environment announces none"
        )
    if config.task_balanced_batches != "off":
        for name in ("batch_size", "replay_size"):
            if getattr(config, name) % parts.num_envs:
                raise ValueError(
                    f"agent.{name}={getattr(config, name)} is no multiple of the {parts.num_envs} "
                    f"environments, which "
                    f"agent.task_balanced_batches={config.task_balanced_batches} needs"
                )
    if 0 < parts.total_steps <= config.warmup_steps:
        raise ValueError(
            f"agent.warmup_steps={config.warmup_steps:,} leaves nothing of "
            f"total_steps={parts.total_steps:,} to learn from; lower it, or train longer"
        )
