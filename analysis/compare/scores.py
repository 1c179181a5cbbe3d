"""Statistics of a comparison: one row per arm, with intervals over whole runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from analysis.compare.arm_scores import ArmScores, Scores
from analysis.compare.correlations import Correlation, before_switches, correlations
from analysis.compare.cut_regimes import cut_note, whole_only, without_cut
from analysis.compare.ends import END_METRICS, EndValue
from analysis.compare.study import (
    BEGUN_TRAINED,
    UNKNOWN_RECOVERY,
    VERIFIED,
    ArmFacts,
    Key,
    Study,
)
from analysis.compare.switches import mean_over_runs, switches
from analysis.compare.tasks import task_scores
from analysis.compare.yardsticks import (
    UNKNOWN_UNTRAINED,
    FreshGrid,
    FreshRuns,
    Yardstick,
    lost_thresholds,
    oracle_table,
    tables_of,
    untrained_return,
)
from analysis.continual import (
    Verdict,
    failure_report,
    late_means,
    retention_index,
    score_failures,
    slopes,
)
from analysis.continual.episodes import TRAILING_EPISODES, Array
from analysis.continual.plasticity_index import Summary
from analysis.statistics import (
    Interval,
    adjust,
    compare,
    interval,
    mean_of_present,
)

# Environments whose tests show that a switch changes the simulated physics or the task.
VERIFIED_SWITCHING = frozenset({"locomotion"})


class _Scorer:
    def __init__(self, study: Study) -> None:
        self.study, self.notes = study, []
        self.is_stationary = bool(study.about.get("stationary"))
        names = [arm.name for arm in study.arms]
        self.untrained = untrained_return(study)
        if math.isnan(self.untrained) and study.about.get(BEGUN_TRAINED):
            self.notes.append(UNKNOWN_UNTRAINED)
        self.lifetimes = {name: self._filled(name, "lifetime", "completed")[:, 0] for name in names}
        self.notes += [*cut_note(study), *_flattered(study, self.lifetimes, self.untrained)]
        self.areas = {name: self._regimes(name, "area", "completed") for name in names}
        self.phases = {
            name: self._regimes(name, "end_of_phase", "phase_completed") for name in names
        }
        known = tables_of(study)
        self.tables = {name: known[name] for name in known if known[name].grid.is_accepted}
        self.oracle = self._find_oracle()
        self.recovery_regimes: dict[str, tuple[Interval, ...]] = {}

    def _filled(self, arm: str, quantity: str, shares: str) -> Array:
        study = self.study
        return score_failures(
            study.matrix(arm, quantity), study.matrix(arm, shares), self.untrained
        )

    def _regimes(self, arm: str, quantity: str, shares: str) -> Array:
        """(runs, regimes); a regime that the comparison cuts short has no score."""
        found = self._filled(arm, f"regime/{quantity}", f"regime/{shares}")
        return without_cut(self.study, found)

    def attempt(
        self, what: str, function: Callable[..., Any], *arguments: Any, **named: Any
    ) -> Any:
        """Result, or None with a note: a number that cannot be computed is not a number."""
        try:
            return function(*arguments, **named)
        except ValueError as error:
            self.notes.append(f"{what}: {' '.join(str(error).split())}")
            return None

    def by_key(self, arm: str, values: Array) -> dict[Key, Any]:
        return dict(zip(self.study.runs[arm], values, strict=True))

    def arm(self, facts: ArmFacts) -> ArmScores:
        name, runs = facts.name, self.study.runs[facts.name].values()
        failed = np.array([run.status == "failed" for run in runs])
        scores = ArmScores(facts, len(failed), int(failed.sum()))
        values = self.lifetimes[name]
        scores.lifetime = self.attempt(f"{name}, lifetime", failure_report, values, failed)
        if scores.lifetime is not None:
            scores.mean = interval(values, "mean")
            self._compare(scores)
        self._note_missing(name)
        late = late_means(whole_only(self.study, self.phases[name]))
        scores.late = self.attempt(f"{name}, end of phase", interval, late, "mean")
        trend = slopes(self.areas[name])
        if self.areas[name].shape[1] > 1:
            scores.area_slope = self.attempt(f"{name}, slope", interval, trend, "mean")
        self._recovery(scores)
        self._switches(scores)
        self._indices(scores)
        if self.is_stationary and not self.study.about.get("may_change"):
            self._retention(scores)
        for metric in END_METRICS:
            scores.ends[metric] = EndValue.of(_last(self.study, name, f"end/{metric}"))
        scores.gradient_steps = mean_of_present([run.gradient_steps for run in runs]).mean
        scores.overhead = self._speed(self.study.baseline) / self._speed(name) - 1.0
        scores.parameters = self._largest(name, "cost/parameters")
        scores.peak_memory_mib = self._largest(name, "cost/peak_memory_mib")
        return scores

    def _note_missing(self, name: str) -> None:
        """Means over regimes leave out what is missing; say how much that is."""
        kinds = {"area": self.areas[name], "end of phase": self.phases[name]}
        for what, values in (
            (what, whole_only(self.study, values)) for what, values in kinds.items()
        ):
            missing = mean_of_present(values).num_missing
            if missing:
                self.notes.append(
                    f"{name}, {what}: {missing} of {values.size} regimes of its runs have no "
                    "complete episode there and are left out"
                )

    def _compare(self, scores: ArmScores) -> None:
        name, base = scores.facts.name, self.study.baseline
        if name == base:
            return
        left = self.by_key(name, self.lifetimes[name])
        right = self.by_key(base, self.lifetimes[base])
        if scores.facts.fresh_of is not None:  # may have been run on more seeds than needed
            left = {key: value for key, value in left.items() if key in right}
        scores.comparison = self.attempt(f"{name}, difference", compare, left, right)

    def _recovery(self, scores: ArmScores) -> None:
        """A switch without recovery counts as the whole regime; per run first, then over runs."""
        if self.study.about["windows"]:  # nothing to recover from begins with a window
            return
        name, oracle = scores.facts.name, self.oracle
        times = whole_only(self.study, self.study.matrix(name, "regime/recovery"))[:, 1:]
        if isinstance(oracle, FreshGrid):  # older data have times of regimes cut short
            times = np.where(oracle.is_whole(name)[1 : times.shape[1] + 1], times, math.nan)
        unknown = whole_only(self.study, self.study.matrix(name, UNKNOWN_RECOVERY))
        num_unknown = int(np.nansum(unknown[:, 1:]))
        if num_unknown:
            self.notes.append(
                f"{name}, recovery: {num_unknown} of {times.size} switches of its runs are "
                f"followed by fewer than {TRAILING_EPISODES} complete episodes, so that nobody "
                "knows whether it recovered; they are left out"
            )
        self.notes += lost_thresholds(self.study, name, times)
        known = times[~np.isnan(times).all(axis=1)]
        if not known.size:
            return
        scores.share_recovered = float((known[~np.isnan(known)] <= 1.0).mean())
        if isinstance(oracle, FreshGrid):
            if self.study.has_recovery_records:
                found = oracle.recovery(name)
                scores.recovery, self.recovery_regimes[name] = found.overall, found.regimes
                return
            self.notes.append(
                "intervals of recovery take its thresholds for exact: these data are older than "
                "the records that resampling the seeds of the oracle needs; compare the runs again"
            )
        limited = np.minimum(known, 1.0)
        present = ~np.isnan(limited)
        per_run = np.where(present, limited, 0.0).sum(axis=1) / present.sum(axis=1)
        scores.recovery = interval(per_run, "mean")

    def _switches(self, scores: ArmScores) -> None:
        """What a change of the world costs at once, and what an earlier visit is worth later."""
        if self.study.about["windows"]:
            return
        found = switches(self.study, scores.facts.name, self.areas[scores.facts.name])
        scores.drop = mean_over_runs(found.drops)
        scores.relearning = mean_over_runs(found.relearning)
        scores.zero_shot_revisit = mean_over_runs(found.zero_shot)

    def _indices(self, scores: ArmScores) -> None:
        if self.is_stationary:
            return
        oracle, name = self.oracle, scores.facts.name
        if oracle is not None and scores.facts.fresh_of is None:
            scores.index = self._index(name, oracle, "plasticity index")
            if isinstance(oracle, FreshRuns):
                self.notes += oracle.failed_partners(name)
            found = self.attempt(f"{name}, plasticity index", oracle.index, name)
            scores.num_undefined = _undefined(found)
        if name in self.tables:
            own: Yardstick = FreshGrid(self.study, self.tables[name], self.areas)
            self._self_index(scores, own)
            return
        for copy in self.study.arms:
            if copy.fresh_of == name:
                self._self_index(scores, self._fresh_runs(copy.name))

    def _self_index(self, scores: ArmScores, own: Yardstick) -> None:
        name = scores.facts.name
        if isinstance(own, FreshRuns):
            self.notes += own.failed_partners(name)
        scores.self_index = self._index(name, own, "index against itself")
        found = self.attempt(f"{name}, index against itself", own.index, name)
        scores.num_undefined_self = _undefined(found)

    def _fresh_runs(self, copy: str) -> FreshRuns:
        return FreshRuns(self.study, copy, self.areas, self.untrained)

    def _find_oracle(self) -> Yardstick | None:
        """A table of the baseline or of `standard` before networks trained beside every seed.

        None where nothing ever changes: a copy that is never made anew is no oracle.
        """
        if self.is_stationary:
            return None
        table = oracle_table(self.tables, self.study.baseline)
        if table is not None:
            return FreshGrid(self.study, table, self.areas)
        copy = self.study.about["oracle"]
        return None if copy is None else self._fresh_runs(str(copy))

    def _retention(self, scores: ArmScores) -> None:
        """How much of its best return an arm keeps where nothing ever changes."""
        if math.isnan(self.untrained):  # nothing to measure from; a note says so
            return
        name = scores.facts.name
        index = retention_index(self.areas[name], self.untrained)
        for summary, function in (("late_mean", late_means), ("slope", slopes)):
            scores.retention[summary] = self.attempt(
                f"{name}, retention index, {summary}", interval, function(index), "mean"
            )

    def correlations(self) -> tuple[Correlation, ...]:
        """Of all arms but fresh copies together."""
        oracle = self.oracle
        names = [arm.name for arm in self.study.arms if arm.fresh_of is None]
        if oracle is None or self.study.about["windows"]:
            return ()
        outcomes = [self.attempt("correlations", oracle.index, name) for name in names]
        if any(found is None for found in outcomes):
            return ()
        return correlations(before_switches(self.study, names), np.concatenate(outcomes))

    def _index(self, name: str, fresh: Yardstick, what: str) -> dict[str, Interval | None]:
        """Late mean and slope."""
        summaries: tuple[Summary, ...] = ("late_mean", "slope")
        return {
            summary: self.attempt(f"{name}, {what}, {summary}", fresh.summary, name, summary)
            for summary in summaries
        }

    def _largest(self, arm: str, quantity: str) -> float:
        known = self.study.matrix(arm, quantity)
        known = known[~np.isnan(known)]
        return float(known.max()) if known.size else math.nan

    def _speed(self, arm: str) -> float:
        speeds = [run.steps_per_second for run in self.study.runs[arm].values()]
        known = [speed for speed in speeds if not math.isnan(speed)]
        return float(np.median(known)) if known else math.nan

    def verdict(self) -> Verdict | None:
        about = self.study.about
        if self.oracle is None:
            return None
        ours = about["env_kind"] in VERIFIED_SWITCHING and bool(about["values_change"])
        verified = ours or VERIFIED in about
        return self.attempt("validity gate", self.oracle.verdict, self.study.baseline, verified)


def _flattered(study: Study, lifetimes: Mapping[str, Array], untrained: float) -> list[str]:
    """One sentence, or none, about failures that earn more than runs which are still learning."""
    failed = {
        name: np.array([run.status == "failed" for run in runs.values()])
        for name, runs in study.runs.items()
    }
    if math.isnan(untrained) or not any(flags.any() for flags in failed.values()):
        return []
    living = {n: mean_of_present(v[~failed[n]]).mean for n, v in lifetimes.items()}
    below = {name: mean for name, mean in living.items() if mean < untrained}
    if not below:
        return []
    name = min(below, key=below.__getitem__)
    return [
        f"failed runs earn the untrained policy's return of {untrained:,.0f} from their failure "
        f"on, which is more than runs that live earned here ({name}: {below[name]:,.0f}): "
        "differences and ranks of arms with failures are no merit of theirs; train longer"
    ]


def _undefined(index: Array | None) -> int:
    return 0 if index is None else int(np.isnan(index).sum())


def _last(study: Study, arm: str, quantity: str) -> Array:
    matrix = study.matrix(arm, quantity)
    return matrix[:, -1] if matrix.shape[1] else np.full(len(matrix), math.nan)


def score(study: Study) -> Scores:
    """Compute all numbers of the tables.

    A benchmark that the validity gate refuses for more than too few seeds ranks no methods:
    there are no differences, tests and probabilities of improvement then.
    """
    scorer = _Scorer(study)
    arms = tuple(scorer.arm(facts) for facts in study.arms)
    verdict = scorer.verdict()
    is_ranked = verdict is None or verdict.accepted or verdict.lacks_seeds_only
    tested = [a for a in arms if a.comparison is not None and a.facts.fresh_of is None]
    if not is_ranked:
        for arm in arms:
            arm.comparison = None
    elif tested:
        p_values = adjust([a.comparison for a in tested if a.comparison is not None])
        for arm, p_value in zip(tested, p_values, strict=True):
            arm.p_adjusted = float(p_value)
    found = scorer.correlations()
    names = [arm.name for arm in study.arms]
    return Scores(
        arms,
        verdict,
        tuple(dict.fromkeys(scorer.notes)),
        scorer.untrained,
        scorer.lifetimes,
        scorer.areas,
        scorer.phases,
        {name: without_cut(study, study.matrix(name, "regime/recovery")) for name in names},
        scorer.recovery_regimes,
        task_scores(study),
        found,
        is_ranked,
        None if scorer.oracle is None else scorer.oracle.name,
    )
