"""`python evaluate.py run` for runs on several tasks: numbers, files, figure and film."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from analysis.multitask.evaluation import deterministic_policy
from analysis.multitask.measuring import describe_measured
from analysis.multitask.records import write_evaluation
from analysis.multitask.report import draw_evaluation, results_table
from analysis.multitask.scores import score
from analysis.restored import RestoredOnTasks, restore_on_tasks
from analysis.video import RenderingUnavailable


def evaluate_tasks(
    run_dir: Path,
    checkpoint: Path | None,
    out: Path,
    num_goals: int | None = None,
    rows_per_task: int | None = None,
    film: bool = False,
) -> None:
    """Measure a checkpoint on every task and goal; print a table, write JSON, CSV and a figure.

    Args:
        run_dir: Run directory.
        checkpoint: Directory of a checkpoint, None for the newest one that is intact.
        out: Folder of the results.
        num_goals: Visit only the first ones; the results are labelled as partial.
        rows_per_task: Episodes of a task at a time, None as configured.
        film: Also film one episode per task.

    Raises:
        NotARun, CheckpointError, ConfigurationError: See `restore_on_tasks`.
        ValueError: More goals than the run has.
        StorageError: A file cannot be written.
    """
    restored = restore_on_tasks(run_dir, checkpoint, rows_per_task)
    try:
        for problem in restored.problems:
            print(f"checkpoint passed over: {problem}", file=sys.stderr)
        evaluator = restored.evaluator
        if num_goals is not None and num_goals > evaluator.num_goals:
            raise ValueError(
                f"--goals is {num_goals}, but {run_dir} has {evaluator.num_goals} goals per task"
            )
        goals = range(evaluator.num_goals if num_goals is None else num_goals)
        print(
            f"evaluating {run_dir} at step {restored.env_steps:,}: {len(evaluator.tasks)} tasks x "
            f"{len(goals)} goals",
            flush=True,
        )
        about = describe_measured(restored.config, run_dir, restored.env_steps, restored.checkpoint)
        evaluation = evaluator.measure(restored.agent, about, goals)
        assert evaluation is not None
        scores = score(evaluation)
        width = None if sys.stdout.isatty() else 100
        Console(width=width).print(results_table(evaluation, scores))
        paths = [*write_evaluation(out, evaluation, scores.plain())]
        paths += draw_evaluation(out / "figures", evaluation, scores)
        for path in paths:
            print(f"wrote {path}", flush=True)
        if film:
            _film(restored, evaluation.labels, out / "videos" / "tasks.mp4")
    finally:
        restored.close()


def _film(restored: RestoredOnTasks, labels: tuple[str, ...], path: Path) -> None:
    from analysis.multitask.film import film_tasks

    try:
        policy = deterministic_policy(restored.agent)
        film_tasks(policy, restored.config, restored.trained_in, labels, path)
    except RenderingUnavailable as error:
        print(f"no video: {error}", file=sys.stderr)
    else:
        print(f"wrote {path}", flush=True)
