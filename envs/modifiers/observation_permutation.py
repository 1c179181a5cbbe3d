"""Observation permutation: the same numbers in another order, as in permuted MNIST."""

from __future__ import annotations

import numpy as np

from envs.laws import Law
from envs.modifiers.base import Modifier, Subject

LAW = Law(low=1.0, high=9999.0, nominal=0.0, scale="whole", unit="number of the order, 0 = usual")


def order(number: int, observation_dim: int) -> np.ndarray:
    """Where element 0, 1, ... of what the agent sees comes from, shape (obs,).

    Number 0 is the usual order. A number is the same order in all runs, so that the value alone
    says which world it is.
    """
    if number == 0:
        return np.arange(observation_dim)
    return np.random.Generator(np.random.PCG64(number)).permutation(observation_dim)


class ObservationPermutation(Modifier):
    """Shows the agent the observation in another order."""

    changes_observation = True

    def __init__(self, subject: Subject) -> None:
        self._orders = np.tile(np.arange(subject.observation_dim), (len(subject.data), 1))

    def check(self, value: float) -> None:
        """Refuse numbers that are not whole or below 0."""
        LAW.check(value, "observation_permutation")

    def write(self, values: np.ndarray) -> None:
        dim = self._orders.shape[1]
        orders = {value: order(int(value), dim) for value in set(values.tolist())}
        for row, value in enumerate(values.tolist()):
            self._orders[row] = orders[value]

    def seen(self, observation: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
        return np.take_along_axis(observation, self._orders[rows], axis=1)


def build(subject: Subject) -> ObservationPermutation:
    """Build the modifier."""
    return ObservationPermutation(subject)
