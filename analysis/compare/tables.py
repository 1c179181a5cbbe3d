"""Tables of a comparison for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.table import Table as RichTable

from analysis.compare.arm_scores import ArmScores, Scores
from analysis.compare.cells import DASH, Table, number_text, percent_text
from analysis.compare.fairness import paired_overheads
from analysis.compare.study import Study
from analysis.run_files import number, read_cells
from analysis.statistics import Interval
from analysis.statistics.comparisons import EXACT_LIMIT, SIGN_DRAWS


def interval_text(found: Interval | None, factor: float = 1.0) -> str:
    """Estimate with its bounds in brackets; a dash where there is none."""
    if found is None or math.isnan(found.estimate):
        return DASH
    text = number_text(factor * found.estimate)
    if math.isnan(found.low):
        return text
    return f"{text} [{number_text(factor * found.low)}, {number_text(factor * found.high)}]"


def p_text(value: float) -> str:
    """A p-value with two significant digits."""
    if math.isnan(value):
        return DASH
    return "< .001" if value < 0.001 else f"{value:.2g}".removeprefix("0")


def score_table(study: Study, scores: Scores) -> Table:
    """The main table: score, paired difference, and what each arm was allowed to do."""
    base = study.baseline
    failures = any(arm.num_failed for arm in scores.arms)
    header = ["arm", "seeds", "failed", "IQM [95 %]"]
    header += ["IQM without failed"] if failures else []
    header.append("mean")
    if scores.is_ranked:
        header += [f"difference to {base} [95 %]", "p", "p (Holm)", "P(improvement) [95 %]"]
    header += ["uses task boundary", "resets optimizer", "overhead (not paired)"]
    paired = paired_overheads(study)
    header += ["overhead, paired [range]"] if paired is not None else []
    rows = tuple(
        (
            *_score_row(arm, failures, base, scores.is_ranked),
            *([] if paired is None else [paired.env_step(arm.facts.name, base)]),
        )
        for arm in scores.arms
    )
    failed = (
        "Failed runs count; from their failure on they earn the untrained policy's return "
        f"({'unknown' if math.isnan(scores.untrained) else number_text(scores.untrained)}). "
    )
    ranked = (
        "Differences are paired by world seed and agent seed (interquartile mean); p is "
        f"{_test(scores)}, adjusted by Holm over all methods of the table; P(improvement) is the "
        f"share of pairs won, with Wilson's interval. {_strength(scores)}"
    )
    unranked = (
        "There are no differences and no tests: the benchmark did not pass the validity gate "
        "below, so it ranks no methods. "
    )
    return Table(
        "Score",
        tuple(header),
        rows,
        "Lifetime average return: interquartile mean over runs with a 95 % percentile bootstrap "
        f"interval over whole runs, and the plain mean. {failed if failures else ''}"
        f"{ranked if scores.is_ranked else unranked}Overhead compares median steps per second of "
        "different processes with the baseline's: it is not a paired measurement"
        + (
            f", and {DASH} where a run has no timing.csv."
            if any(math.isnan(arm.overhead) for arm in scores.arms)
            else "."
        )
        + ("" if paired is None else f" {paired.caption}"),
    )


def _test(scores: Scores) -> str:
    """The test behind p: of all patterns of signs, or of random ones where there are too many."""
    pairs = [arm.comparison.n for arm in scores.arms if arm.comparison is not None]
    if max(pairs, default=0) <= EXACT_LIMIT:
        return "an exact two-sided sign-flip test"
    return f"a two-sided sign-flip test ({SIGN_DRAWS:,} random patterns above {EXACT_LIMIT} pairs)"


def _strength(scores: Scores) -> str:
    """What the fewest pairs can support."""
    pairs = [arm.comparison for arm in scores.arms if arm.comparison is not None]
    weakest = min(pairs, key=lambda pair: pair.n, default=None)
    if weakest is None or weakest.claim == "claim":
        return ""
    few = " (no test can reach p < .1)" if weakest.claim == "too few seeds" else ""
    return f"With {weakest.n} pairs differences are exploratory{few}: 10 are needed for a claim. "


def _score_row(arm: ArmScores, failures: bool, baseline: str, is_ranked: bool) -> tuple[str, ...]:
    found, report = arm.comparison, arm.lifetime
    cells = [arm.facts.name, str(arm.n), str(arm.num_failed)]
    cells.append(DASH if report is None else interval_text(report.with_failures))
    if failures:
        cells.append(DASH if report is None else interval_text(report.without_failures))
    cells.append(DASH if arm.mean is None else number_text(arm.mean.estimate))
    if is_ranked and found is None:
        cells += ["baseline" if arm.facts.name == baseline else DASH, DASH, DASH, DASH]
    elif found is not None:
        is_method = arm.facts.fresh_of is None
        cells += [interval_text(found.difference), p_text(found.p_value) if is_method else DASH]
        cells += [p_text(arm.p_adjusted), interval_text(found.improvement)]
    cells += ["yes" if arm.facts.uses_task_boundary else "no", arm.facts.resets_optimizer]
    return (*cells, percent_text(arm.overhead, sign=True))


_SWITCH_COLUMNS: dict[str, Callable[[ArmScores], Interval | None]] = {
    "drop": lambda arm: arm.drop,
    "relearning": lambda arm: arm.relearning,
    "zero-shot at return": lambda arm: arm.zero_shot_revisit,
}


def continual_table(study: Study, scores: Scores) -> Table:
    """What happens over the regimes."""
    header = ["arm", "seeds", "end of phase, last third", "slope of area"]
    columns: list[Callable[[ArmScores], str]] = [
        lambda arm: arm.facts.name,
        lambda arm: str(arm.n),
        lambda arm: interval_text(arm.late),
        lambda arm: interval_text(arm.area_slope),
    ]
    if not study.about["windows"]:
        header += ["recovery", "recovered"]
        columns += [
            lambda arm: _known_text(arm.recovery, arm.n),
            lambda arm: percent_text(arm.share_recovered),
        ]
    for title, pick in _SWITCH_COLUMNS.items():
        if any(pick(arm) is not None for arm in scores.arms):
            header.append(title)
            columns.append(lambda arm, pick=pick: _known_text(pick(arm), arm.n))
    if any(arm.index for arm in scores.arms):
        header += ["PI, last third", "PI slope"]
        columns += [
            lambda arm: _known_text(arm.index.get("late_mean"), arm.n),
            lambda arm: _known_text(arm.index.get("slope"), arm.n),
        ]
    if any(arm.self_index for arm in scores.arms):
        header += ["PI_self, last third", "PI_self slope"]
        columns += [
            lambda arm: _known_text(arm.self_index.get("late_mean"), arm.n),
            lambda arm: _known_text(arm.self_index.get("slope"), arm.n),
        ]
    if any(arm.retention for arm in scores.arms):
        header += ["retention, last third", "retention slope"]
        columns += [
            lambda arm: interval_text(arm.retention.get("late_mean")),
            lambda arm: interval_text(arm.retention.get("slope")),
        ]
    rows = tuple(tuple(column(arm) for column in columns) for arm in scores.arms)
    stretch = "window (a tenth of the run)" if study.about["windows"] else "regime"
    recovery = (
        " Recovery: share of the regime until the trailing return covers 90 % of the way from the "
        f"untrained policy to the end of the phase of {study.about['recovery_reference']} on the "
        "same world; 1 where it never does; worlds with fewer than ten complete episodes are left "
        "out."
    )
    if any(arm.drop is not None for arm in scores.arms):
        recovery += (
            " Drop: trailing return at a switch less its least value over the next quarter of the "
            "regime."
        )
    if any(arm.relearning is not None for arm in scores.arms):
        recovery += (
            " Worlds return here. Relearning: area of a later visit less that of the first. "
            "Zero-shot: first 20 episodes of later visits. A gain there is memory or transfer, and "
            "no plasticity."
        )
    return Table(
        "Continual learning",
        tuple(header),
        rows,
        f"Means over runs with 95 % intervals. End of phase: last 12.5 % of a {stretch}, episodes "
        f"cut by a switch left out. Area: mean return of a {stretch}, slope per {stretch}; worlds "
        "differ in difficulty, so this slope alone shows no loss of plasticity."
        f"{'' if study.about['windows'] else recovery}" + _index_caption(scores),
    )


def _known_text(found: Interval | None, num_runs: int) -> str:
    """An interval, with the number of runs that have the number where it is not all of them."""
    text = interval_text(found)
    return text if found is None or found.n == num_runs else f"{text} (n = {found.n})"


_BIAS = (
    ", of one fresh run beside each run, so that its means read too high by about the squared "
    "coefficient of variation of fresh returns"
)


def _is_paired(scores: Scores) -> bool:
    """Whether fresh networks were trained beside every run, and not interpolated."""
    return any(arm.facts.name == scores.oracle for arm in scores.arms)


def _index_caption(scores: Scores) -> str:
    text = ""
    if any(arm.index or arm.self_index for arm in scores.arms):
        undefined = sum(arm.num_undefined for arm in scores.arms)
        own = sum(arm.num_undefined_self for arm in scores.arms)
        text += (
            " PI: gain over the untrained policy (the first 20 training episodes of fresh networks "
            "there) relative to the fresh oracle's in the same regime"
            f"{_BIAS if _is_paired(scores) else ''}; PI_self: relative to a fresh copy of the arm "
            "itself; slopes per regime. Loss of plasticity is claimed from a slope of PI_self "
            "below 0, never from the return. Regimes in which learning hardly pays, or that the "
            "comparison cuts short, have no "
            f"PI ({undefined} regimes of all runs) and no PI_self ({own})."
        )
    if any(arm.retention for arm in scores.arms):
        text += (
            " Retention: return of a window relative to the best window so far, both over the "
            "untrained policy; nothing changes here, so there is no plasticity index."
        )
    return text


def network_table(study: Study, scores: Scores) -> Table:
    """State of the policy network at the end."""
    titles = {
        "dormant_fraction": "dormant units (%)",
        "stable_rank": rank_title(study),
        "weight_magnitude": "mean |weight|",
        "hidden_weight_magnitude": "of the last hidden layer",
        "action_std": "action std",
        "trainability_gap": "trainability gap",
    }
    if all(arm.ends["trainability_gap"].mean is None for arm in scores.arms):
        del titles["trainability_gap"]  # measured on request only
    if all(arm.ends["hidden_weight_magnitude"].mean is None for arm in scores.arms):
        del titles["hidden_weight_magnitude"]  # copies made before it was followed
    rows = []
    for arm in scores.arms:
        cells = [_end_text(arm, metric) for metric in titles]
        steps = "" if math.isnan(arm.gradient_steps) else f"{arm.gradient_steps:,.0f}"
        rows.append((arm.facts.name, *cells, steps or DASH))
    return Table(
        "Policy network at the end",
        ("arm", *titles.values(), "gradient steps"),
        tuple(rows),
        "Means over runs of the last 12.5 % of each run with 95 % intervals, measured on the "
        "on-policy window; stable rank of the last hidden layer (99 % of the singular-value sum), "
        "mean |weight| of the whole network"
        + (" and of its last hidden layer" if "hidden_weight_magnitude" in titles else "")
        + (
            "; trainability gap: log ratio of the loss on new random targets to that of fresh "
            "networks, above 0 is worse than fresh"
            if "trainability_gap" in titles
            else ""
        )
        + ". (k missing): k runs without a measurement.",
    )


def rank_title(study: Study) -> str:
    """Column title of the stable rank with its unit."""
    return "stable rank (% of units)" if study.about["rank_in_percent"] else "stable rank"


def _end_text(arm: ArmScores, metric: str) -> str:
    found = arm.ends[metric]
    text = interval_text(found.mean, 100.0 if metric == "dormant_fraction" else 1.0)
    is_partial = found.mean is not None and found.num_missing
    return f"{text} ({found.num_missing} missing)" if is_partial else text


def arms_table(study: Study) -> Table:
    """What makes an arm: settings that differ from the baseline, and seeds."""
    rows: list[tuple[str, ...]] = []
    for arm in study.arms:
        settings: Sequence[str] = [f"{key}={value}" for key, value in arm.settings.items()]
        shown = ", ".join(settings[:12]) + (", …" if len(settings) > 12 else "")
        worlds = ", ".join(
            str(seed) if seed == world else f"{seed} (world {world})"
            for world, seed in study.runs[arm.name]
        )
        name = arm.name if arm.fresh_of is None else f"{arm.name} (fresh copy of {arm.fresh_of})"
        rows.append((name, arm.directory, shown or "baseline settings", worlds))
    return Table(
        "Arms",
        ("arm", "run directories", f"settings that differ from {study.baseline}", "seeds"),
        tuple(rows),
        "",
    )


def console_table(results: Path) -> RichTable:
    """The few columns of results.csv that fit on a terminal."""
    header, rows = read_cells(results)
    table = RichTable(box=None, pad_edge=False, header_style="", padding=(0, 2, 0, 0))
    titles = ("arm", "seeds", "failed", "lifetime return", "difference", "p (Holm)", "overhead")
    for title in titles:
        table.add_column(title, justify="left" if title == "arm" else "right", no_wrap=True)
    for cells in rows:
        row = dict(zip(header, cells, strict=True))
        score, difference = (
            interval_text(
                Interval(
                    number(row[name]), number(row[f"{name}_low"]), number(row[f"{name}_high"]), 0
                )
            )
            for name in ("lifetime_iqm", "difference")
        )
        overhead = math.nan if row["overhead"] == "unknown" else float(row["overhead"])
        table.add_row(
            *(row["arm"], row["seeds"], row["failed"], score, difference),
            *(p_text(number(row["p_holm"])), percent_text(overhead, sign=True)),
        )
    return table
