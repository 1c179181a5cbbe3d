"""Tables that only some comparisons have: success on tasks, diagnostics against outcomes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.compare.arm_scores import Scores
from analysis.compare.cells import DASH, Table, number_text
from analysis.compare.correlations import RUNS_FOR_A_CLAIM, Correlation
from analysis.compare.study import Study, csv_bytes
from analysis.compare.tables import interval_text, p_text
from analysis.compare.tasks import TaskScores
from analysis.statistics import Interval


def tasks_table(study: Study, scores: Scores) -> Table:
    """Success by task and over tasks, in per cent: one column per arm."""
    arms = scores.tasks
    rows = [
        (str(label), *(_percent(arm.tasks[place]) for arm in arms))
        for place, label in enumerate(study.about["tasks"])
    ]
    rows.append(("mean over tasks", *(_percent(arm.mean) for arm in arms)))
    rows.append(("IQM, whole seeds", *(_percent(arm.iqm) for arm in arms)))
    rows.append(("IQM, tasks resampled apart", *(_percent(arm.iqm_by_task) for arm in arms)))
    finals = (number_text(100.0 * arm.final_success) for arm in arms)
    rows.append(("success at the last step", *finals))
    if scores.is_ranked:
        rows.append((f"difference to {study.baseline}", *(_difference(arm) for arm in arms)))
        rows.append(("p (Holm)", *(p_text(arm.p_adjusted) for arm in arms)))
    rows.append(("area under the curve", *(_area(arm) for arm in arms)))
    rows.append(("last fifth of training", *(arm.learning for arm in arms)))
    facts = study.about["task_facts"]
    return Table(
        "Success on tasks",
        ("task", *(f"{arm.arm} (n = {arm.n})" for arm in arms)),
        tuple(rows),
        f"Success in per cent [95 %]: {facts['success']}, {facts['num_goals']} goals per task, "
        f"horizon {facts['horizon']}, reward {facts['reward_version']}, back-end "
        f"{facts['backend']}; mean over seeds, final checkpoint. Intervals resample whole seeds, "
        "because the tasks of a run share one network; the one with tasks apart is that of "
        "published tables and too narrow. The interquartile mean can leave out the hard tasks. "
        "Differences are of the mean over tasks, paired by seeds. Area: mean success of the "
        "quick evaluations over training, none from a failure on. An arm that gained 2 points or "
        "more over the last fifth of training (least-squares line) is still learning: its end says "
        "little about its limit, and nothing is claimed from it. One that lost 2 points or more is "
        "falling.",
    )


def still_learning(arms: Sequence[TaskScores]) -> list[str]:
    """Arms that no verdict should be passed on yet."""
    return [arm.arm for arm in arms if arm.trend == "still learning"]


def _percent(found: Interval | None) -> str:
    return interval_text(found, 100.0)


def _area(arm: TaskScores) -> str:
    """With the number of runs where some were not evaluated in training."""
    few = arm.area is not None and arm.area.n < arm.n
    return _percent(arm.area) + (f" (n = {arm.area.n})" if few and arm.area else "")


def _difference(arm: TaskScores) -> str:
    return DASH if arm.comparison is None else _percent(arm.comparison.difference)


def tasks_csv(study: Study, scores: Scores) -> bytes:
    """Every number of the table of tasks, unrounded: arm, quantity, estimate, low, high, n."""
    rows: list[tuple[object, ...]] = []
    for arm in scores.tasks:
        named: list[tuple[str, Interval | None]] = list(
            zip(map(str, study.about["tasks"]), arm.tasks, strict=True)
        )
        named += [("mean", arm.mean), ("iqm", arm.iqm), ("iqm_by_task", arm.iqm_by_task)]
        named += [("area_under_curve", arm.area), ("gain_last_fifth", arm.gain)]
        single = [("final_success", arm.final_success)]
        if scores.is_ranked and arm.comparison is not None:
            named.append(("difference", arm.comparison.difference))
            single += [("p", arm.comparison.p_value), ("p_holm", arm.p_adjusted)]
        for name, found in named:
            bounds = (math.nan,) * 3 if found is None else (found.estimate, found.low, found.high)
            rows.append((arm.arm, name, *map(float, bounds), 0 if found is None else found.n))
        rows += [(arm.arm, name, value, math.nan, math.nan, arm.n) for name, value in single]
    return csv_bytes(("arm", "quantity", "estimate", "low", "high", "n"), rows)


def _evidence(one: Correlation) -> str:
    few = "exploratory" if one.rho.n < RUNS_FOR_A_CLAIM else "no"
    return "yes" if one.is_evidence else few


def correlation_table(found: Sequence[Correlation]) -> Table:
    """Which diagnostics may be used as evidence."""
    rows = tuple(
        (
            one.metric,
            interval_text(one.rho),
            str(one.rho.n),
            f"{one.num_pairs:,}",
            _evidence(one),
        )
        for one in found
    )
    return Table(
        "Diagnostics before a switch and plasticity after it",
        ("diagnostic of the policy", "Spearman's rho [95 %]", "runs", "pairs", "evidence"),
        rows,
        "Last value before each switch against the plasticity index of the regime that follows, "
        "over all runs but fresh copies, each less its regime's mean over runs (difficulty); whole "
        "runs are resampled. A diagnostic whose interval contains 0 may be plotted, not used as "
        f"evidence; nor may any below {RUNS_FOR_A_CLAIM} runs, whose intervals are too narrow. Of "
        "many unrelated diagnostics one in twenty is expected to be called evidence.",
    )
