"""What is done and said when a run has finished."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.restored import can_be_measured
from analysis.run_directory import RunDirectory
from analysis.summary import final_return, summary_table
from configs.run import RunConfig


def end_run(
    directory: RunDirectory,
    config: RunConfig,
    env_steps: int,
    seconds: float,
    evaluation: Mapping[str, float],
) -> None:
    """Draw the figures, write done.json and say what comes next.

    Args:
        directory: Of the run; its files are closed.
        config: Of the run.
        env_steps: Environment steps done.
        seconds: Spent on the run.
        evaluation: Results of its final evaluation, empty without one.

    Raises:
        StorageError: A file cannot be written.
    """
    summary: dict[str, Any] = {"env_steps": env_steps}
    if config.log.figures:
        from analysis.plots import draw_run

        summary["figures"] = [path.name for path in draw_run(directory.path)]
    summary["final_return"] = final_return(directory.path)
    if evaluation:
        summary["evaluation"] = dict(evaluation)
    directory.finish("finished", summary)
    print(summary_table(directory.path))
    if evaluation:
        print(
            f"success on all goals, mean over tasks {evaluation['success']:.3f} (IQM "
            f"{evaluation['success_iqm']:.3f}); by task and goal in evaluation.csv"
        )
    look = "run" if can_be_measured(config) and not evaluation else "figures"
    print(
        f"finished {env_steps:,} steps in {seconds:,.0f} s; final return "
        f"{summary['final_return']:.1f}\nnext: python evaluate.py {look} {directory.path}"
    )
