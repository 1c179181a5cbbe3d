"""Accounts of training episodes: what ended, and the averages since the last log row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.multitask.records import task_labels

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

    Args:
        task_names: Tasks stepped side by side, by regime index; returns and successes are averaged
            over each of them too.
        tells_success: Whether ended episodes say in ``info["episode_success"]`` if they succeeded.
    """

    def __init__(self, task_names: Sequence[str] = (), tells_success: bool = False) -> None:
        self._labels, self._tells_success = task_labels(task_names), tells_success
        self.num_episodes = 0
        self.reset()

    @property
    def columns(self) -> list[str]:
        """Names of all averages, for progress.csv."""
        names = ["episodes", "episode_return", "episode_length", "reward_per_step"]
        means = ["episode_return"]
        if self._tells_success:
            names.append("episode_success")
            means.append("episode_success")
        return names + [f"{name}/{label}" for name in means for label in self._labels]

    @property
    def episode_columns(self) -> tuple[str, ...]:
        """Columns of episodes.csv."""
        return (*EPISODE_COLUMNS, "success") if self._tells_success else EPISODE_COLUMNS

    def reset(self) -> None:
        """Start the next row."""
        self.reward_sum = 0.0
        self.num_steps = 0
        self.returns: list[float] = []
        self.lengths: list[float] = []
        self.successes: list[float] = []
        self.regimes: list[int] = []

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
            if self._tells_success:
                row["success"] = bool(info["episode_success"][index])
            rows.append(row)
            self.num_episodes += 1
            if not row["switch_truncated"]:
                self.returns.append(row["episode_return"])
                self.lengths.append(row["episode_length"])
                self.regimes.append(row["regime"])
                if self._tells_success:
                    self.successes.append(float(row["success"]))
        return rows

    def averages(self) -> dict[str, float]:
        """Values of the current row; keys without data are left out."""
        row: dict[str, float] = {"episodes": self.num_episodes}
        if self.num_steps:
            row["reward_per_step"] = self.reward_sum / self.num_steps
        if self.returns:
            row["episode_return"] = float(np.mean(self.returns))
            row["episode_length"] = float(np.mean(self.lengths))
            row |= self._means("episode_return", self.returns)
        if self.successes:
            row["episode_success"] = float(np.mean(self.successes))
            row |= self._means("episode_success", self.successes)
        return row

    def _means(self, name: str, values: Sequence[float]) -> dict[str, float]:
        """Means over the episodes of each task that had any."""
        found, regimes = np.array(values), np.array(self.regimes)
        return {
            f"{name}/{label}": float(found[regimes == index].mean())
            for index, label in enumerate(self._labels)
            if (regimes == index).any()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the unfinished row."""
        return {
            "num_episodes": self.num_episodes,
            "reward_sum": self.reward_sum,
            "num_steps": self.num_steps,
            "returns": np.array(self.returns, dtype=np.float64),
            "lengths": np.array(self.lengths, dtype=np.float64),
            "successes": np.array(self.successes, dtype=np.float64),
            "regimes": np.array(self.regimes, dtype=np.int64),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums."""
        self.num_episodes = int(state["num_episodes"])
        self.reward_sum = float(state["reward_sum"])
        self.num_steps = int(state["num_steps"])
        self.returns = [float(value) for value in state["returns"]]
        self.lengths = [float(value) for value in state["lengths"]]
        # Checkpoints of earlier versions do not know: those episodes count for no task.
        unknown = len(self.returns)
        nothing = [float("nan")] * (unknown if self._tells_success else 0)
        self.successes = [float(value) for value in state.get("successes", nothing)]
        self.regimes = [int(value) for value in state.get("regimes", [-1] * unknown)]
