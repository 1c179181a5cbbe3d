"""Observation offset: sensors that read too much or too little."""

from __future__ import annotations

import numpy as np

from envs.laws import Law
from envs.modifiers.base import Modifier, Subject

LAW = Law(low=-1.0, high=1.0, nominal=0.0, scale="linear", unit="root mean square, signed")
DIRECTION_SEED = 0


def direction(observation_dim: int) -> np.ndarray:
    """Fixed direction of the offset, root mean square 1, shape (obs,).

    It is the same in all runs, so that the value alone says which world it is.
    """
    generator = np.random.Generator(np.random.PCG64(DIRECTION_SEED))
    drawn = generator.standard_normal(observation_dim)
    return drawn / np.sqrt(np.mean(np.square(drawn)))


class ObservationOffset(Modifier):
    """Adds value * direction to what the agent sees."""

    changes_observation = True

    def __init__(self, subject: Subject) -> None:
        self._direction = direction(subject.observation_dim)
        self._offsets = np.zeros((len(subject.data), subject.observation_dim))

    def write(self, values: np.ndarray) -> None:
        self._offsets[:] = values[:, None] * self._direction

    def seen(self, observation: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
        return observation + self._offsets[rows]


def build(subject: Subject) -> ObservationOffset:
    """Build the modifier."""
    return ObservationOffset(subject)
