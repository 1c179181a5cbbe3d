"""Scores of continual learning against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.continual import (
    Episodes,
    binned_returns,
    completed_shares,
    end_of_phase,
    failure_report,
    lifetime_average,
    regime_areas,
    score_failures,
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


def test_a_failed_run_earns_the_random_score_from_its_failure_on() -> None:
    shares = completed_shares([np.inf, 250.0, 0.0], [0, 100, 200], [100, 200, 300])
    assert shares.tolist() == [[1, 1, 1], [1, 1, 0.5], [0, 0, 0]]
    ends = completed_shares([275.0], [75, 175, 250], [100, 200, 300])  # of the ends of phases
    assert ends.tolist() == [[1, 1, 0.5]]
    areas = [[10.0, 20.0, 30.0], [11.0, 21.0, 31.0], [NAN, NAN, NAN]]
    found = score_failures(areas, shares, [-1.0, -2.0, -3.0])
    assert found.tolist() == [[10, 20, 30], [11, 21, 14], [-1, -2, -3]]
    # Half a regime without one completed episode earned nothing.
    assert score_failures([NAN], [0.5], -3.0).tolist() == [-3.0]
    # A finished run without a score was lost, not failed: it must be rerun.
    assert math.isnan(score_failures([NAN], [1.0], -3.0)[0])
    with pytest.raises(ValueError, match="infinity"):
        completed_shares([NAN], [0], [100])
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
