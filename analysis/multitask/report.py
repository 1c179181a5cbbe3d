"""Shows one evaluation: a table for the terminal and a figure with one bar per task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from analysis.multitask.records import Evaluation
from analysis.multitask.scores import Scores
from analysis.plots import COLOURS, QUIET, STYLE, save_figure
from analysis.statistics import Interval

COLUMNS = ("task", "success", "95 %", "last step", "first at", "return")
KINDS = ("png", "svg")


def results_table(evaluation: Evaluation, scores: Scores) -> Table:
    """One line per task, then mean and interquartile mean over tasks if there are several.

    Intervals are over goals: Wilson's for a task, a bootstrap of goals within tasks for the rest.
    """
    table = Table(box=None, title=caption(evaluation), title_justify="left", header_style="")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "task" else "right", no_wrap=True)
    for task in scores.tasks:
        table.add_row(
            task.task,
            f"{task.solved}/{task.num_goals}",
            _bounds(task.success),
            _number(task.num_goals * task.final_success, ".0f"),
            _number(task.median_first_step, ".0f"),
            _number(task.episode_return.estimate, ".1f"),
        )
    if len(scores.tasks) == 1:
        return table
    table.add_row(
        "mean over tasks",
        f"{scores.mean.estimate:.3f}",
        _bounds(scores.mean),
        _number(scores.final_success, ".3f"),
        "",
        _number(scores.episode_return.estimate, ".1f"),
        end_section=True,
    )
    table.add_row("IQM over tasks", f"{scores.iqm.estimate:.3f}", _bounds(scores.iqm), "", "", "")
    return table


def caption(evaluation: Evaluation) -> str:
    """What makes the numbers comparable, in one line or two."""
    manifest, about = evaluation.manifest, evaluation.about
    steps = about.get("env_steps")
    parts = [str(manifest["benchmark"])]
    parts += [f"after {steps:,} steps"] if isinstance(steps, int) else []
    parts += [f"reward {manifest['reward_version']}", f"horizon {manifest['horizon']}"]
    parts.append(f"success at {manifest['success']}")
    first = ", ".join(parts)
    visited = f"{evaluation.num_goals} goals per task"
    if evaluation.kind != "full":
        visited = (
            f"only {evaluation.num_goals} of {manifest['num_goals']} goals per task: not for "
            "result tables"
        )
    second = f"{visited}, goal seed {manifest['goal_seed']} ({manifest['goal_policy']}), "
    second += f"goals {manifest['goal_sha256'][:12]}, back-end {manifest['backend']}"
    return f"{first}\n{second}"


def _bounds(found: Interval) -> str:
    return "" if math.isnan(found.low) else rf"\[{found.low:.2f}, {found.high:.2f}]"


def _number(value: float, style: str) -> str:
    return "-" if math.isnan(value) else format(value, style)


def draw_evaluation(folder: Path, evaluation: Evaluation, scores: Scores) -> list[Path]:
    """Draw success by task with intervals over goals, and over all tasks.

    Args:
        folder: Its parent exists.
        evaluation: What was measured.
        scores: Its scores.

    Returns:
        The files, PNG and SVG; equal data give equal bytes.

    Raises:
        StorageError: A file cannot be written.
    """
    name = "evaluation" if evaluation.kind == "full" else f"evaluation_{evaluation.kind}"
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = evaluation_figure(evaluation, scores)
        return [save_figure(figure, folder / f"{name}.{kind}") for kind in KINDS]


def evaluation_figure(evaluation: Evaluation, scores: Scores) -> Figure:
    """Compose the figure without writing it."""
    labels = [task.task.removesuffix("-v3") for task in scores.tasks]
    height = 1.2 + 0.19 * (len(labels) + 2)
    figure = Figure(figsize=(5.6, height), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(labels))
    _bars(axes, places, [task.success for task in scores.tasks], COLOURS[0])
    overall = {"mean over tasks": scores.mean, "IQM over tasks": scores.iqm}
    overall = overall if len(labels) > 1 else {}
    below = len(labels) + 0.5 + np.arange(len(overall))
    _bars(axes, below, [*overall.values()], COLOURS[-1])
    if not evaluation.outcomes.cut_at_success:
        finals = [task.final_success for task in scores.tasks]
        axes.plot(
            *(finals, places, "d"), color=COLOURS[1], markersize=3.5, label="success at last step"
        )
    axes.set_yticks([*places, *below], [*labels, *overall])
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.0)
    axes.set_xlabel(f"success at any step ({evaluation.num_goals} goals per task, 95 % over goals)")
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    figure.suptitle(caption(evaluation), fontsize=6, color=QUIET)
    return figure


def _bars(axes: Axes, places: np.ndarray, found: list[Interval], colour: str) -> None:
    if not found:
        return
    rates = np.array([one.estimate for one in found])
    bounds = np.array([[one.low, one.high] for one in found])
    errors = np.abs(np.where(np.isnan(bounds), rates[:, None], bounds) - rates[:, None]).T
    style: Mapping[str, Any] = {"ecolor": "#404040", "elinewidth": 0.8, "capsize": 2}
    axes.barh(places, rates, height=0.7, color=colour, alpha=0.75, xerr=errors, error_kw=style)
