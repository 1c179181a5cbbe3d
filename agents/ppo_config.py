"""Settings of PPO, and whether they fit the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from agents.at_switch import Choice
from agents.parts import Parts

Normalization = Literal["rollout", "minibatch", "per_task", "off"]
Baseline = Literal["network", "linear"]
Precision = Literal["float32", "bfloat16"]


# Of settings that came after the first runs: at their default they are not recorded.
_LATER = {"later": True}


@dataclass(frozen=True)
class Config:
    """Settings of PPO.

    Attributes:
        kind: Name of the agent's file.
        rollout_length: Vector steps between updates; times the number of environments gives the
            transitions of a rollout.
        num_epochs: Passes over a rollout.
        minibatch_size: Transitions per gradient step; must divide a rollout.
        discount: In [0, 1].
        gae_lambda: In [0, 1].
        clip_range: Ratio is clipped to [1 - clip_range, 1 + clip_range].
        value_coefficient: Factor of the value loss; the linear baseline has none and refuses it.
        entropy_coefficient: Factor of the entropy bonus.
        normalize_advantage: Over what advantages are standardised: `rollout` (all transitions,
            once), `minibatch` (each by itself), `per_task` (the transitions of each task, once;
            needs a one-hot context), or `off`. `rollout` and `off` are kept as true and false,
            their older names, so that older runs can go on.
        normalize_observation: Standardise observations by running moments.
        timeouts_terminal: Treat truncation as termination, as published (biases values). The
            linear baseline always does: it knows the time.
        max_grad_norm: Clip each network's gradient norm, None for no clipping.
        fast_path: Use the hand-written backward pass where the networks allow it; results then
            differ from autograd's by floating-point reordering only.
        baseline: What is subtracted from returns: `network` learns a value function, `linear` fits
            one linear function of observation and time per task to every rollout, which must
            consist of whole episodes of equal length. There is no value network then, and what is
            set of one is refused.
        state_dependent_std: The standard deviation is an output of the policy network instead of a
            free parameter.
        log_std_min: Lower clip of a state-dependent log standard deviation; a free parameter is
            never clipped.
        log_std_max: Upper clip of it.
        policy_head_bound: Draw the weights of the policy's heads from U(-bound, bound), biases 0;
            None takes that of the network (`network.head_initializer`, or its `init`).
        value_head_bound: The same for the value network's head.
        optimizer_on_switch: `reset` makes all optimizers forget at announced switches.
        critic_on_switch: `reset` draws the value network anew at announced switches.
        matmul_precision: Of the products between hidden layers while learning, on the fast path:
            `float32`, or `bfloat16`, which processors with AVX512_BF16 or AMX multiply faster and
            which changes results (gradients of single units by a few percent). Acting and the
            values that advantages are made of stay float32. So actions are scored in float32 and
            learnt from in bfloat16: ratios are not 1 before the first step, and the sharper the
            policy, the further off. Their standard deviation is the error of the mean vector over
            the action std: .004 at 1 and .08 at .05 (new network of two layers of 256, eight
            actions), where `clip_range` begins to cut steps for no reason.
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
    normalize_advantage: bool | Normalization = True
    normalize_observation: bool = False
    timeouts_terminal: bool = False
    max_grad_norm: float | None = None
    fast_path: bool = True
    baseline: Baseline = field(default="network", metadata=_LATER)
    state_dependent_std: bool = field(default=False, metadata=_LATER)
    log_std_min: float = field(default=-20.0, metadata=_LATER)
    log_std_max: float = field(default=2.0, metadata=_LATER)
    policy_head_bound: float | None = field(default=None, metadata=_LATER)
    value_head_bound: float | None = field(default=None, metadata=_LATER)
    matmul_precision: Precision = field(default="float32", metadata=_LATER)
    optimizer_on_switch: Choice = field(default="keep", metadata=_LATER)
    critic_on_switch: Choice = field(default="keep", metadata=_LATER)

    def __post_init__(self) -> None:
        check_rollouts(self)
        if self.clip_range <= 0.0:
            raise ValueError(f"agent.clip_range is {self.clip_range}; give a value above 0")
        for name in ("value_coefficient", "entropy_coefficient"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"agent.{name} is {getattr(self, name)}; give 0 or more")
        for name in ("max_grad_norm", "policy_head_bound", "value_head_bound"):
            value = getattr(self, name)
            if value is not None and value <= 0.0:
                raise ValueError(f"agent.{name} is {value}; give a value above 0, or null")
        if self.log_std_min >= self.log_std_max:
            raise ValueError(
                f"agent.log_std_min={self.log_std_min} must lie below "
                f"agent.log_std_max={self.log_std_max}"
            )
        older = {"rollout": True, "off": False}.get(str(self.normalize_advantage))
        if older is not None:
            object.__setattr__(self, "normalize_advantage", older)
        _check_choice("normalize_advantage", self.advantage_scope, get_args(Normalization))
        _check_choice("baseline", self.baseline, get_args(Baseline))
        _check_choice("matmul_precision", self.matmul_precision, get_args(Precision))

    @property
    def advantage_scope(self) -> Normalization:
        """What `normalize_advantage` says, by its newer names."""
        if isinstance(self.normalize_advantage, bool):
            return "rollout" if self.normalize_advantage else "off"
        return self.normalize_advantage


def check_rollouts(config: Any) -> None:
    """Check how rollouts are collected and learnt from, in the settings of any PPO.

    Raises:
        ValueError: A value is out of range.
    """
    for name in ("rollout_length", "num_epochs"):
        if getattr(config, name) < 1:
            raise ValueError(f"agent.{name} is {getattr(config, name)}; give at least 1")
    if config.minibatch_size < 2:
        raise ValueError(f"agent.minibatch_size is {config.minibatch_size}; give at least 2")
    for name in ("discount", "gae_lambda"):
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise ValueError(f"agent.{name} is {getattr(config, name)}; give a value in [0, 1]")


def check_minibatches(config: Any, parts: Parts) -> None:
    """Refuse a minibatch size that does not divide a rollout, in the settings of any PPO.

    Raises:
        ValueError: It does not.
    """
    num_transitions = config.rollout_length * parts.num_envs
    if num_transitions % config.minibatch_size:
        raise ValueError(
            f"agent.minibatch_size={config.minibatch_size} does not divide a rollout of "
            f"{config.rollout_length} x {parts.num_envs} = {num_transitions} transitions"
        )


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"agent.{name} is {value!r}; choose one of {', '.join(allowed)}")


def _check_critic(config: Config, parts: Parts) -> None:
    if config.baseline != "linear":
        return
    chosen = {
        "agent.critic_on_switch=reset": config.critic_on_switch == "reset",
        f"agent.value_head_bound={config.value_head_bound}": config.value_head_bound is not None,
        f"agent.value_coefficient={config.value_coefficient}": config.value_coefficient
        != Config.value_coefficient,
        "value_network": parts.value_network is not None,
    }
    idle = [name for name, is_set in chosen.items() if is_set]
    if idle:
        raise ValueError(
            f"{' and '.join(idle)} would do nothing, because agent.baseline=linear has no value "
            "network; leave it out, or use agent.baseline=network"
        )


def check_together(config: Config, parts: Parts) -> None:
    """Check the settings against the environment.

    Raises:
        ValueError: A rollout cannot be cut into minibatches or into episodes, tasks are to be
            told apart that the environment does not announce, or there is no value network for
            what is set of it.
    """
    check_minibatches(config, parts)
    _check_critic(config, parts)
    if config.advantage_scope == "per_task" and not (parts.context.discrete and parts.context.dim):
        raise ValueError(
            "agent.normalize_advantage=per_task needs a one-hot context that names the task; this "
            "environment announces none, so use rollout, minibatch or off"
        )
    horizon = parts.max_episode_steps
    if config.baseline == "linear" and horizon and config.rollout_length % horizon:
        raise ValueError(
            f"agent.baseline=linear needs rollouts of whole episodes: make agent.rollout_length="
            f"{config.rollout_length} a multiple of the {horizon} steps of an episode, or use "
            "agent.baseline=network"
        )
