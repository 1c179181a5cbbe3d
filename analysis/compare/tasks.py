"""Success on several tasks: by task and over all, with intervals over whole seeds."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from analysis.compare.quick_evaluations import quick_evaluations
from analysis.compare.study import Study
from analysis.continual.episodes import Array
from analysis.statistics import (
    Comparison,
    Interval,
    adjust,
    compare,
    interval,
    stratified_interval,
)

LAST_SHARE = 0.2
LEVELLED_OFF = 0.02


@dataclass
class TaskScores:
    """Success of one arm.

    Attributes:
        arm: Its name.
        n: Runs.
        tasks: One interval per task, mean over seeds.
        mean: Over seeds and tasks; whole seeds are resampled.
        iqm: Interquartile mean of the seeds x tasks matrix; whole seeds are resampled, because
            the tasks of a run share one network.
        iqm_by_task: The same with the interval of published tables, runs of every task resampled
            by themselves.
        final_success: Success at the last step, mean.
        comparison: Mean success against the baseline, paired by seeds.
        p_adjusted: Holm-adjusted sign-flip p-value; NaN for fresh copies, which are no methods.
        area: Mean success of the quick evaluations over the whole run, of the runs that have any
            and of failed ones; None without any.
        gain: Success gained over the last fifth of training; None without enough evaluations.
        is_followed: Whether any run has quick evaluations.
    """

    arm: str
    n: int
    tasks: tuple[Interval, ...]
    mean: Interval
    iqm: Interval
    iqm_by_task: Interval
    final_success: float
    comparison: Comparison | None = None
    p_adjusted: float = math.nan
    area: Interval | None = None
    gain: Interval | None = None
    is_followed: bool = False

    @property
    def learning(self) -> str:
        """What the arm was doing when it was stopped, for a table."""
        if self.gain is None:
            few = "fewer than two quick evaluations in the last fifth"
            return f"unknown: {few if self.is_followed else 'no quick evaluations'}"
        return f"{self.trend} ({100 * self.gain.estimate:+.1f} points)"

    @property
    def trend(self) -> str:
        """`still learning`, `level`, `falling`, or `unknown` without evaluations."""
        if self.gain is None:
            return "unknown"
        if self.gain.estimate >= LEVELLED_OFF:
            return "still learning"
        return "falling" if self.gain.estimate <= -LEVELLED_OFF else "level"


def last_gain(steps: Array, success: Array, end: float) -> float:
    """Success gained over the last fifth of training.

    Args:
        steps: (evaluations,) environment steps.
        success: (evaluations,).
        end: Environment steps of the run.

    Returns:
        Slope of the least-squares line through the evaluations of the last fifth, times its
        length, which uses all of them; NaN with fewer than two.
    """
    late = (steps >= (1.0 - LAST_SHARE) * end - 0.5) & (steps <= end)
    x, y = steps[late], success[late]
    offsets = x - x.mean() if len(x) else x
    spread = float(offsets @ offsets)
    return float(offsets @ y) / spread * LAST_SHARE * end if spread > 0.0 else math.nan


def area_under_curve(steps: Array, success: Array, end: float) -> float:
    """Mean success over time by the trapezoid rule; NaN with fewer than two evaluations.

    Values before the first and after the last evaluation are those of the nearest one.
    """
    if len(steps) < 2:
        return math.nan
    x = np.concatenate([[0.0], steps, [end]])
    y = np.concatenate([success[:1], success, success[-1:]])
    return float(np.trapezoid(y, x) / end)


def task_scores(study: Study) -> tuple[TaskScores, ...]:
    """Success of all arms; empty where runs have no evaluation of tasks, or only some have."""
    labels = study.about.get("tasks") or []
    if not labels or study.about.get("not_evaluated"):
        return ()
    means: dict[str, dict[Hashable, float]] = {}
    found = []
    for facts in study.arms:
        rates = study.matrix(facts.name, "task/success")
        if not np.isfinite(rates).all() or rates.shape[1] != len(labels):
            return ()
        means[facts.name] = dict(zip(study.runs[facts.name], rates.mean(axis=1), strict=True))
        area, gain = _learning(study, facts.name)
        found.append(
            TaskScores(
                facts.name,
                len(rates),
                tuple(interval(rates[:, place], "mean") for place in range(len(labels))),
                interval(rates, "mean"),
                interval(rates, "iqm"),
                stratified_interval(dict(zip(labels, rates.T, strict=True)), "iqm"),
                float(study.matrix(facts.name, "task/final_success").mean()),
                area=area,
                gain=gain,
                is_followed=any(
                    "quick/success" in r.values for r in study.runs[facts.name].values()
                ),
            )
        )
    _compare(study, found, means)
    return tuple(found)


def _learning(study: Study, arm: str) -> tuple[Interval | None, Interval | None]:
    """Area under the curve, and gain over the last fifth, which failed runs have not reached.

    A failed run succeeds no more from its failure on, as in the table of tasks.
    """
    end, areas, gains = float(study.about["end"]), [], []
    for run in study.runs[arm].values():
        found = quick_evaluations(run)
        if run.status == "failed":
            lived, share = math.nan, run.env_steps / end
            if found is not None and share > 0.0:
                lived = area_under_curve(*found, float(run.env_steps))
            areas.append(0.0 if math.isnan(lived) else share * lived)
        elif found is not None:
            areas.append(area_under_curve(*found, end))
            gains.append(last_gain(*found, end))
    if not gains:  # no run says when it succeeded
        return None, None
    area, gain = (
        interval(column, "mean") if np.isfinite(column).all() else None
        for column in (np.array(areas), np.array(gains))
    )
    return area, gain


def supported(claim: str, arm: TaskScores, baseline: TaskScores) -> str:
    """What a comparison of two arms supports: no claim while one of them is still learning.

    Args:
        claim: What the number of seeds supports, see `Comparison.claim`.
        arm: Success of the arm.
        baseline: Success of the arm that it is compared with.
    """
    if claim != "claim":
        return claim
    trends = {arm.trend, baseline.trend}
    if "still learning" in trends:
        return "still learning"
    return "still learning or not: unknown" if "unknown" in trends else claim


def _compare(
    study: Study, found: list[TaskScores], means: Mapping[str, Mapping[Hashable, float]]
) -> None:
    base = means[study.baseline]
    tested = [s for s in found if s.arm != study.baseline and set(means[s.arm]) == set(base)]
    for scores in tested:
        scores.comparison = compare(means[scores.arm], base, "mean")
    copies = {facts.name for facts in study.arms if facts.fresh_of is not None}
    methods = [s for s in tested if s.arm not in copies]
    if methods:
        p_values = adjust([s.comparison for s in methods if s.comparison is not None])
        for scores, p_value in zip(methods, p_values, strict=True):
            scores.p_adjusted = float(p_value)
