"""Settings of training environments of Meta-World, whether tasks come together or in turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from envs.meta_world_goals import NUM_GOALS, SEED_LIMIT, Goals, load_goals
from envs.meta_world_settings import Settings
from envs.meta_world_tasks import MAX_HORIZON
from envs.schedules import at_least


@dataclass(frozen=True)
class TrainingConfig:
    """What all training environments of Meta-World have to be told.

    Attributes:
        copies: Environments per task.
        world_seed: Seed of the streams that choose goals.
        goal_seed: Seed of the 50 goals; null takes ``world_seed``.
        goal_manifest: File of goals to use instead of ``goal_seed``.
        num_goals: Goals per task in use, the first ones of 50.
        goal_order: uniform (with replacement) or cycle (a fresh permutation per pass).
        reward_version: v1 or v2.
        horizon: Steps of an episode, at most 500.
        fast_path: Use subclasses that compute the same numbers faster.
        reset_cache: Reuse the exact state after the first reset to each goal; changes no bit.
        num_workers: Processes that step the environments; 0 means this one, auto chooses by the
            cores. Results do not depend on it.
        hide_task_id: Announce no task to the agent: neither input nor heads know it.
        on_simulator_reset: fail (raise SimulatorError) or count (truncate the episode with reward
            0 and ``unstable``) when a simulation blows up; see ``meta_world_rows.Row.step``.
    """

    copies: int = 1
    world_seed: int = 0
    goal_seed: int | None = None
    goal_manifest: str | None = None
    num_goals: int = NUM_GOALS
    goal_order: str = "uniform"
    reward_version: str = "v2"
    horizon: int = MAX_HORIZON
    fast_path: bool = True
    reset_cache: bool = True
    num_workers: int | Literal["auto"] = "auto"
    hide_task_id: bool = False
    on_simulator_reset: str = "fail"

    def __post_init__(self) -> None:
        at_least("world_seed", self.world_seed, 0)
        if not 0 <= self.resolved_goal_seed < SEED_LIMIT:
            raise ValueError(f"goal_seed={self.goal_seed} must be at least 0 and below 2**32.")
        if self.num_workers != "auto":
            at_least("num_workers", self.num_workers, 0)
        self.settings()

    @property
    def resolved_goal_seed(self) -> int:
        """Seed of the 50 goals."""
        return self.world_seed if self.goal_seed is None else self.goal_seed

    def goals(self, tasks: tuple[str, ...]) -> Goals:
        """The fixed goals of a list of tasks, whose order they depend on.

        Raises:
            ValueError: The file of goals cannot be used.
        """
        manifest = None if self.goal_manifest is None else Path(self.goal_manifest)
        return load_goals(tasks, self.resolved_goal_seed, manifest)

    def settings(self) -> Settings:
        """The same as checked settings of a batch."""
        raise NotImplementedError

    def _settings(self, **more: Any) -> Settings:
        """Checked settings of a batch of which the tasks, and what is special, are in `more`."""
        return Settings(
            copies=self.copies,
            run_seed=self.world_seed,
            num_goals=self.num_goals,
            reward_version=self.reward_version,
            horizon=self.horizon,
            fast_path=self.fast_path,
            goal_order=self.goal_order,
            reset_cache=self.reset_cache,
            on_simulator_reset=self.on_simulator_reset,
            **more,
        )
