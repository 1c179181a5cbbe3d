"""Numbers of the report unrounded: of all arms, of the validity gate and of correlations."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from analysis.compare.arm_scores import ArmScores, Scores
from analysis.compare.correlations import Correlation
from analysis.compare.ends import END_METRICS
from analysis.compare.fairness import PairedOverheads, paired_overheads
from analysis.compare.study import Study, csv_bytes
from analysis.compare.tasks import supported
from analysis.continual import Verdict
from analysis.result_table import write_result_table
from analysis.statistics import Interval


def results_csv(study: Study, scores: Scores) -> bytes:
    """Every number of the tables of arms, one row per arm."""
    stream = io.StringIO(newline="")
    paired = paired_overheads(study)
    rows = [_flat_row(arm) | _costs(arm, paired) for arm in scores.arms]
    tasks = {arm.arm: arm for arm in scores.tasks}
    for row in rows:
        if row["claim"] and tasks:
            own, base = tasks[str(row["arm"])], tasks[study.baseline]
            row["claim"] = supported(str(row["claim"]), own, base)
    write_result_table(stream, rows)
    return stream.getvalue().replace("\r\n", "\n").encode()


def gate_csv(verdict: Verdict) -> bytes:
    """What the validity gate rests on: quantity, estimate, bounds, baseline runs."""
    nothing = math.nan, math.nan
    rows = [
        (name, found.estimate, found.low, found.high, found.n)
        for name, found in (
            ("slope", verdict.slope),
            ("late_fresh_minus_baseline", verdict.late_gap),
        )
    ]
    runs = verdict.slope.n
    rows.append(("learnable_share", verdict.learnable_share, *nothing, runs))
    rows.append(("accepted", float(verdict.accepted), *nothing, runs))
    return csv_bytes(("quantity", "estimate", "low", "high", "n"), rows)


def correlations_csv(found: Sequence[Correlation]) -> bytes:
    """Diagnostics before a switch against the plasticity index after it, one row each."""
    rows = [
        (one.metric, one.rho.estimate, one.rho.low, one.rho.high, one.rho.n, one.num_pairs)
        for one in found
    ]
    return csv_bytes(("diagnostic", "rho", "rho_low", "rho_high", "runs", "pairs"), rows)


def _flat_row(arm: ArmScores) -> dict[str, object]:
    facts, found, report = arm.facts, arm.comparison, arm.lifetime
    row: dict[str, object] = {"arm": facts.name, "seeds": arm.n, "failed": arm.num_failed}

    def add(name: str, value: Interval | None) -> None:
        bounds = (math.nan,) * 3 if value is None else (value.estimate, value.low, value.high)
        row.update(zip((name, f"{name}_low", f"{name}_high"), map(_cell, bounds), strict=True))

    add("lifetime_iqm", None if report is None else report.with_failures)
    add("lifetime_iqm_without_failed", None if report is None else report.without_failures)
    add("lifetime_mean", arm.mean)
    add("difference", None if found is None else found.difference)
    row["p"] = _cell(math.nan if found is None else found.p_value)
    row["p_holm"] = _cell(arm.p_adjusted)
    row["claim"] = "" if found is None else found.claim
    add("improvement", None if found is None else found.improvement)
    add("late_end_of_phase", arm.late)
    add("area_slope", arm.area_slope)
    add("recovery", arm.recovery)
    row["share_recovered"] = _cell(arm.share_recovered)
    add("drop", arm.drop)
    add("relearning", arm.relearning)
    add("zero_shot_revisit", arm.zero_shot_revisit)
    indices = (("pi", arm.index), ("pi_self", arm.self_index), ("retention", arm.retention))
    for name, index in indices:
        for summary in ("late_mean", "slope"):
            add(f"{name}_{summary}", index.get(summary))
    row["pi_undefined"] = arm.num_undefined
    row["pi_self_undefined"] = arm.num_undefined_self
    for metric in END_METRICS:
        add(metric, arm.ends[metric].mean)
        row[f"{metric}_missing"] = arm.ends[metric].num_missing
    row["gradient_steps"] = _cell(arm.gradient_steps)
    row["uses_task_boundary"] = "yes" if facts.uses_task_boundary else "no"
    row["resets_optimizer"] = facts.resets_optimizer
    row["resets_replay"] = facts.replay_rule
    row["context"] = facts.context
    row["context_is_oracle"] = "yes" if facts.context_is_oracle else "no"
    row["context_uses_boundaries"] = "yes" if facts.context_uses_boundaries else "no"
    row["overhead"] = "unknown" if math.isnan(arm.overhead) else repr(arm.overhead)
    return row


def _costs(arm: ArmScores, paired: PairedOverheads | None) -> dict[str, object]:
    row: dict[str, object] = {
        "parameters": _cell(arm.parameters),
        "peak_memory_mib": _cell(arm.peak_memory_mib),
    }
    for quantity in ("env_step", "gradient_step"):
        values = (None,) * 3
        if paired is not None and arm.facts.name in paired.arms:
            values = paired.arms[arm.facts.name][quantity]
        for suffix, value in zip(("", "_low", "_high"), values, strict=True):
            cell = "" if value is None else _cell(value)
            row[f"overhead_paired_{quantity}{suffix}"] = cell
    return row


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))
