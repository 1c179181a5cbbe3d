"""Accounts of training episodes: what ended, and the averages since the last log row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

EPISODE_COLUMNS = (
    "env_steps",
    "env_index",
    "episode_return",
    "episode_length",
    "regime",
    "regime_value",
    "terminated",
    "switch_truncated",
)


class EpisodeAccount:
    """Sums over steps and episodes since the last row of progress.csv.

    An episode cut by a switch enters step-weighted averages with its own length, but not the mean
    return of a row. An empty row has no mean: the cell stays empty, it is never 0.
    """

    def __init__(self) -> None:
        self.num_episodes = 0
        self.reset()

    def reset(self) -> None:
        """Start the next row."""
        self.reward_sum = 0.0
        self.num_steps = 0
        self.returns: list[float] = []
        self.lengths: list[float] = []

    def step(
        self,
        env_steps: int,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        info: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """Take in one vector step.

        Args:
            env_steps: Transitions so far, this vector step included.
            reward: (N,) raw rewards.
            terminated: (N,) bool.
            truncated: (N,) bool.
            info: Dense arrays of the environment.

        Returns:
            One row of episodes.csv per ended episode.
        """
        self.reward_sum += float(reward.sum())
        self.num_steps += len(reward)
        rows = []
        for index in np.flatnonzero(terminated | truncated):
            row = {
                "env_steps": env_steps,
                "env_index": int(index),
                "episode_return": float(info["episode_return"][index]),
                "episode_length": int(info["episode_length"][index]),
                "regime": int(info["episode_start_regime"][index]),
                "regime_value": float(info["regime_value"][index]),
                "terminated": bool(terminated[index]),
                "switch_truncated": bool(info["switch_truncated"][index]),
            }
            rows.append(row)
            self.num_episodes += 1
            if not row["switch_truncated"]:
                self.returns.append(row["episode_return"])
                self.lengths.append(row["episode_length"])
        return rows

    def averages(self) -> dict[str, float]:
        """Values of the current row; keys without data are left out."""
        row: dict[str, float] = {"episodes": self.num_episodes}
        if self.num_steps:
            row["reward_per_step"] = self.reward_sum / self.num_steps
        if self.returns:
            row["episode_return"] = float(np.mean(self.returns))
            row["episode_length"] = float(np.mean(self.lengths))
        return row

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the unfinished row."""
        return {
            "num_episodes": self.num_episodes,
            "reward_sum": self.reward_sum,
            "num_steps": self.num_steps,
            "returns": np.array(self.returns, dtype=np.float64),
            "lengths": np.array(self.lengths, dtype=np.float64),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums."""
        self.num_episodes = int(state["num_episodes"])
        self.reward_sum = float(state["reward_sum"])
        self.num_steps = int(state["num_steps"])
        self.returns = [float(value) for value in state["returns"]]
        self.lengths = [float(value) for value in state["lengths"]]
