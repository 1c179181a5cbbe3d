"""Regimes cut short, failures and undefined indices neither flatter nor punish an arm."""

import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic_studies import add_group, add_run

from analysis.compare.collecting import collect
from analysis.compare.correlations import Correlation, rank_correlation
from analysis.compare.course import course
from analysis.compare.report import compose, to_markdown, warnings
from analysis.compare.scores import score
from analysis.compare.tables import continual_table
from analysis.statistics import Interval


def arms_of(study):
    return {arm.facts.name: arm for arm in score(study).arms}


def rises(level, seed, regime, share):
    return level * share


def text_of(study):
    study = replace(study, about={**study.about, "out": "named"})
    return to_markdown(compose(study, score(study), "named", (), course(study)))


@pytest.mark.parametrize("until", [3_000, 3_060])
def test_a_stub_of_a_regime_is_no_regime(tmp_path, until):
    """Three regimes that rise alike; 60 more steps of a fourth say nothing about its end."""
    for arm in ("standard", "redo"):
        for seed in range(3):
            add_run(
                *(tmp_path, arm, seed),
                until=until,
                status="unfinished",
                episodes_per_regime=250,
                score=lambda level, seed, regime, share: level * share,
            )
    study = collect([tmp_path], partial=True)
    found = arms_of(study)["redo"]
    # Mean of the shares of the episodes over the last eighth, and no slope between equal regimes.
    assert found.late.estimate == pytest.approx(93.75, abs=0.3)
    assert found.area_slope.estimate == pytest.approx(0.0, abs=0.2)
    notes = [note for note in score(study).notes if "cut short" in note]
    assert notes == ([] if until == 3_000 else [notes[0]])
    assert until == 3_000 or "60 of 1,000 steps" in notes[0]


def test_regimes_that_are_nearly_whole_count(tmp_path):
    folder = add_group(tmp_path, {"standard": 1.0}, until=2_950, status="unfinished")
    study = collect([folder], partial=True)
    assert "cut_regime" not in study.about


def test_a_failed_run_has_learnt_nothing_in_the_worlds_it_did_not_see(tmp_path):
    def earned(level, seed, regime, share):
        floor = -1_000.0 * (seed % 2) - 100.0 * regime
        return floor + level * share

    kwargs = {"score": earned, "episodes_per_regime": 250}
    add_group(tmp_path, {"standard": 3_000.0, "fresh_oracle": 3_000.0}, range(4), **kwargs)
    for seed in range(4):
        failed = {"until": 1_000, "status": "failed"} if seed < 2 else {}
        add_run(tmp_path, "redo", seed, level=3_000.0, **kwargs, **failed)
    study = collect([tmp_path])
    found = score(study)
    scorer_index = found.oracle
    assert scorer_index == "fresh_oracle"
    redo = arms_of(study)["redo"]
    # Two runs at 0, two at 1: neither the seed's level nor the world's enters.
    assert redo.index["late_mean"].estimate == pytest.approx(0.5, abs=1e-6)
    assert redo.index["late_mean"].low >= -1e-6


def test_the_gate_refuses_where_fresh_networks_do_not_learn(tmp_path):
    """Two regimes, and in one of them fresh networks end below where they began."""

    def fresh(level, seed, regime, share):
        return level * share * (1.0 if regime == 0 else -1.0)

    def lasting(level, seed, regime, share):
        return level * share

    for seed in range(10):
        kwargs = {"num_regimes": 2, "episodes_per_regime": 250}
        add_run(tmp_path, "fresh_oracle", seed, score=fresh, **kwargs)
        add_run(tmp_path, "standard", seed, score=lasting, **kwargs)
        add_run(tmp_path, "redo", seed, level=120.0, score=lasting, **kwargs)
    study = collect([tmp_path])
    found = score(study)
    assert found.verdict is not None
    assert found.verdict.learnable_share == 0.5
    assert math.isnan(found.verdict.slope.estimate)
    assert not found.verdict.accepted
    assert not found.is_ranked
    assert "slope is not known in every run" in text_of(study)


def test_a_failure_after_the_steps_compared_is_none(tmp_path):
    add_group(tmp_path, {"standard": 100.0}, until=2_000, status="unfinished")
    add_group(tmp_path, {"redo": 100.0}, range(1, 3), until=2_500, status="unfinished")
    add_run(tmp_path, "redo", 0, until=3_000, status="failed")
    study = collect([tmp_path], partial=True)
    assert study.about["end"] == 2_000
    assert arms_of(study)["redo"].num_failed == 0
    assert not [line for line in warnings(study) if "failed" in line]


def test_the_course_of_a_failed_run_goes_on_untrained(tmp_path):
    add_group(tmp_path, {"standard": 100.0}, episodes_per_regime=250)
    add_group(tmp_path, {"redo": 100.0}, range(2), episodes_per_regime=250)
    add_run(tmp_path, "redo", 2, until=2_000, status="failed", episodes_per_regime=250)
    study = collect([tmp_path])
    untrained = score(study).untrained
    last = [p for p in course(study) if (p.arm, p.quantity) == ("redo", "return")][-1]
    others = study.matrix("redo", "curve/return")[:2, -5:].mean(axis=1)
    assert last.mean.n == 3
    assert last.mean.estimate == pytest.approx((others.sum() + untrained) / 3)
    # Diagnostics of the dead are not made up: the table says how many runs are left.
    assert "(n = 2)" in text_of(study)


def test_few_runs_are_no_evidence():
    rng = np.random.default_rng(0)
    outcome = rng.normal(size=(12, 9))
    for runs, is_evidence in ((5, False), (12, True)):
        rho, pairs = rank_correlation(outcome[:runs] + 0.1, outcome[:runs])
        assert rho.low > 0.0
        assert Correlation("one", rho, pairs).is_evidence == is_evidence
    assert not Correlation("one", Interval(0.1, -0.1, 0.3, 12), 100).is_evidence


def test_undefined_indices_against_itself_are_counted(tmp_path):
    def hardly(level, seed, regime, share):
        return level * share * (0.001 if regime == 2 else 1.0)

    kwargs = {"score": hardly, "episodes_per_regime": 250}
    add_group(tmp_path, {"standard": 100.0, "l2": 100.0, "fresh_l2": 100.0}, **kwargs)
    study = collect([tmp_path])
    assert arms_of(study)["l2"].num_undefined_self == 3
    assert "no PI (0 regimes of all runs) and no PI_self (3)" in text_of(study)


def test_recovery_says_over_how_many_runs_it_is(tmp_path):
    add_group(tmp_path, {"standard": 100.0, "redo": 100.0}, range(1, 3))
    add_run(tmp_path, "standard", 0, until=900, status="failed")
    add_run(tmp_path, "redo", 0)
    study = collect([tmp_path])
    table = continual_table(study, score(study))
    row = next(row for row in table.rows if row[0] == "redo")
    assert row[1] == "3"
    assert row[table.header.index("recovery")].endswith("(n = 2)")


def test_no_sentence_about_a_column_that_is_not_there(tmp_path):
    fixed = {"env": {"schedule": "fixed"}, "num_regimes": 1, "interval": 4_000}
    add_group(tmp_path, {"standard": 1.0, "redo": 1.0}, **fixed, episodes_per_regime=100)
    text = text_of(collect([tmp_path]))
    assert ("The retention index in the table above" in text) == ("retention, last third" in text)
    for seed in range(2):
        for arm in ("standard", "redo"):
            settings = {"init_from": "x", "fresh_parts": [], "episodes_per_regime": 100}
            add_run(tmp_path / "b", arm, seed, **fixed, **settings)
    text = text_of(collect([tmp_path / "b"]))
    assert "Nothing changes in this world" in text
    assert "retention index in the table above" not in text


@pytest.mark.parametrize("until", [1_060, 1_300, 3_300])
def test_a_failed_fresh_copy_is_no_measure_of_anything(tmp_path, until):
    """The plain arm is as good as fresh networks everywhere, whatever happened to one of them."""
    kwargs = {"score": rises, "num_regimes": 9, "episodes_per_regime": 25}
    arms = {"standard": 300.0, "fresh_oracle": 300.0}
    add_group(tmp_path, arms, range(1, 10), **kwargs)
    add_run(tmp_path, "standard", 0, level=300.0, **kwargs)
    add_run(tmp_path, "fresh_oracle", 0, level=300.0, until=until, status="failed", **kwargs)
    study = collect([tmp_path])
    scores = score(study)
    standard = next(arm for arm in scores.arms if arm.facts.name == "standard")
    for summary, expected in (("late_mean", 1.0), ("slope", 0.0)):
        found = standard.index[summary]
        assert (found.estimate, found.low, found.high) == pytest.approx((expected,) * 3)
        assert found.n == 9
    assert any("fresh_oracle failed on seed 0" in note for note in scores.notes)
    table = continual_table(study, scores)
    row = next(row for row in table.rows if row[0] == "standard")
    assert row[table.header.index("PI slope")].endswith("(n = 9)")
    # Nine pairs are too few to say that there is no loss.
    assert scores.verdict is not None
    assert "9 baseline seeds" in scores.verdict.reasons[0]


def test_copies_that_all_failed_measure_nothing(tmp_path):
    add_group(tmp_path, {"standard": 300.0}, score=rises)
    for seed in range(3):
        failed = {"until": 1_300, "status": "failed"}
        add_run(tmp_path, "fresh_oracle", seed, level=300.0, score=rises, **failed)
    scores = score(collect([tmp_path]))
    assert scores.verdict is None
    assert any("every run of fresh_oracle failed" in note for note in scores.notes)


def test_a_fresh_copy_of_other_seeds_is_left_out_of_a_partial_comparison(tmp_path):
    add_group(tmp_path, {"standard": 300.0, "redo": 300.0}, range(2))
    add_run(tmp_path, "fresh_oracle", 5, until=2_000, status="unfinished")
    study = collect([tmp_path], partial=True)
    assert [arm.name for arm in study.arms] == ["standard", "redo"]
    assert score(study).verdict is None


@pytest.mark.parametrize("level", [-500.0, 500.0])
def test_failures_that_earn_more_than_the_living_are_told(tmp_path, level):
    """Runs that are still falling earn less than a policy that nobody trained."""
    add_group(tmp_path, {"standard": level}, score=rises)
    for seed in range(3):
        add_run(tmp_path, "redo", seed, level=level, score=rises, until=500, status="failed")
    notes = [note for note in score(collect([tmp_path])).notes if "are no merit of theirs" in note]
    assert len(notes) == (1 if level < 0 else 0)
    assert level > 0 or "(standard: -260)" in notes[0]  # the mean of -500 times 1/25 to 25/25
