"""Several runs of one arm: success by task, by seed and over both, with honest intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.multitask.records import MUST_AGREE, RUN_SEED, Evaluation
from analysis.multitask.scores import NUM_RESAMPLES
from analysis.statistics import Interval, interval, stratified_interval

SEEDS_FOR_A_CLAIM = 10
SEEDS_FOR_A_TEST = 5


class UnlikeRuns(ValueError):
    """Evaluations that must not be averaged or compared."""


@dataclass(frozen=True)
class TaskOverSeeds:
    """One task of a study.

    Attributes:
        task: Its label.
        success: Mean over seeds of the rate at any step, with its interval over seeds.
        rates: (seeds,) rate of every run.
        final_success: Mean over seeds.
        episode_return: Mean over seeds, with its interval.
    """

    task: str
    success: Interval
    rates: tuple[float, ...]
    final_success: float
    episode_return: Interval


@dataclass(frozen=True)
class TaskStudy:
    """All runs of one arm.

    Attributes:
        tasks: One entry per task, in order.
        seeds: Of the runs, in the given order.
        mean_per_seed: (seeds,) mean over tasks of every run.
        mean: Mean over seeds and tasks; the interval resamples whole seeds. Printed beside the
            IQM, which can leave out the hard tasks altogether.
        iqm: Interquartile mean of the seeds x tasks matrix; the interval resamples whole seeds,
            because the tasks of a run share one network.
        iqm_by_task: The same estimate with the interval of published tables, which resamples the
            runs of every task by itself. It is too narrow where tasks of a run are correlated;
            for comparison with those tables only.
        final_success: Mean over seeds and tasks.
        episode_return: Mean over seeds and tasks, with its interval.
        num_goals: Episodes per task and run.
        manifest: What all runs have in common.
    """

    tasks: tuple[TaskOverSeeds, ...]
    seeds: tuple[int, ...]
    mean_per_seed: tuple[float, ...]
    mean: Interval
    iqm: Interval
    iqm_by_task: Interval
    final_success: float
    episode_return: Interval
    num_goals: int
    manifest: Mapping[str, Any]

    @property
    def strength(self) -> str:
        """How much the number of seeds allows to say."""
        n = len(self.seeds)
        if n < SEEDS_FOR_A_TEST:
            return f"{n} seeds: no claim"
        return f"{n} seeds" + ("" if n >= SEEDS_FOR_A_CLAIM else ": exploratory")


def study(
    evaluations: Sequence[Evaluation],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    allow_partial: bool = False,
) -> TaskStudy:
    """Put the runs of one arm together.

    Args:
        evaluations: One per seed; see `analysis.multitask.records.load_evaluations`.
        num_resamples: Bootstrap draws; 50,000 for headline tables.
        seed: Of the draws.
        allow_partial: Accept evaluations on fewer goals, all on the same ones.

    Raises:
        UnlikeRuns: See `check_alike`; or a seed occurs twice.

    Source: Agarwal et al. (2021), arXiv 2108.13264, for the interquartile mean.
    Deviation: whole seeds are resampled; the interval over independent tasks stands beside it.
    """
    check_alike(evaluations, allow_partial=allow_partial)
    seeds = tuple(int(found.about["seed"]) for found in evaluations)
    repeated = sorted({s for s in seeds if seeds.count(s) > 1})
    if repeated:
        raise UnlikeRuns(f"seed {repeated[0]} occurs twice; a study holds each seed of an arm once")
    rates = np.stack([found.outcomes.rates for found in evaluations])
    returns = np.stack([found.outcomes.episode_return.mean(axis=1) for found in evaluations])
    finals = np.stack([found.outcomes.final_success.mean(axis=1) for found in evaluations])
    first = evaluations[0]
    labels = first.labels
    draws: Any = (num_resamples, seed)
    return TaskStudy(
        tasks=tuple(
            TaskOverSeeds(
                label,
                interval(rates[:, index], "mean", *draws),
                tuple(rates[:, index].tolist()),
                float(finals[:, index].mean()),
                interval(returns[:, index], "mean", *draws),
            )
            for index, label in enumerate(labels)
        ),
        seeds=seeds,
        mean_per_seed=tuple(rates.mean(axis=1).tolist()),
        mean=interval(rates, "mean", *draws),
        iqm=interval(rates, "iqm", *draws),
        iqm_by_task=stratified_interval(dict(zip(labels, rates.T, strict=True)), "iqm", *draws),
        final_success=float(finals.mean()),
        episode_return=interval(returns, "mean", *draws),
        num_goals=first.num_goals,
        manifest={key: first.manifest[key] for key in MUST_AGREE},
    )


def check_alike(evaluations: Sequence[Evaluation], *, allow_partial: bool = False) -> None:
    """Refuse evaluations whose numbers mean different things.

    They must agree in task order, reward version, horizon, meaning of success, goal generator,
    number of goals, rule for the goal seed, back-end, goals visited and environment steps. Goals
    themselves may differ where every run draws its own, but equal goal seeds must have equal goals.

    Args:
        evaluations: Of one study, of all its arms.
        allow_partial: Accept evaluations on fewer goals than the runs train on.

    Raises:
        UnlikeRuns: One sentence that names the first difference and two runs.
    """
    if not evaluations:
        raise UnlikeRuns("there are no evaluations to put together")
    for found in evaluations:
        if found.kind == "quick" or (found.kind == "partial" and not allow_partial):
            raise UnlikeRuns(
                f"{_name(found)} is a {found.kind} evaluation ({found.num_goals} of "
                f"{found.manifest['num_goals']} goals per task), which does not belong in a result "
                "table; measure all goals with: python evaluate.py run"
            )
    rules: dict[str, Callable[[Evaluation], Any]] = {
        **{key: lambda found, key=key: found.manifest[key] for key in MUST_AGREE},
        "goals": lambda found: list(found.outcomes.goals),
        "env_steps": lambda found: found.about["env_steps"],
    }
    if evaluations[0].manifest["goal_policy"] != RUN_SEED:  # one list of goals for all
        rules["goal_sha256"] = lambda found: found.manifest["goal_sha256"]
    for key, value in rules.items():
        _agree(evaluations, key, value)
    by_seed: dict[Any, Evaluation] = {}
    for found in evaluations:
        other = by_seed.setdefault(found.manifest["goal_seed"], found)
        if other.manifest["goal_sha256"] != found.manifest["goal_sha256"]:
            raise UnlikeRuns(
                f"{_name(other)} and {_name(found)} have goal_seed="
                f"{found.manifest['goal_seed']} but different goals; one of them is not what its "
                "seed draws"
            )


def _agree(evaluations: Sequence[Evaluation], key: str, value: Callable[[Evaluation], Any]) -> None:
    first = evaluations[0]
    for other in evaluations[1:]:
        mine, theirs = value(first), value(other)
        if mine != theirs:
            raise UnlikeRuns(
                f"{_name(first)} and {_name(other)} cannot be put together: {key} is "
                f"{_short(mine)} in the one and {_short(theirs)} in the other"
            )


def _name(evaluation: Evaluation) -> str:
    return str(evaluation.about.get("run", "an evaluation"))


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
