"""Meta-World as it is meant to be measured: 50 fixed goals per task, success at any step.

The rooms beside this file: training (settings that sequences share), tasks (names and
construction), goals (the fixed 50), fast (equal but faster classes), rows (one task with its
episode), vector (the batch), workers (processes), snapshot (exact state), probe and video.

Source: Yu et al., "Meta-World" (2019); McLean et al., "Meta-World+" (arXiv 2505.11289).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Literal

from envs.base import EnvInfo
from envs.meta_world_choice import EVALUATION
from envs.meta_world_probe import TaskProbe, probe_set
from envs.meta_world_settings import Settings
from envs.meta_world_tasks import benchmark_tasks
from envs.meta_world_training import TrainingConfig
from envs.meta_world_vector import MetaWorldVec
from envs.schedules import at_least

__all__ = ["Config", "MetaWorldVec", "make", "make_evaluation", "probe"]

NEVER_CHANGES = True  # nothing can be announced


@dataclass(frozen=True)
class Config(TrainingConfig):
    """Many manipulation tasks at once, each with its own copies and goals.

    Attributes:
        kind: Name of this file.
        benchmark: mt1 (one task), mt10, mt25, mt50, cw10, or custom (a list of your own).
        task: The task of mt1.
        tasks: The tasks of custom, in the order of the context.
        backend: stock (Meta-World's own classes), or envpool to train on EnvPool's compiled
            tasks: fresh goals at every reset, reward v2 only, no exact resume. Evaluations are on
            stock tasks all the same, and the two are never compared (extra ``envpool``).
    """

    kind: str = "meta_world"
    benchmark: str = "mt10"
    task: str = "reach-v3"
    tasks: tuple[str, ...] = ()
    backend: str = "stock"

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks of the benchmark, in the order of the context."""
        return benchmark_tasks(self.benchmark, self.task, tuple(self.tasks))

    def settings(self) -> Settings:
        """The same as checked settings of the batch."""
        return self._settings(
            tasks=self.task_names,
            backend=self.backend,
            hide_task_id=self.hide_task_id,
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
    goals = config.goals(settings.tasks)
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
