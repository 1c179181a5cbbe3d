"""Scores of continual learning against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from analysis.continual import (
    Episodes,
    binned_returns,
    completed_shares,
    end_of_phase,
    failure_report,
    lifetime_average,
    recovery,
    recovery_threshold,
    regime_areas,
    score_failures,
    summarize_recovery,
    trailing_returns,
    window_average,
    window_averages,
    zero_shot_return,
)

NAN = math.nan


def stream(returns, lengths, regimes=None, cut=None) -> Episodes:
    """Episodes of one environment, one after another."""
    size = len(returns)
    return Episodes.from_rows(
        returns,
        lengths,
        np.cumsum(lengths),
        np.zeros(size) if regimes is None else regimes,
        np.zeros(size) if cut is None else cut,
    )


def test_lifetime_average_weighs_steps() -> None:
    returns, lengths = [1000.0] + [50.0] * 10, [1000] + [100] * 10
    assert lifetime_average(returns, lengths) == 525.0
    assert np.mean(returns) == pytest.approx(136.364, abs=1e-3)
    assert math.isnan(lifetime_average([], []))
    with pytest.raises(ValueError, match="positive"):
        lifetime_average([1.0], [0])
    with pytest.raises(ValueError, match="one number per episode"):
        lifetime_average([1.0, 2.0], [1])
    with pytest.raises(ValueError, match="missing or infinite"):
        lifetime_average([NAN], [1])


def test_rhat_averaged_step_by_step() -> None:
    rng = np.random.default_rng(0)
    lengths, returns = rng.integers(1, 30, 40), rng.normal(size=40)
    rhat = np.repeat(returns, lengths)
    episodes = stream(returns, lengths)
    assert lifetime_average(returns, lengths) == pytest.approx(rhat.mean())
    for low, high in ((0, 50), (13, 14), (100, 333)):
        assert window_average(episodes, low, high) == pytest.approx(rhat[low:high].mean())
    total = int(lengths.sum())
    halves = window_averages(episodes, total - total % 2, 2)
    assert halves == pytest.approx(
        [rhat[: total // 2].mean(), rhat[total // 2 :][: total // 2].mean()]
    )
    assert math.isnan(window_average(episodes, total, total + 10))


def test_parallel_environments_share_one_clock() -> None:
    # Two environments: one episode of 10 steps (return 4), two of 5 (returns 1, 2).
    episodes = Episodes.from_rows([1, 4, 2], [5, 10, 5], [10, 20, 20], [0] * 3, [0] * 3, num_envs=2)
    assert episodes.start_steps.tolist() == [0, 0, 10]
    assert lifetime_average(episodes.returns, episodes.lengths) == pytest.approx(55 / 20)
    assert window_average(episodes, 0, 20) == pytest.approx(55 / 20)
    assert window_average(episodes, 0, 10) == pytest.approx((1 + 4) / 2)


def test_a_cut_episode_counts_in_areas_but_not_in_end_of_phase() -> None:
    # Regime 0: 60 steps at 10, 40 cut at 2. Regime 1: empty. Regime 2: 100 steps at 7.
    episodes = Episodes.from_rows(
        [10, 2, 7], [60, 40, 100], [60, 100, 300], [0, 0, 2], [False, True, False]
    )
    areas = regime_areas(episodes, 3)
    assert areas[[0, 2]].tolist() == [6.8, 7.0]
    assert math.isnan(areas[1])
    assert lifetime_average(episodes.returns, episodes.lengths) == pytest.approx(1380 / 200)
    ends = end_of_phase(episodes, [0, 100, 200, 300], share=0.5)
    assert ends[[0, 2]].tolist() == [10.0, 7.0]
    assert math.isnan(ends[1])
    assert math.isnan(end_of_phase(episodes, [0, 100, 200, 300])[0])  # last eighth: cut only


def test_end_of_phase_takes_the_last_eighth() -> None:
    episodes = stream([1.0] * 14 + [3.0, 9.0], [50] * 16)  # 800 steps: the last 100 are two
    assert end_of_phase(episodes, [0, 800]).tolist() == [6.0]


def test_an_episode_over_a_boundary_belongs_where_it_began() -> None:
    episodes = stream([1.0, 5.0, 2.0], [80, 40, 80], regimes=[0, 0, 1])
    assert regime_areas(episodes, 2) == pytest.approx([(80 + 200) / 120, 2.0])


def test_bins_hold_the_episodes_that_end_in_them_and_empty_bins_are_missing() -> None:
    episodes = stream([1.0, 3.0, 8.0, 100.0], [40, 60, 150, 10], cut=[0, 0, 0, 1])
    bins = binned_returns(episodes, [0, 100, 200, 300])
    assert bins[[0, 2]].tolist() == [2.0, 8.0]  # an end exactly on an edge closes its bin
    assert math.isnan(bins[1])


def test_zero_shot_return_takes_the_first_episodes_of_a_visit() -> None:
    episodes = stream(np.arange(50.0), [10] * 50, regimes=[0] * 25 + [1] * 25)
    assert zero_shot_return(episodes, 1) == np.arange(25, 45).mean()
    assert math.isnan(zero_shot_return(episodes, 2))


def test_recovery_threshold_is_offset_by_the_random_policy() -> None:
    assert recovery_threshold(-100.0, 300.0) == 260.0
    assert recovery_threshold(-400.0, -100.0) == pytest.approx(-130.0)


def test_recovery_of_censored_runs() -> None:
    found = summarize_recovery([0.2, 0.5, math.inf], limit=1.0)
    assert found.restricted_mean == pytest.approx(0.566667, abs=1e-6)
    assert found.share_recovered == pytest.approx(0.666667, abs=1e-6)
    assert found.n == 3
    assert summarize_recovery([0.2, 0.5, 1.7], limit=1.0) == found
    # Nobody knows of the fourth run: it is counted, and neither recovered nor censored.
    assert summarize_recovery([0.2, NAN, 0.5, 1.7], limit=1.0) == replace(found, num_unknown=1)
    for nothing in ([], [NAN]):
        with pytest.raises(ValueError, match="no recovery times"):
            summarize_recovery(nothing, 1.0)


def slow_trailing(episodes: Episodes, start: float, window: float) -> dict[int, float]:
    """Step by step: mean of Rhat over the longer of `window` steps and ten episodes."""
    rhat = np.repeat(episodes.returns, episodes.lengths.astype(int))
    ends = (episodes.end_steps - start).astype(int)
    found = {}
    for index, end in enumerate(ends):
        if index < 9 or end < window:
            continue
        tenth_last = ends[index] - int(episodes.lengths[index - 9 : index + 1].sum())
        found[end + int(start)] = rhat[min(end - int(window), tenth_last) : end].mean()
    return found


@pytest.mark.parametrize("window", [20, 150, 400])
def test_trailing_returns_equal_a_slow_loop(window: int) -> None:
    rng = np.random.default_rng(1)
    episodes = stream(rng.normal(size=60), rng.integers(5, 25, 60))
    start = 1000.0
    later = replace(
        episodes, start_steps=episodes.start_steps + start, end_steps=episodes.end_steps + start
    )
    times, means = trailing_returns(later, start, window)
    expected = slow_trailing(later, start, window)
    assert times.tolist() == list(expected)
    assert means == pytest.approx(list(expected.values()))


def test_recovery_after_a_switch() -> None:
    # Two regimes of 1,000 steps in episodes of 10: return 300, then 0 for 30 episodes, then 300.
    returns = [300.0] * 100 + [0.0] * 30 + [300.0] * 70
    episodes = stream(returns, [10] * 200, regimes=[0] * 100 + [1] * 100)
    found = recovery(episodes, [0, 1000, 2000], 1, threshold=recovery_threshold(-100, 300))
    # The window is ten episodes (100 steps, more than 2 %); 260 needs nine of them at 300.
    assert found.time == 390.0
    assert found.drop == 300.0  # the window never mixes in the returns before the switch
    first = recovery(episodes, [0, 1000, 2000], 0, threshold=260.0)
    assert first.time == 100.0
    assert math.isnan(first.drop)
    assert math.isinf(recovery(episodes, [0, 1000, 2000], 1, threshold=301.0).time)
    few = stream([300.0] * 19, [100] * 19, regimes=[0] * 10 + [1] * 9)  # nine say nothing
    assert math.isnan(recovery(few, [0, 1000, 2000], 1, threshold=301.0).time)
    assert math.isnan(recovery(few, [0, 1000, 2000], 1, threshold=0.0).time)
    with pytest.raises(ValueError, match="there are regimes 0 to 1"):
        recovery(episodes, [0, 1000, 2000], 2, threshold=0.0)


def test_no_recovery_before_the_window_fits_into_the_regime() -> None:
    episodes = stream([300.0] * 2000, [1] * 2000, regimes=[0] * 1000 + [1] * 1000)
    for regime in (0, 1):  # 2 % are 20 steps, more than ten episodes of one step
        assert recovery(episodes, [0, 1000, 2000], regime, threshold=260.0).time == 20.0


def test_a_failed_run_earns_the_random_score_from_its_failure_on() -> None:
    shares = completed_shares([np.inf, 250.0, 0.0], [0, 100, 200, 300])
    assert shares.tolist() == [[1, 1, 1], [1, 1, 0.5], [0, 0, 0]]
    areas = [[10.0, 20.0, 30.0], [11.0, 21.0, 31.0], [NAN, NAN, NAN]]
    found = score_failures(areas, shares, [-1.0, -2.0, -3.0])
    assert found.tolist() == [[10, 20, 30], [11, 21, 14], [-1, -2, -3]]
    # Half a regime without one completed episode earned nothing.
    assert score_failures([NAN], [0.5], -3.0).tolist() == [-3.0]
    # A finished run without a score was lost, not failed: it must be rerun.
    assert math.isnan(score_failures([NAN], [1.0], -3.0)[0])
    with pytest.raises(ValueError, match="infinity"):
        completed_shares([NAN], [0, 100])
    with pytest.raises(ValueError, match="must agree"):
        score_failures([1.0, 2.0], [1.0], 0.0)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        score_failures([1.0], [1.5], 0.0)


def test_one_failure_of_ten_is_reported_with_both_aggregates() -> None:
    scores = np.r_[np.full(9, 100.0), -100.0]
    failed = scores < 0
    report = failure_report(scores, failed, "mean")
    assert (report.n, report.num_failures) == (10, 1)
    assert report.with_failures.estimate == 80.0
    assert report.without_failures is not None
    assert report.without_failures.estimate == 100.0
    assert report.without_failures.n == 9
    assert failure_report([1.0, 2.0], [True, True]).without_failures is None
    with pytest.raises(ValueError, match="for 10 runs"):
        failure_report(scores, [True])
