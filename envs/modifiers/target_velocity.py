"""Target velocity: the robot is to walk at this speed instead of as fast as it can."""

from __future__ import annotations

import numpy as np

from envs.laws import Law
from envs.modifiers.base import Modifier, Subject

LAW = Law(low=0.0, high=3.0, nominal=1.5, scale="linear", unit="m/s")


class TargetVelocity(Modifier):
    """Replaces the forward reward w v by -w |v - target|; all other terms stay.

    Source: Finn et al., "Model-agnostic meta-learning", ICML 2017, section 5.3 (goal velocity).
    """

    changes_reward = True

    def __init__(self, subject: Subject) -> None:
        if subject.forward_weight is None:
            raise ValueError(
                "modifier=target_velocity replaces the reward for forward velocity, but this "
                "environment has none; choose a walking robot or another modifier."
            )
        self._weight = subject.forward_weight
        self._targets = np.zeros(len(subject.data))

    def write(self, values: np.ndarray) -> None:
        self._targets[:] = values

    def earned(self, reward: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        return reward - self._weight * (velocity + np.abs(velocity - self._targets))


def build(subject: Subject) -> TargetVelocity:
    """Build the modifier.

    Raises:
        ValueError: The reward does not contain the forward velocity.
    """
    return TargetVelocity(subject)
