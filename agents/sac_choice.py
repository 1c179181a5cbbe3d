"""How soft actor-critic makes its gradient steps, out of its settings, device and networks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch

from agents.sac_capture import CapturedSACSteps, CudaGraph, obstacle
from agents.sac_config import Config
from agents.sac_fused import FusedSACSteps
from agents.sac_steps import SACSteps, Settings
from agents.update import Update


def kind_of_steps(
    config: Config, device: torch.device, updates: Mapping[str, Update]
) -> Callable[..., SACSteps]:
    """The fastest way to make gradient steps that device, networks and methods allow.

    Args:
        config: Of the agent.
        device: Where networks live.
        updates: Of actor and critics, by name.

    Raises:
        ValueError: Capture was asked for by name and is not possible.
    """
    on_cpu = device.type == "cpu"
    reason = "agent.device is cpu" if on_cpu else obstacle(updates)
    if config.capture == "on" and reason is not None:
        raise ValueError(f"agent.capture=on is not possible: {reason}; set agent.capture=auto")
    if on_cpu and config.fast_path and FusedSACSteps.supports(updates):
        return functools.partial(FusedSACSteps, config.batch_size)
    if config.capture != "off" and reason is None:
        return functools.partial(CapturedSACSteps, CudaGraph)
    return SACSteps


def step_settings(config: Config, action_dim: int) -> Settings:
    """Numbers of a gradient step; `target_entropy=auto` is minus the size of an action."""
    entropy = config.target_entropy
    return Settings(
        config.discount,
        config.tau,
        -float(action_dim) if entropy == "auto" else float(entropy),
        config.timeouts_terminal,
        config.max_grad_norm if config.critic_clipping == "joint" else None,
    )
