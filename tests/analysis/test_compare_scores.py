"""Numbers of the tables, against values worked out by hand and functions we did not write."""

import csv
import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
from synthetic_studies import add_group, add_run, returns_of, write_csv

from analysis.compare.collecting import Extras, collect
from analysis.compare.flat_results import results_csv
from analysis.compare.report import compose, render, warnings
from analysis.compare.scores import score
from analysis.compare.tables import (
    continual_table,
    interval_text,
    number_text,
    p_text,
    percent_text,
    score_table,
)
from analysis.runs import find_runs
from analysis.statistics import Interval

LEVELS = {"standard": 100.0, "l2": 120.0, "redo": 90.0}


def scores_of(folder, **options) -> tuple[Any, dict[str, Any], Any]:
    study = collect([folder], **options)
    return study, {arm.facts.name: arm for arm in score(study).arms}, score(study)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    root = tmp_path_factory.mktemp("scores")
    return scores_of(add_group(root, LEVELS, seeds=range(6)))


def test_lifetime_average_and_paired_difference(table):
    study, arms, _ = table
    values = study.matrix("l2", "lifetime")[:, 0]
    report = arms["l2"].lifetime
    assert report.with_failures.estimate == pytest.approx(
        scipy.stats.trim_mean(values, 0.25), abs=1e-12
    )
    assert arms["l2"].mean.estimate == pytest.approx(values.mean(), abs=1e-12)
    base = study.matrix("standard", "lifetime")[:, 0]
    # Levels differ by 20, and the mean share of an episode in its regime is 13 / 25.
    np.testing.assert_allclose(values - base, 20 * 13 / 25)
    found = arms["l2"].comparison
    assert found.difference.estimate == pytest.approx(10.4)
    # Seeds differ far more than arms: only pairing makes this interval so narrow.
    assert found.difference.high - found.difference.low < 1e-9
    assert report.with_failures.high - report.with_failures.low > 1.0
    assert arms["standard"].comparison is None


def test_tests_are_paired_and_adjusted(table):
    study, arms, _ = table
    for name in ("l2", "redo"):
        differences = (study.matrix(name, "lifetime") - study.matrix("standard", "lifetime"))[:, 0]
        expected = scipy.stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=10**6
        ).pvalue
        assert arms[name].comparison.p_value == pytest.approx(expected, abs=1e-12)
        assert arms[name].comparison.p_value == pytest.approx(2 / 2**6)
    p_values = [arms[name].comparison.p_value for name in ("l2", "redo")]
    # Holm: the smallest times two, and never smaller afterwards.
    assert [arms[name].p_adjusted for name in ("l2", "redo")] == [2 * min(p_values)] * 2
    assert arms["l2"].comparison.improvement.estimate == 1.0
    assert arms["redo"].comparison.improvement.estimate == 0.0


def test_slopes_and_end_of_phase(table):
    study, arms, scores = table
    areas = study.matrix("l2", "regime/area")
    slopes = [np.polyfit(range(4), row, 1)[0] for row in areas]
    assert arms["l2"].area_slope.estimate == pytest.approx(np.mean(slopes), abs=1e-12)
    phases = study.matrix("l2", "regime/end_of_phase")
    assert arms["l2"].late.estimate == pytest.approx(phases[:, -2:].mean(), abs=1e-12)
    np.testing.assert_array_equal(scores.phases["l2"], phases)


def test_overhead_is_the_ratio_of_median_speeds(tmp_path):
    for arm, speeds in {"standard": (900, 1000, 5000), "redo": (400, 800, 900)}.items():
        for seed, speed in enumerate(speeds):
            add_run(tmp_path, arm, seed, speed=float(speed))
    study, arms, scores = scores_of(tmp_path)
    assert arms["redo"].overhead == pytest.approx(1000 / 800 - 1)
    assert "+25 %" in score_table(study, scores).rows[1]


def test_a_failed_run_stays_and_earns_the_untrained_return_from_then_on(tmp_path):
    add_group(tmp_path, {"standard": 100.0}, seeds=range(3))
    for seed in range(2):
        add_run(tmp_path, "redo", seed, level=100.0)
    add_run(tmp_path, "redo", 2, level=100.0, until=2_000, status="failed")
    study, arms, scores = scores_of(tmp_path)
    assert (arms["redo"].n, arms["redo"].num_failed) == (3, 1)
    # The untrained policy: the first 20 episodes of every run.
    first = [
        np.mean([returns_of(100.0, seed, 0, place / 25) for place in range(1, 21)])
        for seed in range(3)
    ]
    assert scores.untrained == pytest.approx(np.mean([*first, *first]))
    full = study.matrix("standard", "regime/area")
    areas = scores.areas["redo"]
    np.testing.assert_allclose(areas[2, :2], full[2, :2])
    np.testing.assert_allclose(areas[2, 2:], scores.untrained)
    half = scores.lifetimes["redo"][2]
    lived = study.runs["redo"][2, 2].values["lifetime"][0]
    assert half == pytest.approx(0.5 * lived + 0.5 * scores.untrained)
    assert arms["redo"].lifetime.without_failures.n == 2
    assert "IQM without failed" in score_table(study, scores).header
    assert any("redo seed 2 at step 2,000" in line for line in warnings(study))


def test_networks_that_go_on_from_a_checkpoint_are_not_the_untrained_policy(tmp_path):
    add_group(tmp_path, {"standard": 100.0}, seeds=range(3))
    donor = "runs/x/seed_{}/checkpoints/step-1"
    for seed in range(3):
        ended = {"until": 2_000, "status": "failed"} if seed == 2 else {}
        add_run(tmp_path, "redo", seed, level=900.0, init_from=donor.format(seed), **ended)
    study, _, scores = scores_of(tmp_path)
    first = study.matrix("standard", "regime/first_episodes")[:, 0]
    assert scores.untrained == pytest.approx(first.mean())
    np.testing.assert_allclose(scores.areas["redo"][2, 2:], first.mean())
    # As the baseline, they take the untrained policy of the others for their thresholds.
    other = collect([tmp_path], baseline="redo")
    phases = other.matrix("redo", "regime/end_of_phase")[:2, 1]
    thresholds = 0.1 * first.mean() + 0.9 * phases
    for seed, threshold in enumerate(thresholds):
        shares = np.arange(10, 26) / 25
        trailing = [np.mean([returns_of(900.0, seed, 1, s - k / 25) for k in range(10)])
                    for s in shares]  # fmt: skip
        reached = shares[np.array(trailing) >= threshold]
        found = other.matrix("redo", "regime/recovery")[seed, 1]
        assert found == pytest.approx(reached[0] if len(reached) else math.inf)


def test_without_new_networks_the_untrained_return_is_unknown(tmp_path):
    for arm in ("standard", "redo"):
        for seed in range(3):
            ended = {"until": 2_000, "status": "failed"} if (arm, seed) == ("redo", 2) else {}
            add_run(tmp_path, arm, seed, init_from=f"runs/x/seed_{seed}/checkpoints/a", **ended)
    study, arms, scores = scores_of(tmp_path)
    assert math.isnan(scores.untrained)
    assert np.isnan(study.matrix("standard", "regime/recovery")).all()
    assert arms["redo"].lifetime is None
    assert arms["standard"].lifetime is not None
    assert any("go on from checkpoints (init_from)" in note for note in scores.notes)
    assert "untrained policy's return (unknown)" in score_table(study, scores).caption


def test_without_new_networks_nothing_is_retained(tmp_path):
    still = {"num_regimes": 1, "episodes_per_regime": 100, "env": {"schedule": "fixed"}}
    for seed in range(3):
        add_run(tmp_path, "standard", seed, **still, init_from="x")
        add_run(tmp_path, "new", seed, **still, group="other")
    _, known, _ = scores_of(tmp_path / "runs" / "other", baseline="new")
    assert known["new"].retention["late_mean"] is not None
    study, arms, _ = scores_of(tmp_path / "runs" / "study")
    assert study.about["stationary"]
    assert not arms["standard"].retention
    assert arms["standard"].lifetime is not None


def test_without_an_oracle_the_report_says_so(table):
    study, arms, scores = table
    assert scores.verdict is None
    assert not arms["l2"].index
    named = replace(study, about={**study.about, "out": "results/x"})
    assert "needs an oracle" in str(compose(named, scores, "x", []))
    assert "PI, last third" not in continual_table(study, scores).header


def losing(level, seed, regime, share):
    """Loses a tenth of what a fresh network gains with every regime; noise from the seed."""
    gain = level * share * (1.0 - 0.1 * regime)
    return gain + 0.2 * math.sin(11.0 * seed + regime)


def fresh(level, seed, regime, share):
    return level * share + 0.2 * math.sin(5.0 * seed + regime)


def with_oracle(root, seeds, switching=True) -> tuple[Any, dict[str, Any], Any]:
    env = {} if switching else {"kind": "unverified"}
    for seed in seeds:
        add_run(root, "standard", seed, score=losing, env=env)
        add_run(root, "l2", seed, score=losing, level=60.0, env=env)
        add_run(root, "fresh_oracle", seed, score=fresh, env=env)
        add_run(root, "fresh_l2", seed, score=fresh, level=60.0, env=env)
    return scores_of(root)


def test_with_an_oracle_there_are_both_indices_and_a_verdict(tmp_path):
    study, arms, scores = with_oracle(tmp_path, range(10))
    assert [arm.name for arm in study.arms] == ["standard", "l2", "fresh_l2", "fresh_oracle"]
    assert study.about["oracle"] == "fresh_oracle"
    areas = {name: study.matrix(name, "regime/area") for name in LEVELS | {} if name != "redo"}
    oracle = study.matrix("fresh_oracle", "regime/area")
    random = study.matrix("fresh_oracle", "regime/first_episodes")
    index = (areas["standard"] - random) / (oracle - random)
    assert arms["standard"].index["late_mean"].estimate == pytest.approx(index[:, -2:].mean())
    slopes = [np.polyfit(range(4), row, 1)[0] for row in index]
    assert arms["standard"].index["slope"].estimate == pytest.approx(np.mean(slopes))
    assert arms["standard"].index["slope"].high < 0
    # Against its own fresh copy, l2 loses no more than the baseline; against the oracle it is low.
    own = arms["l2"].self_index["late_mean"].estimate
    assert arms["l2"].index["late_mean"].estimate < own
    assert scores.verdict.accepted
    assert arms["l2"].p_adjusted == arms["l2"].comparison.p_value  # one method, no oracle, tested
    assert math.isnan(arms["fresh_oracle"].p_adjusted)


def test_the_gate_refuses_few_seeds_and_unverified_switches(tmp_path):
    _, _, scores = with_oracle(tmp_path / "few", range(3))
    assert not scores.verdict.accepted
    assert any("3 baseline seeds" in reason for reason in scores.verdict.reasons)
    _, _, scores = with_oracle(tmp_path / "inert", range(3), switching=False)
    assert any("nobody verified" in reason for reason in scores.verdict.reasons)
    assert not scores.is_ranked


def test_whoever_verified_the_switches_of_a_world_can_say_so(tmp_path):
    with_oracle(tmp_path / "own", range(3), switching=False)
    words = "tests/envs/test_mine.py compares the physics"
    study, arms, scores = scores_of(tmp_path / "own", extras=Extras(switching_verified=words))
    assert scores.is_ranked
    assert arms["l2"].comparison is not None
    assert scores.verdict.lacks_seeds_only  # nothing but seeds is missing
    study = replace(study, about={**study.about, "name": "own", "out": "results/own"})
    assert words in render(study, "own")["report.md"].decode()


def test_an_oracle_that_lacks_seeds_gives_no_index(tmp_path):
    add_group(tmp_path, {"standard": 100.0})
    add_run(tmp_path, "fresh_oracle", 0, score=fresh)
    study, arms, scores = scores_of(tmp_path)
    assert study.about["oracle"] is None
    assert not arms["standard"].index
    assert any("was not run on seed 1, 2" in note for note in scores.notes)


def test_recovery_is_restricted_and_its_share_counted(tmp_path):
    def slow(level, seed, regime, share):  # never comes near the baseline after a switch
        return level * share if regime == 0 else 10.0 * share

    for seed in range(3):
        add_run(tmp_path, "standard", seed, score=lambda a, s, k, share: 100 * min(1, 4 * share))
        add_run(tmp_path, "redo", seed, score=slow)
    study, arms, _ = scores_of(tmp_path)
    assert study.about["recovery_reference"] == "standard"
    assert (arms["redo"].recovery.estimate, arms["redo"].share_recovered) == (1.0, 0.0)
    # The untrained return is the mean of 16, 32 ... 96 and fourteen times 100, so the threshold is
    # 86.8 + .9 * 13.2 = 98.68; the last ten episodes reach it at the 15th of 25.
    assert arms["standard"].recovery.estimate == pytest.approx(15 / 25)
    assert arms["standard"].share_recovered == 1.0


def test_a_failed_baseline_never_recovers_and_others_lack_its_thresholds(tmp_path):
    def rises(level, seed, regime, share):
        return 100 * min(1, 4 * share)

    add_run(tmp_path, "standard", 0, score=rises, until=1_300, status="failed")
    add_run(tmp_path, "standard", 1, score=rises)
    for seed in range(2):
        add_run(tmp_path, "redo", seed, score=rises)
    study, arms, scores = scores_of(tmp_path)
    assert study.about["recovery_reference"] == "standard"
    assert np.isinf(study.matrix("standard", "regime/recovery")[0, 1:]).all()
    # Seed 1 takes 15 of 25 episodes, as in the test above; the other counts as whole regimes.
    assert arms["standard"].recovery.estimate == pytest.approx((1 + 15 / 25) / 2)
    assert arms["standard"].share_recovered == 0.5
    assert arms["redo"].recovery.estimate == pytest.approx(15 / 25)
    (note,) = [note for note in scores.notes if "no threshold" in note]
    assert note.startswith("redo, recovery: 3 of 6 switches")


def test_too_few_episodes_say_nothing_about_recovery(tmp_path):
    """Two of the three worlds after a switch are short of episodes, in the runs of one arm."""
    for arm in ("standard", "redo"):
        for seed in range(3):
            add_run(
                tmp_path, arm, seed, score=lambda a, s, k, share: 100 * min(1, 4 * share) * (k < 3)
            )
    for path in find_runs(tmp_path):
        if "redo" not in str(path):
            continue
        with (path / "episodes.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        kept = [r for k, r in enumerate(rows) if r["regime"] not in "13" or k % 25 < 9]
        write_csv(path / "episodes.csv", list(rows[0]), kept)
    for seed in range(3):  # a failed run has not recovered where it has no episodes left
        add_run(tmp_path, "l2", seed, until=2_100, status="failed")
    study, arms, scores = scores_of(tmp_path)
    assert np.isinf(study.matrix("l2", "regime/recovery")[:, 2:3]).all()
    times = study.matrix("redo", "regime/recovery")
    assert np.isnan(times[:, [1, 3]]).all()
    assert not np.isnan(study.matrix("standard", "regime/recovery")[:, 1:3]).any()
    assert arms["redo"].recovery.estimate == pytest.approx(15 / 25)  # that of the second switch
    assert arms["redo"].share_recovered == 1.0
    (note,) = [note for note in scores.notes if "complete episodes" in note and "recovery" in note]
    assert note.startswith("redo, recovery: 3 of 9 switches")


def test_missing_scores_become_dashes_with_a_reason(tmp_path):
    add_group(tmp_path, {"standard": 100.0, "l2": 90.0})
    for seed in range(3):  # no episode ever ended
        file = next(tmp_path.glob(f"**/ppo-mlp-l2/seed_{seed}/episodes.csv"))
        file.write_text(file.read_text().splitlines()[0] + "\n")
    study, arms, scores = scores_of(tmp_path)
    assert arms["l2"].lifetime is None
    assert any(note.startswith("l2, lifetime: ") for note in scores.notes)
    assert score_table(study, scores).rows[1][3] == "–"
    assert b"nan" not in results_csv(study, scores)


@pytest.mark.parametrize(
    ("seeds", "said"), [(2, "exploratory: 2 seeds"), (6, "exploratory: 6 seeds"), (10, None)]
)
def test_few_seeds_are_called_exploratory(tmp_path, seeds, said):
    add_group(tmp_path, {"standard": 1.0}, seeds=range(seeds))
    found = warnings(collect([tmp_path]))
    assert [line for line in found if "seed" in line] == found
    assert found == [] if said is None else found[0].startswith(said)


@pytest.mark.parametrize(
    ("seeds", "claim", "said"),
    [
        (
            4,
            "too few seeds",
            "With 4 pairs differences are exploratory (no test can reach p < .1)",
        ),
        (9, "exploratory", "With 9 pairs differences are exploratory: 10 are needed"),
        (10, "claim", None),
        (15, "claim", None),
    ],
)
def test_differences_of_few_seeds_are_called_exploratory(tmp_path, seeds, claim, said):
    add_group(tmp_path, {"standard": 1.0, "l2": 2.0}, seeds=range(seeds))
    study, _, scores = scores_of(tmp_path)
    caption = score_table(study, scores).caption
    assert said in caption if said else "exploratory" not in caption
    assert ("p is an exact" in caption) == (seeds <= 14)
    rows = list(csv.DictReader(io.StringIO(results_csv(study, scores).decode())))
    assert [row["claim"] for row in rows] == ["", claim]
    assert [row["resets_replay"] for row in rows] == ["no", "no"]
    table = continual_table(study, scores)
    assert [row[table.header.index("seeds")] for row in table.rows] == [str(seeds)] * 2


def test_numbers_as_text():
    assert [number_text(v) for v in (1234.6, 12.345, 0.01234, 0.0, math.nan, -0.5)] == [
        *("1,235", "12.3", "0.0123", "0", "–", "-0.500")
    ]
    assert interval_text(Interval(2.0, 1.0, 3.0, 5)) == "2.00 [1.00, 3.00]"
    assert interval_text(Interval(2.0, math.nan, math.nan, 1)) == "2.00"
    assert interval_text(None) == "–"
    assert [p_text(v) for v in (0.0001, 0.031, 1.0, math.nan)] == ["< .001", ".031", "1", "–"]
    assert [percent_text(v, sign=True) for v in (0.25, -0.1, math.nan)] == ["+25 %", "-10 %", "–"]
