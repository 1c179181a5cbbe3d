"""Comparisons on several tasks, of still learning arms, and of what contexts give away."""

import csv
import io
import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_tasks import evaluation_of, rates_to_success
from synthetic_studies import add_run, write_csv

import evaluate
from analysis.compare import flags
from analysis.compare.collecting import collect
from analysis.compare.correlations import centred, correlations, rank_correlation
from analysis.compare.flags import UnknownSettings, context_flags
from analysis.compare.flat_results import results_csv
from analysis.compare.more_tables import correlation_table, tasks_csv, tasks_table
from analysis.compare.quick_evaluations import quick_curves
from analysis.compare.report import compose, render, warnings
from analysis.compare.scores import score
from analysis.compare.study import Run
from analysis.compare.styles import ArmStyles
from analysis.compare.task_figures import learning_figure
from analysis.compare.tasks import area_under_curve, last_gain, supported
from analysis.multitask import UnlikeRuns, study, write_evaluation
from analysis.runs import find_runs
from analysis.statistics import Interval

RATES = {"standard": (0.2, 0.4, 1.0, 0.0), "redo": (0.6, 0.4, 1.0, 0.2)}
JOINT = {"kind": "meta_world", "schedule": "fixed", "switch_interval": 4_000}


def scores_by_arm(found) -> dict[str, Any]:
    return {arm.arm: arm for arm in score(found).tasks}


def with_tasks(root, seeds=range(3), gain=0.0, **manifest):
    """Runs of one world whose evaluations differ by seed; quick success rises by `gain`."""
    for arm, rates in RATES.items():
        for seed in seeds:
            path = add_run(root, arm, seed, num_regimes=1, interval=4_000, env=JOINT)
            shifted = [min(1.0, rate + 0.2 * (seed % 2)) for rate in rates]
            found = evaluation_of(rates_to_success(shifted), seed, 4_000, **manifest)
            write_evaluation(path, found, {})
            add_quick(path, gain if arm == "redo" else 0.0)
    return root


def add_quick(path, gain):
    text = (path / "progress.csv").read_text().splitlines()
    header, rows = text[0].split(","), [line.split(",") for line in text[1:]]
    place = header.index("env_steps")
    named = [dict(zip(header, row, strict=True)) for row in rows]
    for row, cells in zip(named, rows, strict=True):
        share = max(0.0, int(cells[place]) / 4_000 - 0.8) / 0.2
        row["eval_quick/success"] = repr(0.5 + gain * share)
    write_csv(path / "progress.csv", [*header, "eval_quick/success"], named)


def test_success_by_task_equals_that_of_the_study(tmp_path):
    found = collect([with_tasks(tmp_path)])
    assert found.about["tasks"] == ["a", "b", "c", "d"]
    scores = scores_by_arm(found)
    for arm, rates in RATES.items():
        expected = study(
            [
                evaluation_of(rates_to_success([min(1.0, r + 0.2 * (s % 2)) for r in rates]), s)
                for s in range(3)
            ]
        )
        mine = scores[arm]
        assert mine.tasks == tuple(task.success for task in expected.tasks)
        assert (mine.mean, mine.iqm) == (expected.mean, expected.iqm)
        assert mine.iqm_by_task == expected.iqm_by_task
        # Tasks of a run rise and fall together, which whole seeds know and tasks apart do not.
        assert mine.iqm.high - mine.iqm.low > mine.iqm_by_task.high - mine.iqm_by_task.low
    assert scores["redo"].comparison.difference.estimate == pytest.approx(0.15)


def test_fresh_copies_are_no_methods_that_tests_are_adjusted_for(tmp_path):
    with_tasks(tmp_path, range(6))
    for seed in range(6):
        path = add_run(tmp_path, "fresh_oracle", seed, num_regimes=1, interval=4_000, env=JOINT)
        write_evaluation(path, evaluation_of(rates_to_success([0.5] * 4), seed, 4_000), {})
        add_quick(path, 0.0)
    scores = scores_by_arm(collect([tmp_path]))
    assert scores["fresh_oracle"].comparison is not None
    assert math.isnan(scores["fresh_oracle"].p_adjusted)
    assert scores["redo"].p_adjusted == scores["redo"].comparison.p_value < 0.05


def test_the_report_has_bars_and_says_who_is_still_learning(tmp_path, monkeypatch):
    monkeypatch.chdir(with_tasks(tmp_path, gain=0.05))
    words = ["compare", "runs", "--out", "out", "--export-data", "small"]
    assert evaluate.main(words) == evaluate.EXIT_DONE
    text = (tmp_path / "out" / "report.md").read_text()
    assert "still learning: redo gained 2 points or more" in text
    assert "| last fifth of training | level (+0.0 points) | still learning (+5.0 points) |" in text
    assert "![Success by task" in text
    rows = (tmp_path / "out" / "tasks.csv").read_text().splitlines()
    assert rows[0] == "arm,quantity,estimate,low,high,n"
    assert sum(row.startswith("redo,iqm,") for row in rows) == 1
    assert "Nothing changes in this world" in text
    again = ["compare", "small", "--out", "out"]
    before = (tmp_path / "out" / "figures" / "tasks.png").read_bytes()
    assert evaluate.main(again) == evaluate.EXIT_DONE
    assert (tmp_path / "out" / "tasks.csv").read_text().splitlines() == rows
    assert (tmp_path / "out" / "figures" / "tasks.png").read_bytes() == before


def test_tables_of_tasks_are_there_unrounded(tmp_path):
    found = collect([with_tasks(tmp_path, range(6))])
    scores = score(found)
    lines = csv.DictReader(io.StringIO(tasks_csv(found, scores).decode()))
    rows = {(row["arm"], row["quantity"]): row for row in lines}
    (redo,) = (arm for arm in scores.tasks if arm.arm == "redo")
    assert redo.comparison is not None
    for name, expected in {
        "final_success": redo.final_success,
        "p": redo.comparison.p_value,
        "p_holm": redo.p_adjusted,
        "difference": redo.comparison.difference.estimate,
    }.items():
        assert float(rows["redo", name]["estimate"]) == expected
        assert rows["redo", name]["n"] == "6"
    assert ("standard", "p") not in rows
    assert rows["standard", "final_success"]["low"] == ""


def test_the_gate_and_correlations_are_there_unrounded(tmp_path):
    for arm, level in {"standard": 60.0, "redo": 80.0, "fresh_oracle": 100.0}.items():
        for seed in range(3):
            add_run(tmp_path, arm, seed, level=level)
    found = collect([tmp_path])
    scores = score(found)
    found = replace(found, about={**found.about, "out": "x", "name": "x"})
    files = render(found, "x")
    assert scores.verdict is not None
    lines = csv.DictReader(io.StringIO(files["gate.csv"].decode()))
    gate = {row.pop("quantity"): {k: float(v) for k, v in row.items() if v} for row in lines}
    for name, expected in {
        "slope": scores.verdict.slope,
        "late_fresh_minus_baseline": scores.verdict.late_gap,
    }.items():
        bounds = {"estimate": expected.estimate, "low": expected.low, "high": expected.high}
        assert gate[name] == bounds | {"n": 3.0}
    assert gate["learnable_share"] == {"estimate": scores.verdict.learnable_share, "n": 3.0}
    assert gate["accepted"]["estimate"] == 0.0
    rows = list(csv.DictReader(io.StringIO(files["correlations.csv"].decode())))
    assert len(rows) == len(scores.correlations) > 0
    for row, one in zip(rows, scores.correlations, strict=True):
        assert row["diagnostic"] == one.metric
        numbers = [float(row[key]) for key in ("rho", "rho_low", "rho_high", "runs", "pairs")]
        assert numbers == [one.rho.estimate, one.rho.low, one.rho.high, one.rho.n, one.num_pairs]


def claims(found):
    rows = csv.DictReader(io.StringIO(results_csv(found, score(found)).decode()))
    return {row["arm"]: row["claim"] for row in rows}


def test_no_claim_while_an_arm_is_still_learning(tmp_path):
    """Addendum of metrics: both arms must have gained less than 2 points."""
    assert claims(collect([with_tasks(tmp_path / "up", range(10), gain=0.05)])) == {
        "standard": "",
        "redo": "still learning",
    }
    found = collect([with_tasks(tmp_path / "down", range(10), gain=-0.05)])
    assert claims(found)["redo"] == "claim"
    scores = scores_by_arm(found)
    assert scores["redo"].learning == "falling (-5.0 points)"
    level, falling = scores["standard"], scores["redo"]
    rising, silent = replace(level, gain=Interval(0.02, 0.0, 0.1, 10)), replace(level, gain=None)
    assert rising.trend == "still learning"
    assert supported("claim", level, rising) == supported("claim", rising, level)
    assert supported("claim", falling, rising) == "still learning"
    assert supported("claim", silent, level) == "still learning or not: unknown"
    assert supported("exploratory", level, rising) == "exploratory"


def test_too_few_quick_evaluations_are_not_none(tmp_path):
    with_tasks(tmp_path)
    for path in find_runs(tmp_path):
        file = path / "progress.csv"
        header, *rows = file.read_text().splitlines()
        if "redo" in str(path):  # one before the last fifth, one at the end
            first, last = rows[0], rows[-1]
            rest = [row.rpartition(",")[0] + "," for row in rows[1:-1]]
            file.write_text("\n".join([header, first, *rest, last]) + "\n")
        else:
            place = header.split(",").index("eval_quick/success")
            kept = [",".join(row.split(",")[:place]) for row in [header, *rows]]
            file.write_text("\n".join(kept) + "\n")
    scores = scores_by_arm(collect([tmp_path]))
    few = "unknown: fewer than two quick evaluations in the last fifth"
    assert scores["redo"].learning == few
    assert scores["redo"].area is not None
    assert scores["standard"].learning == "unknown: no quick evaluations"


def test_unlike_and_missing_evaluations(tmp_path):
    with_tasks(tmp_path)
    path = next(p for p in find_runs(tmp_path) if "redo/seed_1" in str(p))
    table = rates_to_success(RATES["redo"])
    write_evaluation(path, evaluation_of(table, 1, 4_000, reward_version="v1"), {})
    with pytest.raises(UnlikeRuns, match="reward_version is"):
        collect([tmp_path])
    (path / "evaluation.json").unlink()
    found = collect([tmp_path])
    assert found.about["not_evaluated"] == ["study/slippery_ant/ppo-mlp-redo/seed_1"]
    assert score(found).tasks == ()
    text = str(compose(replace(found, about={**found.about, "out": "x"}), score(found), "x", []))
    assert "python evaluate.py run RUN_DIR" in text


def test_evaluations_of_other_checkpoints_are_left_out_with_a_warning(tmp_path):
    folder = with_tasks(tmp_path)
    table = rates_to_success(RATES["redo"])
    redo = [path for path in find_runs(folder) if "redo" in str(path)]
    write_evaluation(redo[1], evaluation_of(table, 1, 3_000), {})
    found = collect([folder])
    assert score(found).tasks == ()
    (said,) = [line for line in warnings(found) if "evaluation" in line]
    name = "study/slippery_ant/ppo-mlp-redo/seed_1"
    assert f"that of {name} is of step 3,000 of 4,000; measure the newest" in said
    for path in find_runs(folder):  # all alike: nothing else would notice
        write_evaluation(path, evaluation_of(table, int(path.name[-1]), 3_000), {})
    found = collect([folder])
    assert score(found).tasks == ()
    assert "the evaluations of 6 runs are left out" in str(warnings(found))


def test_a_cut_comparison_says_nothing_about_the_ends_of_whole_runs(tmp_path):
    folder = with_tasks(tmp_path)
    assert len(collect([folder]).about["tasks"]) > 0
    for path in find_runs(folder):
        if "redo" in str(path):
            text = (path / "config.yaml").read_text()
            assert text.count("total_steps: 4000\n") == 1
            (path / "config.yaml").write_text(
                text.replace("total_steps: 4000", "total_steps: 3000")
            )
    found = collect([folder], partial=True)
    assert found.about["end"] == 3_000
    assert score(found).tasks == ()
    assert not any(name.startswith("task/") for runs in found.runs.values()
                   for run in runs.values() for name in run.values)  # fmt: skip


def test_gain_and_area_by_hand():
    steps, success = np.array([0.0, 50, 80, 90, 100]), np.array([0.0, 0.2, 0.5, 0.5, 0.6])
    slope = np.polyfit(steps[2:], success[2:], 1)[0]
    assert last_gain(steps, success, 100.0) == pytest.approx(20 * slope, abs=1e-12)
    assert math.isnan(last_gain(steps[:3], success[:3], 100.0))
    assert area_under_curve(steps, success, 100.0) == pytest.approx(
        (50 * 0.1 + 30 * 0.35 + 10 * 0.5 + 10 * 0.55) / 100, abs=1e-12
    )
    assert area_under_curve(np.array([20.0, 60.0]), np.array([0.2, 0.4]), 100.0) == pytest.approx(
        (20 * 0.2 + 40 * 0.3 + 40 * 0.4) / 100, abs=1e-12
    )


def test_a_failed_run_succeeds_no_more_from_its_failure_on(tmp_path):
    with_tasks(tmp_path)
    path = next(p for p in find_runs(tmp_path) if "redo/seed_1" in str(p))
    done = json.loads((path / "done.json").read_text())
    done |= {"status": "failed", "summary": {"env_steps": 1_000}}
    (path / "done.json").write_text(json.dumps(done))
    rows = (path / "progress.csv").read_text().splitlines()
    (path / "progress.csv").write_text("\n".join(rows[:6]) + "\n")  # five rows of 200 steps
    scores = scores_by_arm(collect([tmp_path]))
    # Success is 0.5 throughout: 0.5, 0.5 and a quarter of it.
    assert (scores["redo"].area.estimate, scores["redo"].area.n) == (pytest.approx(1.125 / 3), 3)
    assert (scores["redo"].gain.estimate, scores["redo"].gain.n) == (pytest.approx(0.0), 2)
    assert scores["standard"].area.estimate == pytest.approx(0.5)


def test_the_learning_curve_counts_failed_runs(tmp_path):
    with_tasks(tmp_path)
    path = next(p for p in find_runs(tmp_path) if "redo/seed_1" in str(p))
    done = json.loads((path / "done.json").read_text())
    done |= {"status": "failed", "summary": {"env_steps": 1_000}}
    (path / "done.json").write_text(json.dumps(done))
    rows = (path / "progress.csv").read_text().splitlines()
    (path / "progress.csv").write_text("\n".join(rows[:6]) + "\n")  # five rows of 200 steps
    found = collect([tmp_path])
    figure = learning_figure(found, score(found), ArmStyles(found))
    assert figure is not None
    lines = figure.axes[0].lines
    curves = {
        a.name: np.array(line.get_xydata()).T for a, line in zip(found.arms, lines, strict=True)
    }
    steps, success = curves["redo"]
    np.testing.assert_allclose(success[steps <= 1_000], 50.0)
    np.testing.assert_allclose(success[steps > 1_000], 100.0 / 3)  # two runs of three
    np.testing.assert_allclose(curves["standard"][1], 50.0)


def quick_run(period, status="finished", env_steps=1_000_000, end=1_000_000):
    """Success rises in proportion to time and is looked at every so many steps."""
    steps = np.arange(period, min(end, env_steps) + 1, period, dtype=float)
    return Run(status, env_steps, 0.0, 0.0, {"quick/step": steps, "quick/success": steps / 1e6})


def test_runs_evaluated_at_other_steps_are_each_drawn_at_their_own():
    steps, success = quick_curves([quick_run(100_000), quick_run(50_000)])
    np.testing.assert_array_equal(steps, np.arange(100_000, 1_000_001, 50_000))
    np.testing.assert_allclose(success, np.stack([steps, steps]) / 1e6)
    # Nothing is said of the time after the last evaluation of one of them.
    steps, success = quick_curves([quick_run(300_000), quick_run(200_000)])
    np.testing.assert_array_equal(steps, [300_000, 400_000, 600_000, 800_000, 900_000])
    np.testing.assert_allclose(success, np.stack([steps, steps]) / 1e6)


def test_curves_of_runs_that_failed_or_were_not_evaluated():
    failed, bare = quick_run(100_000, "failed", 350_000), Run("finished", 1_000_000, 0.0, 0.0, {})
    steps, success = quick_curves([quick_run(100_000), failed, bare])
    np.testing.assert_array_equal(steps, np.arange(100_000, 1_000_001, 100_000))
    np.testing.assert_allclose(success[1], [0.1, 0.2, 0.3, *[0.0] * 7])
    assert np.isnan(success[2]).all()
    assert quick_curves([bare])[0].size == 0


def test_the_learning_figure_is_right_where_periods_differ(tmp_path):
    with_tasks(tmp_path, gain=0.1)
    path = next(p for p in find_runs(tmp_path) if "redo/seed_1" in str(p))
    rows = (path / "progress.csv").read_text().splitlines()
    (path / "progress.csv").write_text("\n".join([rows[0], *rows[2::2]]) + "\n")
    found = collect([tmp_path])
    figure = learning_figure(found, score(found), ArmStyles(found))
    assert figure is not None
    places = [arm.name for arm in found.arms]
    steps, success = np.array(figure.axes[0].lines[places.index("redo")].get_xydata()).T
    expected = 50.0 + 10.0 * np.maximum(0.0, steps / 4_000 - 0.8) / 0.2
    np.testing.assert_allclose(success, expected)


def test_runs_without_quick_evaluations_are_counted_and_named(tmp_path):
    with_tasks(tmp_path)
    assert not any("quick evaluations" in line for line in warnings(collect([tmp_path])))
    path = next(p for p in find_runs(tmp_path) if "redo/seed_1" in str(p))
    lines = [line.split(",")[:-1] for line in (path / "progress.csv").read_text().splitlines()]
    (path / "progress.csv").write_text("\n".join(",".join(line) for line in lines) + "\n")
    found = collect([tmp_path])
    (line,) = [line for line in warnings(found) if "quick evaluations" in line]
    assert "no quick evaluations in 1 of 6 runs, such as redo seed 1" in line
    rows = {row[0]: row[1:] for row in tasks_table(found, score(found)).rows}
    cells = dict(zip((arm.name for arm in found.arms), rows["area under the curve"], strict=True))
    add_run(tmp_path / "walking", "standard", 0)
    add_run(tmp_path / "walking", "standard", 1, until=1_500, status="failed")
    assert not any("quick" in line for line in warnings(collect([tmp_path / "walking"])))
    assert cells["redo"] == "50.0 [50.0, 50.0] (n = 2)"
    assert "n =" not in cells["standard"]


def test_quick_evaluations_on_other_goals_are_left_out_and_said(tmp_path):
    with_tasks(tmp_path)
    for path in find_runs(tmp_path):
        config = yaml.safe_load((path / "config.yaml").read_text())
        goals = [0] if "redo" in str(path) else [0, 10]
        log = {**config.get("log", {}), "quick_evaluation_goals": goals}
        (path / "config.yaml").write_text(yaml.safe_dump({**config, "log": log}))
    found = collect([tmp_path])
    (line,) = [line for line in warnings(found) if "quick evaluations" in line]
    assert "[0] in study/slippery_ant/ppo-mlp-redo/seed_0" in line
    assert "train with one log.quick_evaluation_goals" in line
    scores = scores_by_arm(found)
    assert all(arm.area is None and arm.trend == "unknown" for arm in scores.values())
    assert learning_figure(found, score(found), ArmStyles(found)) is None
    assert scores["redo"].mean.estimate > 0.0  # the evaluation at the end is another one


# Retention, gate ------------------------------------------------------------------------------


def test_a_world_that_never_changes_has_a_retention_index(tmp_path):
    def score_of(level, seed, regime, share):  # rises, then loses half of it
        return level * (min(1.0, 2 * share) if share < 0.7 else 0.5) + seed

    for seed in range(3):
        add_run(
            tmp_path,
            "standard",
            seed,
            num_regimes=1,
            score=score_of,
            episodes_per_regime=500,
            interval=20_000,
            env={"schedule": "fixed"},
        )
    found = collect([tmp_path])
    scores = score(found)
    assert found.about["stationary"]
    areas, untrained = scores.areas["standard"], scores.untrained
    expected = []
    for row in areas - untrained:
        best, kept = -math.inf, []
        for gain in row:
            best = max(best, gain)
            kept.append(gain / best if best > 0 else math.nan)
        expected.append(kept)
    retention: dict[str, Any] = scores.arms[0].retention
    late = np.array(expected)[:, -4:].mean()
    assert retention["late_mean"].estimate == pytest.approx(late, abs=1e-12)
    assert late < 0.7
    slopes = [np.polyfit(np.flatnonzero(np.isfinite(k)), np.array(k)[np.isfinite(k)], 1)[0]
              for k in expected]  # fmt: skip
    assert retention["slope"].estimate == pytest.approx(np.mean(slopes), abs=1e-12)


def test_a_benchmark_that_fails_the_gate_ranks_no_methods(tmp_path):
    def steady(level, seed, regime, share):
        return level * share + 0.2 * math.sin(11.0 * seed + 3 * regime)

    for arm in ("standard", "redo", "fresh_oracle"):
        for seed in range(3):
            add_run(tmp_path, arm, seed, score=steady)
    found = collect([tmp_path])
    scores = score(found)
    assert not scores.is_ranked
    assert all(arm.comparison is None for arm in scores.arms)
    text = str(compose(replace(found, about={**found.about, "out": "x"}), scores, "x", []))
    assert "refused for comparing methods, and no methods are ranked above" in text
    assert "P(improvement)" not in text


# Contexts -------------------------------------------------------------------------------------

ANT, TASKS = {"kind": "locomotion", "friction_low": 0.02}, {"kind": "meta_world"}


@pytest.mark.parametrize(
    ("env", "context", "told", "is_oracle", "uses_boundaries"),
    [
        (ANT, None, "none", False, False),
        (TASKS, None, "task", True, False),
        ({**TASKS, "hide_task_id": True}, None, "none", False, False),
        ({"kind": "sequences"}, {"kind": "given", "source": "task"}, "task", True, True),
        (ANT, {"kind": "given", "source": "auto"}, "friction", True, True),
        (ANT, {"kind": "given", "source": "regime"}, "regime", True, True),
        (ANT, {"source": "auto", "control": "shuffled"}, "friction, shuffled", False, False),
        (ANT, {"source": "auto", "control": "zero"}, "friction, zero", False, False),
        (ANT, {"source": "friction", "control": "delayed"}, "friction, delayed", True, True),
        (
            TASKS,
            {"source": "auto", "control": "shuffled", "input": "source"},
            "task, shuffled at gates, true at the input",
            True,
            False,
        ),
    ],
)
def test_contexts_say_what_they_give_away(env, context, told, is_oracle, uses_boundaries):
    found = context_flags({"env": env} | ({} if context is None else {"context": context}))
    assert (found.told, found.is_oracle, found.uses_boundaries) == (
        told,
        is_oracle,
        uses_boundaries,
    )


def test_a_context_of_another_kind_says_so_itself(monkeypatch):
    settings = {"env": ANT, "context": {"kind": "inferred"}}
    module = SimpleNamespace(is_oracle=False)
    monkeypatch.setattr(flags, "CONTEXTS", {"inferred": module})
    with pytest.raises(UnknownSettings, match=r"inferred\.py must say uses_boundaries"):
        context_flags(settings)
    module.uses_boundaries = True
    assert context_flags(settings) == flags.ContextFlags("inferred", False, True)


def test_seeds_that_go_on_from_their_own_checkpoints_are_one_arm(tmp_path):
    for seed in range(2):
        source = f"runs/a/b/ppo-mlp-standard/seed_{seed}/checkpoints/step-1"
        path = add_run(tmp_path, "standard", seed)
        config = yaml.safe_load((path / "config.yaml").read_text())
        (path / "config.yaml").write_text(yaml.safe_dump({**config, "init_from": source}))
    assert [arm.name for arm in collect([tmp_path]).arms] == ["standard"]


# Correlations ---------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 6), st.integers(2, 5))
def test_rank_correlation_equals_scipy(seed, runs, regimes):
    rng = np.random.default_rng(seed)
    metric, outcome = rng.integers(0, 9, (2, runs, regimes)).astype(float)
    metric[0, 0] = np.nan
    found = rank_correlation(metric, outcome, num_resamples=50)
    both = ~np.isnan(metric)
    x, y = (centred(np.where(both, v, np.nan)) for v in (metric, outcome))
    known = ~np.isnan(x)
    if found is not None:
        expected = scipy.stats.spearmanr(x[known], y[known])[0]
        assert found[0].estimate == pytest.approx(expected, abs=1e-12)
        assert found[0].low <= found[0].high
        assert found[1] == known.sum()


def correlated(metric, outcome):
    found = rank_correlation(metric, outcome)
    assert found is not None
    return found


def test_difficulty_of_regimes_is_no_correlation():
    rng = np.random.default_rng(0)
    difficulty = 100.0 * np.arange(6)
    noise = rng.normal(size=(2, 20, 6))
    found, pairs = correlated(difficulty + noise[0], difficulty + noise[1])
    assert pairs == 120
    assert found.low < 0.0 < found.high
    same, _ = correlated(difficulty + noise[0], 3.0 * difficulty + noise[0] ** 3)
    assert same.low > 0.8
    assert rank_correlation(noise[0][:2], noise[1][:2]) is None
    assert rank_correlation(np.ones((5, 4)), noise[1][:5, :4]) is None


def test_the_table_of_correlations_says_how_many_runs_there_are():
    outcome = np.random.default_rng(0).normal(size=(4, 6))
    table = correlation_table(correlations({"a": outcome + 1.0}, outcome))
    (row,) = table.rows
    shown = dict(zip(table.header, row, strict=True))
    assert (shown["runs"], shown["pairs"]) == ("4", "24")
