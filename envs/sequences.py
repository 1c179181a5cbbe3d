"""Meta-World tasks one after another: the world changes, the agent goes on.

One stage is one task with `copies` environments; after exactly `steps_per_task` steps of all copies
together the next task takes its place. Order, stages and contexts are in `sequence_plan`, the
environments in `sequence_worlds`.

Source: Wolczyk et al. (2021), Continual World, arXiv 2105.10919, for the mechanics and the order of
    CW10 and CW20.
Deviation: tasks of Meta-World v3 with reward v2, 50 fixed goals and episodes of 500 steps
    (published: v1, a fresh goal at every reset, 200 steps), so that numbers cannot be compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from envs.base import EnvInfo
from envs.meta_world import choose_workers
from envs.meta_world_choice import EVALUATION
from envs.meta_world_probe import TaskProbe, probe_set
from envs.meta_world_settings import Settings
from envs.meta_world_training import TrainingConfig
from envs.schedules import at_least
from envs.sequence_plan import Plan, arranged, make_plan
from envs.sequence_worlds import SequenceVec, SequenceWorlds

__all__ = ["Config", "SequenceVec", "make", "make_evaluation", "probe"]


@dataclass(frozen=True)
class Config(TrainingConfig):
    """Manipulation tasks one after another.

    Attributes:
        kind: Name of this file.
        benchmark: mt10, mt25, mt50, cw10, or custom (a list of your own).
        tasks: The tasks of custom, in their order.
        repeats: How often the whole list is gone through; CW20 is CW10 twice.
        order_seed: Shuffle the order of the list by this seed; null leaves it as it is. Goals,
            contexts by task and single-task references do not depend on it.
        steps_per_task: Environment steps of a stage, over all copies; a multiple of ``copies``.
        copies: Environments of the one task.
        context_id: task (a task that comes again has its context again) or position (every stage
            has a context, and with it a head, of its own).
        task_agnostic: As ``hide_task_id``, and announce no switch either: nothing but the task
            changes at the border of two stages, whatever the agent is configured to do there.
        only_task: Train on this one of the tasks for a single stage, with goals, context and
            networks as in the sequence: the reference of forward transfer.
    """

    kind: str = "sequences"
    benchmark: str = "mt10"
    tasks: tuple[str, ...] = ()
    repeats: int = 1
    order_seed: int | None = None
    steps_per_task: int = 200_000
    copies: int = 4
    context_id: str = "task"
    task_agnostic: bool = False
    only_task: str | None = None

    def __post_init__(self) -> None:
        at_least("steps_per_task", self.steps_per_task, 1)
        super().__post_init__()
        if self.steps_per_task % self.copies:
            raise ValueError(
                f"steps_per_task={self.steps_per_task} is no multiple of copies={self.copies}; the "
                "task changes after whole vector steps, so choose a multiple."
            )

    @property
    def plan(self) -> Plan:
        """Stages and contexts."""
        return make_plan(
            self.benchmark,
            tuple(self.tasks),
            self.repeats,
            self.order_seed,
            self.context_id,
            self.only_task,
        )

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks that evaluations visit: one per context, or the only one that is trained."""
        return self.plan.evaluated

    @property
    def num_rows(self) -> int:
        """Environments that are stepped together in training."""
        return self.copies

    @property
    def planned_steps(self) -> int:
        """Environment steps of all stages."""
        return self.steps_per_task * len(self.plan.stages)

    @property
    def tells_task(self) -> bool:
        """Whether contexts name the task."""
        return not (self.hide_task_id or self.task_agnostic)

    @property
    def name(self) -> str:
        """What the sequence is called."""
        return f"{self.benchmark}-sequence" if self.only_task is None else self.only_task

    def settings(self) -> Settings:
        """Checked settings of the environments of the first stage."""
        plan = self.plan
        return self._settings(tasks=plan.listed, active=(plan.stages[0].place,), name=self.name)


def make(config: Config, total_steps: int, num_threads: int = 1) -> tuple[SequenceVec, EnvInfo]:
    """Build the environments of the first stage; later ones are built when they begin.

    Args:
        config: What to build.
        total_steps: Length of the run in environment steps.
        num_threads: 1 keeps ``num_workers=auto`` within this process; results do not depend on it.

    Returns:
        The environments and their description.

    Raises:
        ValueError: If a setting is out of range, the run is longer than its stages, or the goals
            cannot be used.
    """
    at_least("total_steps", total_steps, 1)
    at_least("num_threads", num_threads, 1)
    if total_steps > config.planned_steps:
        raise ValueError(
            f"total_steps={total_steps} is more than the {len(config.plan.stages)} stage(s) of "
            f"{config.steps_per_task} steps; set total_steps={config.planned_steps}, or change "
            "env.steps_per_task or env.repeats."
        )
    settings, goals = config.settings(), config.goals(config.plan.distinct)
    num_workers = choose_workers(config.num_workers, settings.copies, num_threads)
    env = SequenceVec(
        config.plan,
        settings,
        arranged(goals, config.plan.listed),
        config.steps_per_task,
        config.tells_task,
        announces_switches=not config.task_agnostic,
        num_workers=num_workers,
    )
    return env, env.info


def make_evaluation(config: Config, copies: int = 1, num_threads: int = 1) -> SequenceWorlds:
    """Build separate environments of all tasks, side by side, for an evaluation.

    Every context has its rows, whether its stage has begun or not; see
    ``envs.meta_world.make_evaluation``.

    Args:
        config: The run's environments.
        copies: Rows per task.
        num_threads: As for ``make``.
    """
    plan = config.plan
    settings = replace(
        config.settings(),
        tasks=plan.contexts,
        copies=copies,
        active=plan.evaluated_columns,
        autoreset=False,
        domain=EVALUATION,
        hide_task_id=not config.tells_task,
    )
    goals = arranged(config.goals(plan.distinct), plan.contexts)
    num_rows = len(settings.active_tasks) * copies
    num_workers = choose_workers(config.num_workers, num_rows, num_threads)
    return SequenceWorlds(settings, goals, num_workers)


def probe(config: Config) -> TaskProbe:
    """The fixed sample set of these tasks (see ``envs.meta_world_probe``)."""
    plan = config.plan
    if config.only_task is None:
        return probe_set(plan.contexts, not config.tells_task)
    found = probe_set(plan.evaluated, hide_task_id=True)
    shown = np.eye(len(plan.contexts), dtype=np.float32)[list(plan.evaluated_columns)]
    contexts = np.repeat(shown, len(found.observations), axis=0)
    return replace(found, contexts=contexts if config.tells_task else contexts[:, :0])
