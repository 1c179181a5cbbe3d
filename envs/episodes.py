"""Bookkeeping of the running episodes of a batch."""

from __future__ import annotations

import numpy as np


class Episodes:
    """Length, return and first world of every running episode.

    Args:
        num_envs: N.
        max_episode_steps: Steps after which an episode is truncated.
    """

    def __init__(self, num_envs: int, max_episode_steps: int) -> None:
        self._limit = max_episode_steps
        self.elapsed = np.zeros(num_envs, dtype=np.int64)
        self._returns = np.zeros(num_envs)
        self._start_regime = np.zeros(num_envs, dtype=np.int64)

    def start(self, indices: np.ndarray, regime: np.ndarray) -> None:
        """Begin new episodes in the environments ``indices``, in their present worlds."""
        self.elapsed[indices] = 0
        self._returns[indices] = 0.0
        self._start_regime[indices] = regime[indices]

    def advance(self, reward: np.ndarray) -> np.ndarray:
        """Count one step.

        Returns:
            Which episodes have reached the time limit, shape (N,), bool, a fresh array.
        """
        self.elapsed += 1
        self._returns += reward
        return self.elapsed >= self._limit

    def info(self) -> dict[str, np.ndarray]:
        """Fresh copies for a step's ``info``, shape (N,) each."""
        return {
            "episode_return": self._returns.copy(),
            "episode_length": self.elapsed.copy(),
            "episode_start_regime": self._start_regime.copy(),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Fresh copies for a snapshot, shape (N,) each."""
        return {
            "elapsed_steps": self.elapsed.copy(),
            "episode_return": self._returns.copy(),
            "episode_start_regime": self._start_regime.copy(),
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what ``arrays`` returned."""
        self.elapsed[:] = arrays["elapsed_steps"]
        self._returns[:] = arrays["episode_return"]
        self._start_regime[:] = arrays["episode_start_regime"]
