"""Transfer and forgetting over sequences of tasks; separate from plasticity, never mixed into it.

R[k, i] is the success rate of task i at evaluation k. Stage j trains task j and holds m
evaluations, the last of them at its last step. L_i(k) is the mean of R[:, i] over the last
`window` evaluations up to k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.continual.episodes import Array
from analysis.statistics import Interval, bootstrap_indices, percentile_interval, run_matrix

PERFECT = 1.0 - 1e-6
MAX_WINDOW = 5


def default_window(evaluations_per_stage: int) -> int:
    """Evaluations that the end of a stage is averaged over."""
    return min(MAX_WINDOW, evaluations_per_stage)


@dataclass(frozen=True)
class SequenceScores:
    """Scores of one run over a sequence of tasks.

    Attributes:
        performance: Mean over tasks at the end of the sequence, that is over the last window.
        forgetting: (tasks,) success at the end of a task's stage minus at the end, likewise.
        mean_forgetting: Mean over all tasks; the last one contributes 0.
        backward_transfer: Minus the mean over all tasks but the last; NaN for a single task.
        areas: (tasks,) mean success of a task over the evaluations of its own stage.
    """

    performance: float
    forgetting: Array
    mean_forgetting: float
    backward_transfer: float
    areas: Array


def sequence_scores(
    success: ArrayLike, evaluations_per_stage: int, window: int | None = None
) -> SequenceScores:
    """Performance, forgetting, backward transfer and areas of one run.

    Args:
        success: (tasks * evaluations_per_stage, tasks) success rates.
        evaluations_per_stage: m.
        window: Evaluations averaged; by default min(5, m).

    Raises:
        ValueError: A matrix of another shape, missing entries, or a window outside 1 to m.

    Source: Wolczyk et al. (2021), Continual World, arXiv 2105.10919, section 4.
    """
    matrix = run_matrix(success, "success")
    num_tasks = matrix.shape[1]
    if matrix.shape[0] != num_tasks * evaluations_per_stage:
        raise ValueError(
            f"success has shape {matrix.shape}; {num_tasks} tasks with {evaluations_per_stage} "
            f"evaluations per stage need {num_tasks * evaluations_per_stage} rows"
        )
    width = default_window(evaluations_per_stage) if window is None else window
    if not 1 <= width <= evaluations_per_stage:
        raise ValueError(f"window is {width}; choose 1 to {evaluations_per_stage} evaluations")
    stages = matrix.reshape(num_tasks, evaluations_per_stage, num_tasks)
    recent = stages[:, -width:, :].mean(axis=1)  # L_i at the end of every stage
    forgetting = recent.diagonal() - recent[-1]
    return SequenceScores(
        performance=float(recent[-1].mean()),
        forgetting=forgetting,
        mean_forgetting=float(forgetting.mean()),
        backward_transfer=0.0 - float(forgetting[:-1].mean()) if num_tasks > 1 else math.nan,
        areas=stages.mean(axis=1).diagonal().copy(),
    )


@dataclass(frozen=True)
class ForwardTransfer:
    """Forward transfer per task.

    Attributes:
        values: (tasks,); NaN where the baseline is already perfect.
        mean: Over the defined tasks.
        num_undefined: Tasks left out of the mean.
    """

    values: Array
    mean: float
    num_undefined: int


def forward_transfer(areas: ArrayLike, baseline_areas: ArrayLike) -> ForwardTransfer:
    """FT_i = (AUC_i - AUC_i^b) / (1 - AUC_i^b), areas averaged over seeds before the ratio.

    Args:
        areas: (tasks,) or (seeds, tasks) area of each task in the sequence.
        baseline_areas: The same from single-task runs from scratch; other seeds are allowed.

    Raises:
        ValueError: Different numbers of tasks, or missing areas.
    """
    mine = _seeds_by_tasks(areas, "areas").mean(axis=0)
    theirs = _seeds_by_tasks(baseline_areas, "baseline_areas").mean(axis=0)
    if mine.shape != theirs.shape:
        raise ValueError(f"{mine.size} tasks against {theirs.size} of the baseline")
    defined = theirs <= PERFECT
    values = np.where(defined, mine - theirs, math.nan) / np.where(defined, 1.0 - theirs, 1.0)
    mean = float(values[defined].mean()) if defined.any() else math.nan
    return ForwardTransfer(values, mean, int((~defined).sum()))


def _seeds_by_tasks(areas: ArrayLike, name: str) -> Array:
    return run_matrix(np.atleast_2d(np.asarray(areas, dtype=np.float64)), name)


def forward_transfer_interval(
    areas: ArrayLike,
    baseline_areas: ArrayLike,
    num_resamples: int = 4_000,
    seed: int = 0,
    confidence: float = 0.90,
) -> Interval:
    """Interval of the mean forward transfer; both sides' seeds are resampled independently.

    A task whose baseline seeds are all perfect in a draw leaves no room to transfer and is left out
    of that draw, as it is left out of the estimate; a draw without any task is left out whole.

    Args:
        areas: (seeds, tasks).
        baseline_areas: (baseline seeds, tasks).
        num_resamples: Draws.
        seed: Of the draws.
        confidence: 90 % as in the published tables.

    Raises:
        ValueError: No task has a defined transfer.
    """
    found = forward_transfer(areas, baseline_areas)
    defined = ~np.isnan(found.values)
    if not defined.any():
        raise ValueError("the baseline is perfect on every task; forward transfer is undefined")
    mine = _seeds_by_tasks(areas, "areas")[:, defined]
    theirs = _seeds_by_tasks(baseline_areas, "baseline_areas")[:, defined]
    rng = np.random.default_rng(seed)
    left = mine[bootstrap_indices(len(mine), num_resamples, rng)].mean(axis=1)
    right = theirs[bootstrap_indices(len(theirs), num_resamples, rng)].mean(axis=1)
    room = right <= PERFECT
    ratios = np.where(room, left - right, 0.0) / np.where(room, 1.0 - right, 1.0)
    counts = room.sum(axis=1)
    draws = ratios.sum(axis=1)[counts > 0] / counts[counts > 0]
    draws = draws if len(draws) else np.array([math.nan])
    return percentile_interval(found.mean, draws, min(len(mine), len(theirs)), confidence)
