"""Settings of soft actor-critic, and what they need of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from agents.at_switch import Choice
from agents.parts import Parts

_LATER = {"later": True}  # left out of config.yaml at the default, see configs.schema.later


@dataclass(frozen=True)
class Config:
    """Settings of SAC. The group `optimizer` configures actor and critics alike.

    Attributes:
        kind: Name of this file.
        discount: In [0, 1].
        tau: Weight of the new in the Polyak average of the target critics, in (0, 1].
        batch_size: Transitions per gradient step.
        replay_size: Transitions kept; also rounded where `batch_size` is.
        warmup_steps: Environment steps of uniform random actions, as a rule before the first
            gradient step; see `learning_starts`.
        updates_per_env_step: Gradient steps per environment step after the warm-up; fractions
            add up over vector steps.
        target_entropy: Entropy that the policy is to keep, in nats; `auto` is -(action size).
        initial_temperature: Weight of the entropy at the start, > 0.
        temperature_learning_rate: Of the temperature's own Adam; 0 keeps it constant.
        temperature_epsilon: Added to the denominator of the same Adam, > 0.
        temperature_per_task: Learn one temperature per task; needs a one-hot context.
        log_std_min: Lower clip of the policy's log standard deviation.
        log_std_max: Upper clip.
        buffer_on_switch: `keep` the replay of old worlds, `clear` it, or `keep_last_n`. These two
            act on announced switches and so need boundary=oracle. `reservoir` needs none: once the
            replay is full, it holds an equal share of all transitions ever seen.
        keep_last_n: Transitions kept by `keep_last_n`, rounded down to whole vector steps.
        task_balanced_batches: `off` draws uniformly; `shared` draws vector steps and takes the
            rows of all environments, `independent` draws equally many rows of every
            environment. Balanced over tasks where every environment has its own. `auto` is
            `shared` where several tasks are stepped side by side and `off` elsewhere; it rounds
            `batch_size` up and `replay_size` down to whole vector steps, where the others refuse.
        timeouts_terminal: Treat truncation as termination (biases values).
        max_grad_norm: Clip the gradient norm to this, None for no clipping. The temperature is
            never clipped.
        critic_clipping: `separate` clips each critic by its own norm, `joint` both by the norm of
            their gradients together.
        actor_head_bound: Draw the weights of the actor's heads from U(-bound, bound), biases 0;
            None takes that of the network (`network.head_initializer`, or its `init`).
        critic_head_bound: The same for the critics' heads.
        steps_per_iteration: Environment steps whose gradient steps make one iteration, the unit
            of all log periods; 2,048 are one rollout of the reference PPO.
        device: `cpu` or `cuda`: where networks, replay and updates live.
        capture: Whether a GPU replays gradient steps from a CUDA graph: `auto` where optimizer and
            methods allow it, `on` refuses what does not, `off`. The arithmetic is the same.
        acting: Whose weights choose exploring actions: `current`, the actor's own, or `delayed`, a
            copy on the host that is one vector step's gradient steps behind, so that a GPU learns
            while the world is simulated. `auto` is `delayed` on a GPU where gradient steps can be
            captured, `current` elsewhere.
        learning_starts: Environment steps before the first gradient step; null waits for the end
            of the warm-up. Fewer learn from random actions while the warm-up goes on.
        warmup_on_switch: Begin the warm-up again at every announced switch.
        optimizer_on_switch: `reset` makes all optimizers, the temperature's included, forget at
            announced switches.
        critic_on_switch: `reset` draws both critics anew at announced switches, and their targets
            follow.
        normalize_observation: Standardise observations by running moments of all that were seen
            while acting. The replay keeps raw ones.
        fast_path: On the CPU, run the critics through a hand-written pass where they and their
            methods allow it; results then differ from autograd's by floating-point reordering
            only.
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
    temperature_epsilon: float = 1e-8
    temperature_per_task: bool = False
    log_std_min: float = -20.0
    log_std_max: float = 2.0
    buffer_on_switch: Literal["keep", "clear", "keep_last_n", "reservoir"] = "keep"
    keep_last_n: int = 100_000
    task_balanced_batches: Literal["auto", "off", "shared", "independent"] = "auto"
    timeouts_terminal: bool = False
    max_grad_norm: float | None = None
    critic_clipping: Literal["separate", "joint"] = "separate"
    actor_head_bound: float | None = None
    critic_head_bound: float | None = None
    steps_per_iteration: int = 2_048
    device: Literal["cpu", "cuda"] = "cpu"
    fast_path: bool = True
    capture: Literal["auto", "on", "off"] = "auto"
    acting: Literal["auto", "current", "delayed"] = field(default="auto", metadata=_LATER)
    learning_starts: int | None = field(default=None, metadata=_LATER)
    warmup_on_switch: bool = field(default=False, metadata=_LATER)
    optimizer_on_switch: Choice = field(default="keep", metadata=_LATER)
    critic_on_switch: Choice = field(default="keep", metadata=_LATER)
    normalize_observation: bool = field(default=False, metadata=_LATER)

    def __post_init__(self) -> None:
        if not 0.0 <= self.discount <= 1.0:
            raise ValueError(f"agent.discount is {self.discount}; give a value in [0, 1]")
        if not 0.0 < self.tau <= 1.0:
            raise ValueError(f"agent.tau is {self.tau}; give a value above 0 and at most 1")
        check_replay(self)
        if self.keep_last_n < 1:
            raise ValueError(f"agent.keep_last_n is {self.keep_last_n}; give at least 1")
        for name in ("updates_per_env_step", "initial_temperature", "temperature_epsilon"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"agent.{name} is {getattr(self, name)}; give a value above 0")
        starts = self.learning_starts
        if starts is not None and not 0 <= starts <= self.warmup_steps:
            raise ValueError(
                f"agent.learning_starts is {starts}; give null, or 0 to "
                f"agent.warmup_steps={self.warmup_steps}"
            )
        if self.warmup_on_switch and self.warmup_steps == 0:
            raise ValueError(
                "agent.warmup_on_switch=true repeats a warm-up of agent.warmup_steps=0; give a "
                "value above 0, or warmup_on_switch=false"
            )
        for name in ("warmup_steps", "temperature_learning_rate"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"agent.{name} is {getattr(self, name)}; give 0 or more")
        if not self.log_std_min < self.log_std_max:
            raise ValueError(
                f"agent.log_std_min is {self.log_std_min}; give a value below "
                f"agent.log_std_max={self.log_std_max}"
            )
        for name in ("max_grad_norm", "actor_head_bound", "critic_head_bound"):
            value = getattr(self, name)
            if value is not None and not value > 0.0:
                raise ValueError(f"agent.{name} is {value}; give a value above 0, or null")
        if self.critic_clipping == "joint" and self.max_grad_norm is None:
            raise ValueError(
                "agent.critic_clipping=joint clips to agent.max_grad_norm, which is null; give it "
                "a value above 0"
            )

    @property
    def learns_after(self) -> int:
        """Environment steps before the first gradient step, and again after a new warm-up."""
        return self.warmup_steps if self.learning_starts is None else self.learning_starts


def check_replay(config: Any) -> None:
    """Check what is stored and drawn, in the settings of any SAC.

    Raises:
        ValueError: A size is out of range, or the replay never holds a minibatch.
    """
    for name in ("batch_size", "replay_size", "steps_per_iteration"):
        if getattr(config, name) < 1:
            raise ValueError(f"agent.{name} is {getattr(config, name)}; give at least 1")
    if config.replay_size < config.batch_size:
        raise ValueError(
            f"agent.replay_size is {config.replay_size}; give at least "
            f"agent.batch_size={config.batch_size}"
        )


def check_run_length(config: Any, parts: Parts) -> None:
    """Refuse a run that ends before its first gradient step, in the settings of any SAC.

    Raises:
        ValueError: It ends within the warm-up.
    """
    starts, name = getattr(config, "learning_starts", None), "learning_starts"
    if starts is None:
        starts, name = config.warmup_steps, "warmup_steps"
    if 0 < parts.total_steps <= starts:
        raise ValueError(
            f"agent.{name}={starts:,} leaves nothing of total_steps={parts.total_steps:,} to "
            "learn from; lower it, or train longer"
        )


def resolved(config: Config, parts: Parts) -> Config:
    """Replace `task_balanced_batches=auto` by what it means in this run, and round the sizes.

    Raises:
        ValueError: The replay would be too small for one minibatch of whole vector steps.
    """
    if config.task_balanced_batches != "auto":
        return config
    if parts.num_tasks <= 1:
        return replace(config, task_balanced_batches="off")
    width = parts.num_envs
    batch_size = math.ceil(config.batch_size / width) * width
    replay_size = config.replay_size // width * width
    if replay_size < batch_size:
        raise ValueError(
            f"agent.replay_size={config.replay_size} is too small for a minibatch of "
            f"{batch_size} transitions, whole vector steps of {width} environments; give at least "
            f"{batch_size}"
        )
    return replace(
        config, task_balanced_batches="shared", batch_size=batch_size, replay_size=replay_size
    )


def roundings(asked: Config, used: Config) -> list[str]:
    """What `resolved` has rounded, one line each."""
    return [
        f"agent.{name}={getattr(asked, name):,} is rounded to {getattr(used, name):,}, whole "
        "vector steps of all environments (agent.task_balanced_batches=auto)"
        for name in ("batch_size", "replay_size")
        if getattr(asked, name) != getattr(used, name)
    ]


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
    if config.buffer_on_switch == "keep_last_n" and config.keep_last_n < parts.num_envs:
        raise ValueError(
            f"agent.keep_last_n={config.keep_last_n} is less than one step of {parts.num_envs} "
            "environments, so that nothing would be kept; give at least that many, or "
            "agent.buffer_on_switch=clear"
        )
    if config.temperature_per_task and not (parts.context.discrete and parts.context.dim):
        raise ValueError(
            "agent.temperature_per_task=true needs a one-hot context that names the task; this "
            "environment announces none"
        )
    if config.task_balanced_batches != "off":
        if config.buffer_on_switch == "reservoir":
            raise ValueError(
                "agent.buffer_on_switch=reservoir keeps single transitions, not the vector steps "
                f"that agent.task_balanced_batches={config.task_balanced_batches} draws; set it "
                "to off"
            )
        for name in ("batch_size", "replay_size"):
            if getattr(config, name) % parts.num_envs:
                raise ValueError(
                    f"agent.{name}={getattr(config, name)} is no multiple of the {parts.num_envs} "
                    f"environments, which "
                    f"agent.task_balanced_batches={config.task_balanced_batches} needs"
                )
    check_run_length(config, parts)
