"""Windows stand for regimes where there are none, or not equally many in all runs."""

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from synthetic_studies import add_group, add_run

from analysis.compare.collecting import collect
from analysis.compare.report import compose
from analysis.compare.scores import score
from analysis.compare.tables import continual_table

RANDOM_LENGTHS = ((4, 1_000), (5, 800), (2, 2_000))  # regimes and their length, by seed


def add_random_lengths(root, arm, **settings):
    env = {"switch_interval": 1_000, "intervals": "geometric"}
    for seed, (num_regimes, interval) in enumerate(RANDOM_LENGTHS):
        add_run(root, arm, seed, num_regimes=num_regimes, interval=interval, env=env, **settings)


def test_runs_with_unequal_numbers_of_regimes_are_compared_in_windows(tmp_path):
    def by_time(level, seed, regime, share):
        return level * share + regime + seed

    def of_the_oracle(level, seed, regime, share):
        return 200.0 * share + seed

    add_random_lengths(tmp_path, "standard", score=by_time)
    add_random_lengths(tmp_path, "l2", score=by_time, level=120.0)
    add_random_lengths(tmp_path, "fresh_oracle", score=of_the_oracle)
    found = collect([tmp_path])
    assert found.about["windows"]
    assert not found.about["stationary"]
    scores = score(found)
    arms: dict[str, Any] = {arm.facts.name: arm for arm in scores.arms}
    assert scores.areas["l2"].shape == (3, 10)
    assert np.isfinite(scores.areas["l2"]).all()
    # Only the first window begins with untrained networks, wherever worlds change.
    untrained = found.matrix("fresh_oracle", "regime/first_episodes")[:, :1]
    ranges = scores.areas["fresh_oracle"] - untrained
    ranges = np.where(ranges >= 0.05 * ranges.max(), ranges, math.nan)
    index = (scores.areas["l2"] - untrained) / ranges
    assert arms["l2"].index["late_mean"].estimate == pytest.approx(
        np.nanmean(index[:, -4:], axis=1).mean()
    )


def test_windows_average_over_steps_also_where_episodes_are_longer(tmp_path):
    def steps(level, seed, regime, share):  # five episodes, each of two windows
        return 10.0 * round(5 * share) + seed

    add_group(tmp_path, {"standard": 0.0}, num_regimes=1, interval=4_000, episodes_per_regime=5,
              score=steps)  # fmt: skip
    scores = score(collect([tmp_path]))
    expected = np.repeat([10.0, 20, 30, 40, 50], 2) + np.arange(3)[:, None]
    np.testing.assert_allclose(scores.areas["standard"], expected)
    np.testing.assert_allclose(scores.phases["standard"], expected)
    assert scores.notes == ()


def test_nothing_recovers_where_nothing_has_changed(tmp_path):
    add_group(tmp_path, {"standard": 50.0, "l2": 60.0}, num_regimes=1, interval=4_000,
              episodes_per_regime=200)  # fmt: skip
    found = collect([tmp_path])
    scores = score(found)
    assert all(arm.recovery is None for arm in scores.arms)
    assert all(math.isnan(arm.share_recovered) for arm in scores.arms)
    table = continual_table(found, scores)
    assert not {"recovery", "recovered"} & set(table.header)
    assert "Recovery" not in table.caption


def test_a_fresh_copy_where_nothing_changes_is_no_oracle(tmp_path):
    add_group(tmp_path, {"standard": 50.0, "l2": 60.0, "fresh_oracle": 50.0}, num_regimes=1,
              interval=4_000, episodes_per_regime=200)  # fmt: skip
    found = collect([tmp_path])
    assert found.about["oracle"] == "fresh_oracle"
    scores = score(found)
    # The report says that methods are compared by their return there, so they must be.
    assert scores.is_ranked
    assert scores.verdict is None
    assert not any(arm.index or arm.self_index for arm in scores.arms)
    assert all(arm.comparison for arm in scores.arms if arm.facts.name == "l2")
    named = replace(found, about={**found.about, "out": "x"})
    assert "compared by their return alone" in str(compose(named, scores, "x", []))


def test_worlds_of_random_lengths_are_known_to_change(tmp_path):
    for arm in ("standard", "fresh_oracle"):
        add_random_lengths(tmp_path, arm)
    found = collect([tmp_path])
    assert found.about["windows"]
    verdict = score(found).verdict
    assert verdict is not None
    assert not any("nobody verified" in reason for reason in verdict.reasons)


def test_drifting_values_change_though_every_period_begins_at_the_same(tmp_path):
    env = {"schedule": "sinusoidal"}
    add_group(tmp_path, {"standard": 50.0, "fresh_oracle": 60.0}, env=env)
    for path in tmp_path.rglob("events.jsonl"):
        path.write_text(re.sub(r'("friction": *)[0-9.]+', r"\g<1>0.2", path.read_text()))
    found = collect([tmp_path])
    verdict = score(found).verdict
    assert verdict is not None
    assert not any("nobody verified" in reason for reason in verdict.reasons)


def test_one_world_of_several_is_no_standstill(tmp_path):
    """Before the first switch nobody can say what is lost, nor that nothing changes."""
    add_group(tmp_path, {"standard": 50.0, "l2": 60.0}, num_regimes=1, interval=4_000,
              episodes_per_regime=200)  # fmt: skip
    found = collect([tmp_path])
    scores = score(found)
    assert not any(arm.retention for arm in scores.arms)
    text = str(compose(replace(found, about={**found.about, "out": "x"}), scores, "x", []))
    assert "no run has reached a second world" in text
    assert "Nothing changes in this world" not in text


def test_the_same_in_a_fixed_world_is_one(tmp_path):
    add_group(tmp_path, {"standard": 50.0, "l2": 60.0}, num_regimes=1, interval=4_000,
              episodes_per_regime=200, env={"schedule": "fixed"})  # fmt: skip
    found = collect([tmp_path])
    scores = score(found)
    assert all(arm.retention for arm in scores.arms)
    text = str(compose(replace(found, about={**found.about, "out": "x"}), scores, "x", []))
    assert "Nothing changes in this world" in text
