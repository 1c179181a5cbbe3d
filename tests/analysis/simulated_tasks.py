"""Tasks that succeed when a table says so, and evaluations made from them."""

import numpy as np

from analysis.multitask.evaluation import Outcomes
from analysis.multitask.records import Evaluation, kind_of


class SimulatedTasks:
    """Rows like those of Meta-World: started from a goal, still after the horizon or when stopped.

    Args:
        success_step: (tasks, goals) step of the only success, 0 for never.
        copies: Rows per task.
        horizon: Steps of an episode.
    """

    def __init__(self, success_step, copies=1, horizon=10):
        self.success_step, self.horizon = np.array(success_step), horizon
        num_tasks = len(self.success_step)
        self.num_envs = num_tasks * copies
        self.task = np.repeat(np.arange(num_tasks), copies)
        self.goal = np.zeros(self.num_envs, dtype=int)
        self.elapsed = np.zeros(self.num_envs, dtype=int)
        self.running = np.zeros(self.num_envs, dtype=bool)
        self.total = np.zeros(self.num_envs)
        self.started, self.num_steps = [], 0

    @property
    def context(self):
        """The task, and the step that it is asked at: contexts may change within an episode."""
        return np.stack([self.task, self.elapsed], axis=1).astype(np.float32)

    def rows_of(self, task_index):
        return np.flatnonzero(self.task == task_index)

    def start_episodes(self, rows, goal_index):
        rows, goals = list(rows), list(goal_index)
        for row, goal in zip(rows, goals, strict=True):
            assert not self.running[row], "the episode before has not ended"
            self.started.append((int(self.task[row]), int(goal)))
            self.goal[row], self.elapsed[row], self.total[row] = goal, 0, 0.0
            self.running[row] = True
        return self._observation()

    def stop_episodes(self, rows):
        self.running[list(rows)] = False

    def _observation(self):
        return np.stack([self.goal, self.elapsed], axis=1).astype(np.float32)

    def step(self, actions):
        assert actions.shape == (self.num_envs, 1)
        self.num_steps += int(self.running.sum())
        self.elapsed += self.running
        self.total += self.running * actions[:, 0]
        due = self.success_step[self.task, self.goal]
        success = self.running & (due == self.elapsed)
        truncated = self.running & (self.elapsed >= self.horizon)
        self.running &= ~truncated
        info = {
            "success": success,
            "final_success": success & truncated,
            "episode_return": self.total.copy(),
            "unstable": np.zeros(self.num_envs, dtype=bool),
        }
        return self._observation(), None, None, truncated, info


def outcomes_of(success, first_step=3, cut=False):
    """Outcomes (tasks, goals) with a given table of successes; the return is 10 per success."""
    success = np.array(success, dtype=bool)
    zeros = np.zeros(success.shape, dtype=bool)
    return Outcomes(
        goals=tuple(range(success.shape[1])),
        success=success,
        final_success=zeros,
        first_success_step=np.where(success, first_step, 0),
        episode_return=10.0 * success,
        episode_length=np.full(success.shape, 500),
        unstable=zeros,
        cut_at_success=cut,
    )


def rates_to_success(rates, num_goals=5):
    """A table of successes with exactly these rates."""
    return [[goal < round(rate * num_goals) for goal in range(num_goals)] for rate in rates]


def evaluation_of(table, /, seed=0, env_steps=1000, cut=False, **manifest):
    """An evaluation of tasks a, b, c ... of the run `seed_<seed>`."""
    outcomes = outcomes_of(table, cut=cut)
    tasks = tuple("abcdefghij"[: len(table)])
    entries = {
        "benchmark": "toy",
        "tasks": list(tasks),
        "reward_version": "v2",
        "horizon": 500,
        "success": "any step of the episode",
        "goal_generator": "MT1",
        "num_goals": len(outcomes.goals),
        "goal_policy": "run seed",
        "backend": "stock",
        "goal_seed": seed,
        "goal_sha256": f"{seed:064d}",
    } | manifest
    kind = kind_of(outcomes, entries["num_goals"])
    about = {"run": f"toy/seed_{seed}", "seed": seed, "env_steps": env_steps}
    return Evaluation(tasks, outcomes, kind, entries, about)
