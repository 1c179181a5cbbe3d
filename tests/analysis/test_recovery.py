"""Drops and recovery times against slow loops over their definition."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic_studies import add_group

from analysis.compare.collecting import collect
from analysis.compare.scores import score
from analysis.continual import (
    Episodes,
    recovery_shares,
    recovery_threshold,
    trailing_means,
    trailing_records,
    window_average,
)
from analysis.statistics import Interval

NAN = math.nan


def stream(returns, lengths, regimes=None) -> Episodes:
    """Episodes of one environment, one after another."""
    none = np.zeros(len(returns))
    places = none if regimes is None else regimes
    return Episodes.from_rows(returns, lengths, np.cumsum(lengths), places, none)


def slow_trailing(episodes: Episodes, start: float, window: float):
    """Episode by episode: the longer of `window` steps and ten episodes, inside the regime."""
    times, means = [], []
    for index in range(9, len(episodes.returns)):
        time = episodes.end_steps[index]
        if time - start < window:
            continue
        low = min(time - window, float(episodes.start_steps[index - 9 : index + 1].min()))
        ended = episodes.end_steps[: index + 1] > low
        times.append(time)
        means.append(window_average(episodes.select(np.flatnonzero(ended)), low, time))
    return np.array(times), np.array(means)


def slow_recovery(episodes: Episodes, boundaries, regime: int, threshold: float):
    """(Drop, share of the regime until the threshold) of one regime."""

    def trailing(index: int):
        length = boundaries[index + 1] - boundaries[index]
        return slow_trailing(episodes.complete(index), boundaries[index], 0.02 * length)

    length = boundaries[regime + 1] - boundaries[regime]
    times, means = trailing(regime)
    since = times - boundaries[regime]
    inside = since <= length
    reached = since[inside & (means >= threshold)]
    never = math.inf if inside.any() else NAN
    early = means[since <= 0.25 * length]
    before = trailing(regime - 1)[1] if regime else np.zeros(0)
    drop = before[-1] - early.min() if before.size and early.size else NAN
    return drop, reached[0] / length if reached.size else never


def measured(episodes: Episodes, boundaries, thresholds):
    """(regimes,) drops and shares, as reports measure them."""
    drops, regimes, steps, returns = trailing_records(episodes, np.array(boundaries, dtype=float))
    records = regimes, steps, returns
    return drops, recovery_shares(records, np.array(boundaries), np.array(thresholds))


def test_recovery_threshold_is_offset_by_the_random_policy() -> None:
    assert recovery_threshold(-100.0, 300.0) == 260.0
    assert recovery_threshold(-400.0, -100.0) == pytest.approx(-130.0)


@pytest.mark.parametrize("window", [20, 150, 400])
def test_trailing_means_step_by_step(window: int) -> None:
    rng = np.random.default_rng(1)
    episodes, start = stream(rng.normal(size=60), rng.integers(5, 25, 60)), 1000
    later = replace(
        episodes, start_steps=episodes.start_steps + start, end_steps=episodes.end_steps + start
    )
    rhat = np.repeat(later.returns, later.lengths.astype(int))
    expected = {}
    for index, end in enumerate(episodes.end_steps.astype(int)):
        if index >= 9 and end >= window:
            low = min(end - window, end - int(later.lengths[index - 9 : index + 1].sum()))
            expected[end + start] = rhat[low:end].mean()
    times, means = trailing_means(later, start, window)
    assert times.tolist() == list(expected)
    assert means == pytest.approx(list(expected.values()))


@pytest.mark.parametrize("seed", range(20))
def test_recovery_equals_slow_loops_where_environments_step_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_envs, boundaries = int(rng.integers(1, 5)), np.array([0.0, 8_000, 16_000, 28_000])
    lengths = rng.integers(3, 60, 900)
    ends = np.cumsum(lengths) // num_envs * num_envs + 60
    regimes = np.minimum(ends // 8_000, 2)
    returns = np.cumsum(rng.normal(0.05, 1.0, 900))
    cut = rng.random(900) < 0.02
    episodes = Episodes.from_rows(returns, lengths, ends, regimes, cut, num_envs=num_envs)
    for regime in range(3):
        one, window = episodes.complete(regime), float(rng.integers(50, 600))
        slow = slow_trailing(one, boundaries[regime], window)
        np.testing.assert_allclose(trailing_means(one, boundaries[regime], window), slow)
        assert len(slow[0]) > 20
    thresholds = [float(rng.choice(returns)), NAN, returns.max() + 1.0]
    drops, shares = measured(episodes, boundaries, thresholds)
    expected = [slow_recovery(episodes, boundaries, k, thresholds[k]) for k in range(3)]
    np.testing.assert_allclose(drops, [drop for drop, _ in expected])
    np.testing.assert_allclose(shares[[0, 2]], [expected[0][1], math.inf])
    assert np.isnan(shares[1])


def test_recovery_after_a_switch() -> None:
    # Two regimes of 1,000 steps in episodes of 10: return 300, then 0 for 30 episodes, then 300.
    returns = [300.0] * 100 + [0.0] * 30 + [300.0] * 70
    episodes = stream(returns, [10] * 200, regimes=[0] * 100 + [1] * 100)
    drops, shares = measured(episodes, [0, 1000, 2000], [260.0, recovery_threshold(-100, 300)])
    # The window is ten episodes (100 steps, more than 2 %); 260 needs nine of them at 300.
    assert shares.tolist() == [0.1, 0.39]
    assert math.isnan(drops[0])
    assert drops[1] == 300.0  # the window never mixes in the returns before the switch
    assert math.isinf(measured(episodes, [0, 1000, 2000], [NAN, 301.0])[1][1])


def test_nine_episodes_say_nothing_about_recovery() -> None:
    few = stream([300.0] * 19, [100] * 19, regimes=[0] * 10 + [1] * 9)
    for threshold in (0.0, 301.0):
        assert math.isnan(measured(few, [0, 1000, 2000], [NAN, threshold])[1][1])


def test_no_recovery_before_the_window_fits_into_the_regime() -> None:
    episodes = stream([300.0] * 2000, [1] * 2000, regimes=[0] * 1000 + [1] * 1000)
    # 2 % are 20 steps, more than ten episodes of one step.
    assert measured(episodes, [0, 1000, 2000], [260.0] * 2)[1].tolist() == [0.02, 0.02]


def test_a_run_that_never_recovers_counts_as_the_whole_regime(tmp_path) -> None:
    study = collect([add_group(tmp_path, {"standard": 100.0}, num_regimes=2)])
    runs = {
        key: replace(run, values={**run.values, "regime/recovery": np.array([NAN, time])})
        for (key, run), time in zip(
            study.runs["standard"].items(), (0.2, 0.5, math.inf), strict=True
        )
    }
    (arm,) = score(replace(study, runs={"standard": runs})).arms
    assert isinstance(arm.recovery, Interval)
    assert (arm.recovery.estimate, arm.recovery.n) == (pytest.approx(0.566667, abs=1e-6), 3)
    assert arm.share_recovered == pytest.approx(0.666667, abs=1e-6)
