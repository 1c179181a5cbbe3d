"""What agents are told about a batch of walking robots."""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

from typing import TYPE_CHECKING

import mujoco
import numpy as np

from envs.base import EnvInfo

if TYPE_CHECKING:
    from envs.locomotion import Config


def describe(
    config: Config, model: mujoco.MjModel, observation_dim: int, step_seconds: float
) -> EnvInfo:
    """Sizes, limits and names.

    Args:
        config: Settings of the environments.
        model: Of one robot.
        observation_dim: Size of an observation.
        step_seconds: Simulated time of one environment step.
    """
    low, high = model.actuator_ctrlrange.astype(np.float32).T
    return EnvInfo(
        name=f"{config.robot}-{config.semantics}",
        num_envs=config.num_envs,
        observation_dim=observation_dim,
        action_dim=int(model.nu),
        action_low=low.copy(),
        action_high=high.copy(),
        context_dim=0,
        max_episode_steps=config.max_episode_steps,
        regime_label=config.modifiers[0],
        step_seconds=step_seconds,
    )
