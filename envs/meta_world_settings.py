"""What a batch of Meta-World tasks consists of, checked, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.meta_world_choice import TRAINING
from envs.meta_world_goals import NUM_GOALS, Goals
from envs.meta_world_rows import RowSpec
from envs.meta_world_tasks import MAX_HORIZON, VERSIONS, checked_tasks
from envs.schedules import at_least, one_of


@dataclass(frozen=True)
class Settings:
    """A checked description of N = active tasks x copies rows, in task-major order.

    Attributes:
        tasks: Task names; their order is the order of the context. A name may occur twice.
        copies: Rows per task.
        run_seed: Seed of the rows' streams, which choose goals.
        num_goals: Goals per task in use, the first ones of 50.
        reward_version: v1 or v2.
        horizon: Steps of an episode, at most 500.
        backend: stock (Meta-World's own classes) or envpool (``meta_world_envpool``).
        training_backend: Of the run that is measured here; None means ``backend``. The manifest
            names it, so that runs of different back-ends are never compared.
        fast_path: Use the equal but faster subclasses.
        autoreset: Start the next episode in the step that ends one.
        goal_order: uniform (with replacement) or cycle (a fresh permutation per pass).
        reset_cache: Reuse the exact state after the first reset to each goal; changes no bit.
        hide_task_id: Announce no context.
        active: Indices of the tasks that have rows, in order; None means all. Context, streams and
            regime keep their meaning within the whole list.
        domain: First part of the streams' keys (``meta_world_choice``).
        on_simulator_reset: fail (raise SimulatorError) or count (truncate the episode with reward
            0 and ``unstable``) when a simulation blows up; see ``meta_world_rows.Row.step``.
        name: How the tasks are called together.
    """

    tasks: tuple[str, ...]
    copies: int = 1
    run_seed: int = 0
    num_goals: int = NUM_GOALS
    reward_version: str = "v2"
    horizon: int = MAX_HORIZON
    backend: str = "stock"
    training_backend: str | None = None
    fast_path: bool = True
    autoreset: bool = True
    goal_order: str = "uniform"
    reset_cache: bool = True
    hide_task_id: bool = False
    active: tuple[int, ...] | None = None
    domain: int = TRAINING
    on_simulator_reset: str = "count"
    name: str = "custom"

    def __post_init__(self) -> None:
        checked_tasks(self.tasks)
        at_least("copies", self.copies, 1)
        at_least("run_seed", self.run_seed, 0)
        at_least("domain", self.domain, 0)
        one_of("reward_version", self.reward_version, ("v1", "v2"))
        one_of("goal_order", self.goal_order, ("uniform", "cycle"))
        one_of("on_simulator_reset", self.on_simulator_reset, ("fail", "count"))
        check_range("num_goals", self.num_goals, NUM_GOALS)
        check_range("horizon", self.horizon, MAX_HORIZON)
        one_of("backend", self.backend, ("stock", "envpool"))
        if self.backend == "envpool":
            self._check_envpool()
        chosen = self.active_tasks
        if not chosen or not all(0 <= index < len(self.tasks) for index in chosen):
            raise ValueError(f"active={chosen} must be indices of the {len(self.tasks)} tasks.")

    def _check_envpool(self) -> None:
        fixed = {"reward_version": "v2", "goal_order": "uniform", "autoreset": True}
        for name, only in fixed.items():
            value = getattr(self, name)
            if value != only:
                raise ValueError(
                    f"backend=envpool has {name}={only} only, not {value}; use backend=stock."
                )

    @property
    def active_tasks(self) -> tuple[int, ...]:
        """Indices of the tasks that have rows."""
        return tuple(range(len(self.tasks))) if self.active is None else tuple(self.active)

    @property
    def regime(self) -> np.ndarray:
        """Task index of every row, shape (N,), int64."""
        return np.repeat(np.array(self.active_tasks, dtype=np.int64), self.copies)

    @property
    def context(self) -> np.ndarray:
        """One-hot task of every row, shape (N, T), or (N, 0) where it is hidden; float32."""
        context = np.eye(len(self.tasks), dtype=np.float32)[self.regime]
        return context[:, :0] if self.hide_task_id else context

    def row_specs(self, goals: Goals) -> list[RowSpec]:
        """What to build, one per row."""
        return [
            RowSpec(
                task=self.tasks[index],
                goals=goals.vectors[index][: self.num_goals].tolist(),
                reward_version=self.reward_version,
                horizon=self.horizon,
                fast_path=self.fast_path,
                reset_cache=self.reset_cache,
                goal_order=self.goal_order,
                autoreset=self.autoreset,
                run_seed=self.run_seed,
                stream=(self.domain, index, copy),
            )
            for index in self.active_tasks
            for copy in range(self.copies)
        ]

    def identity(self, goals: Goals) -> dict[str, int | str]:
        """What a snapshot must have in common with the environments that it is restored to."""
        return {
            "environment": f"meta-world-{self.name}",
            "tasks": ",".join(self.tasks),
            "rows": ",".join(map(str, self.regime.tolist())),
            "goal_sha256": goals.sha256,
            "num_goals": self.num_goals,
            "goal_order": self.goal_order,
            "reward_version": self.reward_version,
            "horizon": self.horizon,
            "fast_path": int(self.fast_path),
            "autoreset": int(self.autoreset),
        }

    def manifest(self, goals: Goals) -> dict[str, Any]:
        """What makes results comparable, for the run's records: plain values."""
        is_stock = self.backend == "stock"
        return {
            **VERSIONS,
            "backend": self.training_backend or self.backend,
            "resume": "exact" if is_stock else "inexact",
            "training_goals": "the fixed ones" if is_stock else "fresh at every reset",
            "fast_path": self.fast_path,
            "reward_version": self.reward_version,
            "horizon": self.horizon,
            "success": "any step of the episode",
            "goal_generator": goals.generator,
            "goal_seed": goals.goal_seed,
            "goal_sha256": goals.sha256,
            "num_goals": self.num_goals,
            "goal_order": self.goal_order,
            "run_seed": self.run_seed,
            "tasks": list(self.tasks),
            "context": "hidden" if self.hide_task_id else "task",
        }


def check_range(name: str, value: int, high: int) -> None:
    """Raise ValueError unless ``value`` is an integer from 1 to ``high``."""
    at_least(name, value, 1)
    if value > high:
        reason = "; Meta-World ends every episode after 500 steps" if name == "horizon" else ""
        raise ValueError(f"{name}={value} must be at most {high}{reason}.")
