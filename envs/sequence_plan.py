"""Which task comes when, and which context stands for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from envs.meta_world_goals import Goals, goal_hash
from envs.meta_world_tasks import benchmark_tasks, checked_tasks
from envs.schedules import at_least, one_of

CONTEXT_IDS = ("task", "position")


@dataclass(frozen=True)
class Stage:
    """One task for some time.

    Attributes:
        name: The task.
        place: Its number within ``Plan.listed``; random streams of the stage are named by it.
        column: Its context.
        task_index: Its number within the list before anything was shuffled or repeated.
    """

    name: str
    place: int
    column: int
    task_index: int


@dataclass(frozen=True)
class Plan:
    """All stages.

    Attributes:
        stages: In the order in which they are trained.
        listed: Task names that ``Stage.place`` counts.
        contexts: Task name of every context.
        distinct: The tasks that goals are drawn for, each once, in the order of the list.
        is_single: Only one of the tasks is trained, for reference.
    """

    stages: tuple[Stage, ...]
    listed: tuple[str, ...]
    contexts: tuple[str, ...]
    distinct: tuple[str, ...]
    is_single: bool = False

    @property
    def evaluated_columns(self) -> tuple[int, ...]:
        """Contexts that evaluations visit, in order."""
        if self.is_single:
            return (self.stages[0].column,)
        return tuple(range(len(self.contexts)))

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Their task names."""
        return tuple(self.contexts[column] for column in self.evaluated_columns)

    @property
    def stage_rows(self) -> tuple[int, ...]:
        """For every stage, which of the evaluated tasks it trains."""
        columns = self.evaluated_columns
        return tuple(columns.index(stage.column) for stage in self.stages)


def make_plan(
    benchmark: str,
    tasks: tuple[str, ...],
    repeats: int,
    order_seed: int | None,
    context_id: str,
    only_task: str | None,
) -> Plan:
    """Lay out the stages; see `envs.sequences.Config` for the arguments.

    Raises:
        ValueError: A setting is out of range, or the same task would need two contexts.
    """
    at_least("repeats", repeats, 1)
    one_of("context_id", context_id, CONTEXT_IDS)
    base = _base_tasks(benchmark, tasks, context_id)
    distinct = tuple(dict.fromkeys(base))
    count = len(base)
    order = list(range(count))
    if order_seed is not None and only_task is None:
        at_least("order_seed", order_seed, 0)
        order = np.random.default_rng(order_seed).permutation(count).tolist()
    visits = order * repeats
    listed = tuple(base[index] for index in visits)
    by_position = context_id == "position"
    stages = tuple(
        Stage(base[index], place, place if by_position else index, index)
        for place, index in enumerate(visits)
    )
    if only_task is not None:
        if only_task not in base:
            raise ValueError(
                f"only_task={only_task!r} is not in the sequence; choose one of "
                f"{', '.join(distinct)}."
            )
        stages = (stages[base.index(only_task)],)
    contexts = listed if by_position else base
    return Plan(stages, listed, contexts, distinct, only_task is not None)


def _base_tasks(benchmark: str, tasks: tuple[str, ...], context_id: str) -> tuple[str, ...]:
    if benchmark == "mt1":
        raise ValueError("benchmark=mt1 is no sequence; use benchmark=custom and tasks=[...].")
    if benchmark != "custom":
        return benchmark_tasks(benchmark, "", tasks)
    base = checked_tasks(tasks)
    repeated = sorted({name for name in base if base.count(name) > 1})
    if repeated and context_id != "position":
        raise ValueError(
            f"tasks names {', '.join(repeated)} twice; with context_id=task use repeats to come "
            "back to tasks, or choose context_id=position."
        )
    return base


def arranged(goals: Goals, names: Sequence[str]) -> Goals:
    """The goals of other lists of the same tasks: shuffled, repeated or shortened."""
    vectors = tuple(goals.vectors[goals.tasks.index(name)] for name in names)
    return Goals(tuple(names), goals.generator, goals.goal_seed, vectors, goal_hash(vectors))
