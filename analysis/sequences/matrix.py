"""The success matrix of one run: every task at every evaluation, read from its log."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.canonical_json import canonical_json, plain
from analysis.continual import SequenceScores, sequence_scores
from analysis.continual.episodes import Array
from analysis.multitask.records import task_labels
from analysis.multitask.training import QUICK, STAGE
from analysis.run_files import NotARun, read_config, read_progress
from analysis.storage import atomic_write_text
from analysis.supervised_runs import FAILED, ending
from configs.run import RunConfig, load_run

FORMAT = "success matrix 1"
FILES = {QUICK: "success_matrix", STAGE: "success_matrix_all_goals"}


@dataclass(frozen=True)
class SuccessMatrix:
    """Success rates of all tasks of a sequence over the run.

    Attributes:
        tasks: Task of every stage, numbered where it comes again.
        success: (stages * evaluations_per_stage, stages): entry [k, i] is the rate of the task of
            stage i at evaluation k.
        env_steps: (evaluations,) when; an evaluation at the last step of a stage belongs to it.
        evaluations_per_stage: m.
        steps_per_task: D.
        goals: Goals per task that were visited.
        source: `eval_quick` (a few goals) or `eval_stage` (all goals, at the end of stages).
        num_missing: Evaluations that a failed run did not make; they are no success in `success`.
    """

    tasks: tuple[str, ...]
    success: Array
    env_steps: np.ndarray
    evaluations_per_stage: int
    steps_per_task: int
    goals: int
    source: str
    num_missing: int = 0

    def scores(self, window: int | None = None) -> SequenceScores:
        """Performance, forgetting, backward transfer and areas; see `sequence_scores`."""
        return sequence_scores(self.success, self.evaluations_per_stage, window)

    @property
    def stage_ends(self) -> Array:
        """(stages, stages) success after every stage."""
        m = self.evaluations_per_stage
        return self.success[m - 1 :: m]


def is_sequence(config: RunConfig) -> bool:
    """Whether a run goes through tasks one after another and is evaluated on them."""
    return hasattr(config.env, "steps_per_task") and bool(sources_of(config))


def sources_of(config: RunConfig) -> tuple[str, ...]:
    """The evaluations that a run makes: those on a few goals, on all goals, or both."""
    quick = (QUICK,) if config.log.quick_evaluation_steps is not None else ()
    return (*quick, STAGE) if config.log.stage_evaluation else quick


def read_matrix(run_dir: Path, source: str | None = None) -> SuccessMatrix:
    """Read the matrix of a finished sequence, or of a failed one as far as it came.

    A failed run cannot be finished: it counts as no success in the evaluations that it lacks.

    Args:
        run_dir: Run directory.
        source: `eval_quick` or `eval_stage`; None takes the first that the run makes.

    Raises:
        NotARun: The path is no run on a sequence, it makes no such evaluations, or it is unfinished
            and has not made all of them yet.
    """
    config = load_run(read_config(run_dir))
    made = sources_of(config) if is_sequence(config) else ()
    if source is None:
        source = next(iter(made), QUICK)
    if source not in made:
        raise NotARun(
            f"{run_dir} has no evaluations of a sequence ({source}); train one "
            "with env=mt10_sequence and log.quick_evaluation_steps, or log.stage_evaluation"
        )
    env, log = config.env, config.log
    every = log.quick_evaluation_steps if source == QUICK else env.steps_per_task
    rows, names = env.plan.stage_rows, tuple(stage.name for stage in env.plan.stages)
    grid = np.arange(1, env.planned_steps // every + 1) * every
    by_task, num_missing = _evaluated(run_dir, task_labels(env.task_names), source, grid)
    return SuccessMatrix(
        task_labels(names),
        by_task[:, list(rows)],
        grid,
        env.steps_per_task // every,
        env.steps_per_task,
        len(log.quick_evaluation_goals) if source == QUICK else env.num_goals,
        source,
        num_missing,
    )


def _evaluated(
    run_dir: Path, labels: tuple[str, ...], source: str, grid: np.ndarray
) -> tuple[Array, int]:
    """(evaluations, evaluated tasks) rates at the steps of a grid, and how many are missing."""
    table = read_progress(run_dir)
    names = [f"{source}/{label}/success" for label in labels]
    columns = [table[name] for name in names if name in table]
    failed = ending(run_dir) == FAILED
    if failed and not columns:
        return np.zeros((len(grid), len(labels))), len(grid)
    if len(columns) != len(labels):
        raise NotARun(f"{run_dir} has written no column {names[0]}")
    found = np.stack(columns)
    is_row = ~np.isnan(found).any(axis=0)
    rates = dict(zip(table["env_steps"][is_row].astype(int).tolist(), found.T[is_row], strict=True))
    missing = [step for step in grid.tolist() if step not in rates]
    if missing and not failed:
        raise NotARun(
            f"{run_dir} has {len(grid) - len(missing)} of {len(grid)} evaluations; the next is due "
            f"at step {missing[0]:,}. Finish the run first"
        )
    none = np.zeros(len(labels))
    return np.stack([rates.get(step, none) for step in grid.tolist()]), len(missing)


def write_matrix(folder: Path, matrix: SuccessMatrix) -> tuple[Path, Path]:
    """Write JSON (with the scores) and CSV; older files are replaced.

    Raises:
        StorageError: A file cannot be written.
    """
    stem = FILES[matrix.source]
    path, table = folder / f"{stem}.json", folder / f"{stem}.csv"
    scores = matrix.scores()
    record: dict[str, Any] = {
        "format": FORMAT,
        "tasks": matrix.tasks,
        "success": matrix.success.tolist(),
        "env_steps": matrix.env_steps.tolist(),
        "evaluations_per_stage": matrix.evaluations_per_stage,
        "steps_per_task": matrix.steps_per_task,
        "goals_per_task": matrix.goals,
        "source": matrix.source,
        "scores": {
            "performance": scores.performance,
            "forgetting": scores.mean_forgetting,
            "backward_transfer": scores.backward_transfer,
            "forgetting_by_task": scores.forgetting.tolist(),
            "areas": scores.areas.tolist(),
        },
    }
    text = canonical_json(plain(record, non_finite_as_null=True), indent=1).decode() + "\n"
    atomic_write_text(table, matrix_csv(matrix))
    atomic_write_text(path, text)
    return path, table


def matrix_csv(matrix: SuccessMatrix) -> str:
    """One row per evaluation: stage, task in training, steps, and the success of every task."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("stage", "task", "env_steps", *matrix.tasks))
    for index, rates in enumerate(matrix.success.tolist()):
        stage = index // matrix.evaluations_per_stage
        writer.writerow((stage, matrix.tasks[stage], int(matrix.env_steps[index]), *rates))
    return stream.getvalue()
