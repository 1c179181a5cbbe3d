"""Meta-World as it is meant to be measured: 50 fixed goals per task, success at any step.

The rooms beside this file: tasks (names and construction), goals (the fixed 50), fast (equal but
faster classes), rows (one task with its episode), vector (the batch), workers (processes), snapshot
(exact state), probe and video.

Source: Yu et al., "Meta-World" (2019); McLean et al., "Meta-World+" (arXiv 2505.11289).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from envs.base import EnvInfo
from envs.meta_world_choice import EVALUATION
from envs.meta_world_goals import NUM_GOALS, SEED_LIMIT, load_goals
from envs.meta_world_probe import TaskProbe, probe_set
from envs.meta_world_settings import Settings
from envs.meta_world_tasks import MAX_HORIZON, benchmark_tasks
from envs.meta_world_vector import MetaWorldVec
from envs.schedules import at_least

__all__ = ["Config", "MetaWorldVec", "make", "make_evaluation", "probe"]


@dataclass(frozen=True)
class Config:
    """Many manipulation tasks at once, each with its own copies and goals.

    Attributes:
        kind: Name of this file.
        benchmark: mt1 (one task), mt10, mt25, mt50, cw10, or custom (a list of your own).
        task: The task of mt1.
        tasks: The tasks of custom, in the order of the context.
        copies: Environments per task.
        world_seed: Seed of the streams that choose goals.
        goal_seed: Seed of the 50 goals; null takes ``world_seed``.
        goal_manifest: File of goals to use instead of ``goal_seed``.
        num_goals: Goals per task in use, the first ones of 50.
        goal_order: uniform (with replacement) or cycle (a fresh permutation per pass).
        reward_version: v1 or v2.
        horizon: Steps of an episode, at most 500.
        backend: stock (Meta-World's own classes), or envpool to train on EnvPool's compiled
            tasks: fresh goals at every reset, reward v2 only, no exact resume. Evaluations are on
            stock tasks all the same, and the two are never compared (extra ``envpool``).
        fast_path: Use subclasses that compute the same numbers faster.
        reset_cache: Reuse the exact state after the first reset to each goal; changes no bit.
        num_workers: Processes that step the tasks; 0 means this one, auto chooses by the cores.
            Results do not depend on it.
        hide_task_id: Announce no task to the agent.
        on_simulator_reset: fail (raise SimulatorError) or count (truncate the episode with reward
            0 and ``unstable``) when a simulation blows up.
    """

    kind: str = "meta_world"
    benchmark: str = "mt10"
    task: str = "reach-v3"
    tasks: tuple[str, ...] = ()
    copies: int = 1
    world_seed: int = 0
    goal_seed: int | None = None
    goal_manifest: str | None = None
    num_goals: int = NUM_GOALS
    goal_order: str = "uniform"
    reward_version: str = "v2"
    horizon: int = MAX_HORIZON
    backend: str = "stock"
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
    def task_names(self) -> tuple[str, ...]:
        """The tasks of the benchmark, in the order of the context."""
        return benchmark_tasks(self.benchmark, self.task, tuple(self.tasks))

    @property
    def resolved_goal_seed(self) -> int:
        """Seed of the 50 goals."""
        return self.world_seed if self.goal_seed is None else self.goal_seed

    def settings(self) -> Settings:
        """The same as checked settings of the batch."""
        return Settings(
            tasks=self.task_names,
            copies=self.copies,
            run_seed=self.world_seed,
            num_goals=self.num_goals,
            reward_version=self.reward_version,
            horizon=self.horizon,
            backend=self.backend,
            fast_path=self.fast_path,
            goal_order=self.goal_order,
            reset_cache=self.reset_cache,
            hide_task_id=self.hide_task_id,
            on_simulator_reset=self.on_simulator_reset,
            name=self.task if self.benchmark == "mt1" else self.benchmark,
        )


def make(config: Config, total_steps: int, num_threads: int = 1) -> tuple[MetaWorldVec, EnvInfo]:
    """Build the environments.

    Args:
        config: What to build.
        total_steps: Length of the run in environment steps; nothing here depends on it.
        num_threads: 1 keeps ``num_workers=auto`` within this process; results do not depend on it.

    Returns:
        The environments and their description.

    Raises:
        ValueError: If a setting is out of range, or the goals cannot be used.
    """
    at_least("total_steps", total_steps, 1)
    at_least("num_threads", num_threads, 1)
    env = _build(config, config.settings(), num_threads)
    return env, env.info


def make_evaluation(config: Config, copies: int = 1, num_threads: int = 1) -> MetaWorldVec:
    """Build separate environments of the same tasks and goals for an evaluation.

    Rows are started by ``start_episodes(rows, goal_index)`` and stand still when their episode has
    ended, so that the batch keeps one shape. Training environments are not touched.

    Args:
        config: The run's environments.
        copies: Rows per task.
        num_threads: As for ``make``.
    """
    settings = replace(
        config.settings(),
        copies=copies,
        autoreset=False,
        domain=EVALUATION,
        backend="stock",
        training_backend=config.backend,
    )
    return _build(config, settings, num_threads)


def _build(config: Config, settings: Settings, num_threads: int) -> MetaWorldVec:
    manifest = None if config.goal_manifest is None else Path(config.goal_manifest)
    goals = load_goals(settings.tasks, config.resolved_goal_seed, manifest)
    num_rows = len(settings.tasks) * settings.copies
    choose = choose_workers if settings.backend == "stock" else choose_threads
    num_workers = choose(config.num_workers, num_rows, num_threads)
    return MetaWorldVec(settings, goals, num_workers)


def choose_workers(asked: int | Literal["auto"], num_rows: int, num_threads: int) -> int:
    """Worker processes: as asked; auto takes all cores but one, and none where two cores or
    fewer, or one thread, are to be used."""
    if asked != "auto":
        return asked
    cores = len(os.sched_getaffinity(0))
    return 0 if num_threads == 1 or cores <= 2 else min(num_rows, cores - 1)


def choose_threads(asked: int | Literal["auto"], num_rows: int, num_threads: int) -> int:
    """Threads of EnvPool: as asked; auto takes all cores, or one where one thread is wanted."""
    if asked != "auto":
        return asked
    return 0 if num_threads == 1 else min(num_rows, len(os.sched_getaffinity(0)))


def probe(config: Config) -> TaskProbe:
    """The fixed sample set of these tasks (see ``envs.meta_world_probe``)."""
    return probe_set(config.task_names, config.hide_task_id)
