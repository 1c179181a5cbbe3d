"""What a comparison knows about its arms once all statistics are done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from analysis.compare.correlations import Correlation
from analysis.compare.ends import EndValue
from analysis.compare.study import ArmFacts
from analysis.compare.tasks import TaskScores
from analysis.continual import FailureReport, Verdict
from analysis.continual.episodes import Array
from analysis.statistics import Comparison, Interval


@dataclass
class ArmScores:
    """Numbers of one arm; None where they cannot be computed, with a note that says why.

    Attributes:
        facts: What the arm is.
        n: Runs.
        num_failed: Runs that failed, at the untrained policy's return from then on.
        lifetime: IQM of the lifetime average return, with and without failed runs.
        mean: Plain mean of it.
        comparison: Against the baseline, paired by seeds.
        p_adjusted: Holm-adjusted sign-flip p-value.
        late: End-of-phase return over the last third of the regimes.
        area_slope: Slope of the area per regime over regimes.
        recovery: Restricted mean recovery time as a share of the regime.
        share_recovered: Share of switches after which the threshold was reached.
        index: Summary -> plasticity index against the fresh network.
        self_index: Summary -> the same against a fresh copy of the arm itself.
        num_undefined: Regimes of its runs without an index: learning hardly pays there, or they
            are cut short.
        num_undefined_self: The same for the index against a fresh copy of the arm itself.
        drop: Return that a switch costs: the trailing return there less its least value over the
            next quarter of the regime, mean over switches.
        relearning: Where worlds return: area of a later visit less that of the first.
        zero_shot_revisit: Return of the first 20 episodes of later visits.
        retention: Summary -> retention index, where nothing ever changes.
        ends: Diagnostic -> its value at the end of the runs.
        gradient_steps: Mean over runs.
        overhead: Baseline speed over the arm's, minus 1.
        parameters: Largest number over runs, NaN where no run says.
        peak_memory_mib: The same of the largest resident sets.
    """

    facts: ArmFacts
    n: int
    num_failed: int
    lifetime: FailureReport | None = None
    mean: Interval | None = None
    comparison: Comparison | None = None
    p_adjusted: float = math.nan
    late: Interval | None = None
    area_slope: Interval | None = None
    recovery: Interval | None = None
    share_recovered: float = math.nan
    drop: Interval | None = None
    relearning: Interval | None = None
    zero_shot_revisit: Interval | None = None
    index: dict[str, Interval | None] = field(default_factory=dict)
    self_index: dict[str, Interval | None] = field(default_factory=dict)
    num_undefined: int = 0
    num_undefined_self: int = 0
    retention: dict[str, Interval | None] = field(default_factory=dict)
    ends: dict[str, EndValue] = field(default_factory=dict)
    gradient_steps: float = math.nan
    overhead: float = math.nan
    parameters: float = math.nan
    peak_memory_mib: float = math.nan


@dataclass(frozen=True)
class Scores:
    """All arms, the verdict on the benchmark, and what could not be computed.

    Attributes:
        arms: In the order of the tables.
        verdict: Of the validity gate; None without an oracle.
        notes: One sentence each.
        untrained: Return of the untrained policy, NaN where nobody finished an episode.
        lifetimes: Arm -> (runs,) lifetime averages, failures filled in.
        areas: Arm -> (runs, regimes), failures filled in.
        phases: Arm -> (runs, regimes) end-of-phase returns, failures filled in.
        recoveries: Arm -> (runs, regimes) recovery times as shares of the regime, infinity where
            the threshold was never reached, NaN where nobody knows.
        recovery_regimes: Arm -> restricted mean recovery after every switch, where thresholds are
            estimates and were resampled.
        tasks: Success on tasks by arm, empty where none was evaluated.
        correlations: Diagnostics before switches with the plasticity index after them.
        is_ranked: Whether methods are ranked: not where the benchmark showed no lost plasticity.
        oracle: What the plasticity index is relative to; None without it.
    """

    arms: tuple[ArmScores, ...]
    verdict: Verdict | None
    notes: tuple[str, ...]
    untrained: float
    lifetimes: Mapping[str, Array]
    areas: Mapping[str, Array]
    phases: Mapping[str, Array]
    recoveries: Mapping[str, Array]
    recovery_regimes: Mapping[str, tuple[Interval, ...]]
    tasks: tuple[TaskScores, ...]
    correlations: tuple[Correlation, ...]
    is_ranked: bool
    oracle: str | None
