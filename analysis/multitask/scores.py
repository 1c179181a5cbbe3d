"""What one evaluation amounts to, by task and over tasks, with intervals over its goals.

All goals of the list were visited, so the rates themselves are exact. The intervals say what other
goals of the same distribution might have given; they say nothing about other seeds of training,
for which see `analysis.multitask.study`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import trim_mean

from analysis.multitask.records import Evaluation
from analysis.statistics import (
    Interval,
    bootstrap_indices,
    interval,
    iqm,
    percentile_interval,
    stratified_interval,
    wilson_interval,
)

NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class TaskScore:
    """One task.

    Attributes:
        task: Its label.
        solved: Goals with success at any step.
        num_goals: Goals visited.
        success: solved / num_goals with its Wilson interval.
        final_success: Share of goals with success at the last step; NaN if episodes were cut.
        median_first_step: Over the solved goals, NaN without one.
        episode_return: Mean with its bootstrap interval; NaN if episodes were cut.
        unstable: Episodes in which the simulation blew up.
    """

    task: str
    solved: int
    num_goals: int
    success: Interval
    final_success: float
    median_first_step: float
    episode_return: Interval
    unstable: int


@dataclass(frozen=True)
class Scores:
    """One evaluation.

    Attributes:
        tasks: One score per task, in order.
        mean: Success, mean over tasks; its interval resamples goals within every task.
        iqm: Interquartile mean of the tasks' success rates, likewise. It leaves out the hardest
            and the easiest quarter of the tasks.
        final_success: Mean over tasks; NaN if episodes were cut.
        episode_return: Mean over tasks; NaN if episodes were cut.
    """

    tasks: tuple[TaskScore, ...]
    mean: Interval
    iqm: Interval
    final_success: float
    episode_return: Interval

    def plain(self) -> dict[str, Any]:
        """As nested plain values."""
        return asdict(self)


def score(evaluation: Evaluation, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Scores:
    """Score one evaluation.

    Args:
        evaluation: What happened.
        num_resamples: Bootstrap draws.
        seed: Of the draws.
    """
    outcomes, labels = evaluation.outcomes, evaluation.labels
    success = outcomes.success.astype(np.float64)
    strata = dict(zip(labels, success, strict=True))
    returns = dict(zip(labels, outcomes.episode_return, strict=True))
    cut, n = outcomes.cut_at_success, evaluation.num_goals
    unknown = Interval(math.nan, math.nan, math.nan, n)
    return Scores(
        tuple(_task_score(evaluation, i, num_resamples, seed) for i in range(len(labels))),
        stratified_interval(strata, "mean", num_resamples, seed),
        goal_iqm(success, num_resamples, seed),
        math.nan if cut else float(outcomes.final_success.mean()),
        unknown if cut else stratified_interval(returns, "mean", num_resamples, seed),
    )


def _task_score(evaluation: Evaluation, index: int, num_resamples: int, seed: int) -> TaskScore:
    outcomes, n = evaluation.outcomes, evaluation.num_goals
    success, cut = outcomes.success[index], outcomes.cut_at_success
    first = outcomes.first_success_step[index][success]
    returns = outcomes.episode_return[index]
    return TaskScore(
        evaluation.labels[index],
        int(success.sum()),
        n,
        wilson_interval(int(success.sum()), n),
        math.nan if cut else float(outcomes.final_success[index].mean()),
        float(np.median(first)) if len(first) else math.nan,
        Interval(math.nan, math.nan, math.nan, n)
        if cut
        else interval(returns, "mean", num_resamples, seed),
        int(outcomes.unstable[index].sum()),
    )


def goal_iqm(success: np.ndarray, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Interval:
    """Interquartile mean of the tasks' rates; the interval resamples goals within every task.

    Args:
        success: (tasks, goals) zeros and ones.
        num_resamples: Bootstrap draws.
        seed: Of the draws.
    """
    num_tasks, num_goals = success.shape
    rng = np.random.default_rng(seed)
    draws = np.empty((num_resamples, num_tasks))
    for index in range(num_tasks):
        picked = bootstrap_indices(num_goals, num_resamples, rng)
        draws[:, index] = success[index][picked].mean(axis=1)
    estimate = iqm(success.mean(axis=1))
    return percentile_interval(estimate, np.asarray(trim_mean(draws, 0.25, axis=1)), num_goals)
