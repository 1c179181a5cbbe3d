"""Averages over training episodes: of all, of each task, and where nothing is known."""

import numpy as np
import pytest

from analysis.episodes import EpisodeAccount
from analysis.progress import summary_of


def told(returns, regimes, success=None, cut=None):
    """`info` of a vector step that ends all its episodes."""
    num = len(returns)
    info = {
        "episode_return": np.array(returns, dtype=np.float64),
        "episode_length": np.full(num, 10),
        "episode_start_regime": np.array(regimes),
        "regime_value": np.array(regimes, dtype=np.float64),
        "switch_truncated": np.zeros(num, dtype=bool) if cut is None else np.array(cut),
    }
    return info if success is None else info | {"episode_success": np.array(success)}


def take(account, info):
    ended = np.ones(len(info["episode_return"]), dtype=bool)
    return account.step(100, np.zeros(len(ended)), ~ended, ended, info)


def test_averages_of_every_task_are_those_of_its_own_episodes():
    account = EpisodeAccount(("reach", "push", "reach"), tells_success=True)
    rows = take(account, told([1.0, 4.0], [0, 1], [True, False]))
    take(account, told([3.0, 8.0], [0, 1], [False, False]))
    assert [row["success"] for row in rows] == [True, False]
    averages = account.averages()
    assert averages["episode_return"] == 4.0
    assert averages["episode_success"] == 0.25
    assert averages["episode_return/reach"] == 2.0
    assert averages["episode_return/push"] == 6.0
    assert averages["episode_success/reach"] == 0.5
    assert averages["episode_success/push"] == 0.0
    assert "episode_success/reach#2" not in averages  # no episode ended: an empty cell, not 0
    assert set(averages) <= set(account.columns)
    assert len(set(account.columns)) == len(account.columns)
    assert {"episode_return/reach#2", "episode_success/reach#2"} <= set(account.columns)
    account.reset()
    assert "episode_success" not in account.averages()


def test_episodes_that_a_switch_cut_are_no_failures():
    account = EpisodeAccount(tells_success=True)
    take(account, told([1.0, 5.0], [0, 0], [True, False], cut=[False, True]))
    assert account.averages()["episode_success"] == 1.0


def test_worlds_without_success_keep_the_columns_they_had():
    account = EpisodeAccount()
    (row,) = take(account, told([1.0], [0]))
    assert tuple(row) == account.episode_columns
    assert "success" not in row
    assert account.columns == ["episodes", "episode_return", "episode_length", "reward_per_step"]


def test_an_unfinished_row_goes_on_with_its_tasks():
    first = EpisodeAccount(("reach", "push"), tells_success=True)
    take(first, told([1.0, 4.0], [0, 1], [True, False]))
    second = EpisodeAccount(("reach", "push"), tells_success=True)
    second.load_state_dict(first.state_dict())
    for account in (first, second):
        take(account, told([3.0, 8.0], [0, 1], [True, True]))
    assert first.averages() == second.averages()
    assert second.averages()["episode_success/push"] == 0.5


def test_episodes_of_an_earlier_version_count_for_no_task():
    first = EpisodeAccount(("reach", "push"), tells_success=True)
    take(first, told([100.0, 100.0], [0, 1], [True, True]))
    state = first.state_dict()
    del state["successes"], state["regimes"]
    second = EpisodeAccount(("reach", "push"), tells_success=True)
    second.load_state_dict(state)
    take(second, told([3.0, 8.0], [0, 1], [True, False]))
    averages = second.averages()
    assert averages["episode_return"] == pytest.approx(211 / 4)
    assert averages["episode_return/reach"] == 3.0
    assert averages["episode_success/push"] == 0.0
    assert np.isnan(averages["episode_success"])


def test_the_line_of_progress_shows_success_and_no_mean_of_task_numbers():
    row = {
        "episode_return": 12.0,
        "episode_success": 0.25,
        "regime_value": 4.5,
        "window/actor/all/dormant_fraction": 0.5,
    }
    expected = {"return": 12.0, "success %": 25.0, "dormant %": 50.0}
    assert summary_of(row, "actor", "task", num_tasks=10) == expected
    row = {"regime_value": 0.2}
    assert summary_of(row, "policy", "friction", num_tasks=1) == {"friction": 0.2}
