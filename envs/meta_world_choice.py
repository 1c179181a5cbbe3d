"""Which goal comes next: every copy of every task has a random stream of its own."""

from __future__ import annotations

import numpy as np

from envs.snapshots import Snapshot, load_arrays, load_generators, require, save_generators

TRAINING, EVALUATION, WARM_UP = 0, 1, 2
"""Domains of random streams: choice of goals in training, in evaluation, and random actions."""


def row_stream(run_seed: int, domain: int, task_index: int, copy_index: int) -> np.random.Generator:
    """The stream of one copy of one task; independent of all others and of who builds it."""
    sequence = np.random.SeedSequence(run_seed, spawn_key=(domain, task_index, copy_index))
    return np.random.default_rng(sequence)


class GoalChoice:
    """Chooses the goal of every episode of one row.

    Args:
        num_goals: Goals to choose from.
        order: uniform or cycle.
        generator: The row's own stream.
    """

    def __init__(self, num_goals: int, order: str, generator: np.random.Generator) -> None:
        self._num_goals, self._cycle = num_goals, order == "cycle"
        self.generator = generator
        self._pass = np.zeros(num_goals, dtype=np.int64)
        self._position = num_goals

    def next(self) -> int:
        """Index of the next goal."""
        if not self._cycle:
            return int(self.generator.integers(0, self._num_goals))
        if self._position >= self._num_goals:
            self._pass, self._position = self.generator.permutation(self._num_goals), 0
        self._position += 1
        return int(self._pass[self._position - 1])

    def save(self, snapshot: Snapshot) -> None:
        """Add everything that the next choices depend on."""
        save_generators([self.generator], snapshot)
        snapshot["goal_pass"], snapshot["goal_position"] = self._pass.copy(), self._position

    def load(self, snapshot: Snapshot) -> None:
        """Take over what ``save`` added."""
        (generator,) = load_generators(snapshot, 1)
        arrays = load_arrays(snapshot, like={"goal_pass": self._pass})
        self._position = int(require(snapshot, "goal_position"))
        self.generator, self._pass = generator, arrays["goal_pass"]
