"""Batched walking robots whose physics changes while nobody tells the agent.

Source: Dohare et al., Nature 632:768-774 (2024), "slippery Ant"; Gymnasium 1.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from envs.base import EnvInfo
from envs.probe import Probe, probe_set
from envs.robots import ROBOT_NAMES
from envs.schedules import ScheduleConfig, at_least, one_of
from envs.vector import LocomotionVectorEnv

__all__ = ["Config", "LocomotionVectorEnv", "make"]


@dataclass(frozen=True)
class Config(ScheduleConfig):
    """A batch of walking robots and what changes (see ``ScheduleConfig``).

    Attributes:
        kind: Name of this file.
        robot: ant, hopper, walker2d, half_cheetah or humanoid.
        semantics: published (Gymnasium's v4: no contact forces, the healthy reward on every step)
            or v5.
        num_envs: Environments stepped together.
        max_episode_steps: Time limit of an episode.
        obs_pad_to_111: Append 84 zeros to the published Ant's 27 numbers.
        clip_action_in_env: Clip actions to the bounds of the controls before stepping and before
            their cost; off, the simulator clamps the controls but the cost sees the raw action.
        on_simulator_reset: fail (raise SimulatorError) or count (end the episode with reward 0 and
            ``unstable``) when a simulation blows up.
    """

    kind: str = "locomotion"
    robot: str = "ant"
    semantics: str = "published"
    num_envs: int = 16
    max_episode_steps: int = 1000
    obs_pad_to_111: bool = False
    clip_action_in_env: bool = False
    on_simulator_reset: str = "fail"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("robot", self.robot, ROBOT_NAMES)
        one_of("semantics", self.semantics, ("published", "v5"))
        one_of("on_simulator_reset", self.on_simulator_reset, ("fail", "count"))
        at_least("num_envs", self.num_envs, 1)
        at_least("max_episode_steps", self.max_episode_steps, 1)
        if self.obs_pad_to_111 and (self.robot, self.semantics) != ("ant", "published"):
            raise ValueError(
                f"obs_pad_to_111 belongs to robot=ant semantics=published, but robot={self.robot} "
                f"semantics={self.semantics} was given; switch it off."
            )


def make(
    config: Config, total_steps: int, num_threads: int = 1
) -> tuple[LocomotionVectorEnv, EnvInfo]:
    """Build the environments.

    Args:
        config: What to build.
        total_steps: Length of the run in environment steps; no world begins at or after it.
        num_threads: Threads that step the physics; results do not depend on it.

    Returns:
        The environments and their description.

    Raises:
        ValueError: If the settings do not fit together or the robot's model file is not known.
    """
    env = LocomotionVectorEnv(config, total_steps, num_threads)
    return env, env.info


def probe(config: Config) -> Probe:
    """The fixed sample set of these environments (see ``envs.probe``)."""
    return probe_set(config)


def make_vector(
    num_envs: int = 1, *, total_steps: int | None = None, num_threads: int = 1, **settings: Any
) -> LocomotionVectorEnv:
    """Entry point for ``gymnasium.make_vec``; keywords are the fields of ``Config``.

    Without ``total_steps`` the world changes for ever, as with ``gymnasium.make``.
    """
    return LocomotionVectorEnv(Config(num_envs=num_envs, **settings), total_steps, num_threads)
