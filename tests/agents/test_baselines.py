"""Linear baselines: features, ridge fits, returns, equal episodes, and published numbers."""

import numpy as np
import pytest
import scipy.linalg
import scipy.signal

from agents.baselines import (
    LinearBaseline,
    UnequalEpisodes,
    episode_length,
    linear_features,
    ridge_coefficients,
)
from agents.buffers import Rollout
from agents.returns import discounted_returns, generalized_advantages


def rollout_of(length=30, tasks=(0, 1, 1), episode=10, seed=0, num_tasks=2):
    """Random transitions, one row of environments per entry of `tasks`."""
    rng = np.random.default_rng(seed)
    row = Rollout(length, len(tasks), 3, 2, num_tasks)
    row.observation[:] = rng.normal(scale=4.0, size=row.observation.shape)
    row.context[:] = np.eye(max(1, num_tasks), dtype=np.float32)[list(tasks), :num_tasks]
    row.reward[:] = rng.normal(size=row.reward.shape)
    row.truncated[episode - 1 :: episode] = True
    row.position = length
    return row


def test_features_in_their_order():
    inputs = np.array([[0.5, -20.0], [3.0, 12.0]])
    features = linear_features(inputs, np.array([0, 250]))
    expected = [
        [0.5, -10, 0.25, 100, 0, 0, 0, 1],
        [3, 10, 9, 100, 2.5, 6.25, 15.625, 1],
    ]
    np.testing.assert_allclose(features, expected)
    assert linear_features(np.zeros((1, 49), np.float32), np.zeros(1)).shape == (1, 102)


def test_ridge_coefficients_equal_a_cholesky_solution():
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(200, 12)), rng.normal(size=200)
    for strength in (1e-5, 3.0):
        system = features.T @ features + strength * np.eye(12)
        expected = scipy.linalg.solve(system, features.T @ targets, assume_a="pos")
        found = ridge_coefficients(features, targets, strength)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_ridge_coefficients_exist_for_one_row_and_for_equal_columns():
    one = linear_features(np.full((1, 5), 0.3), np.zeros(1))
    found = ridge_coefficients(one, np.array([7.0]))
    assert np.isfinite(found).all()
    assert (one @ found).item() == pytest.approx(7.0, rel=1e-4)
    same = np.ones((50, 6))
    np.testing.assert_allclose(ridge_coefficients(same, np.full(50, 3.0)), 0.5, rtol=1e-6)


def test_discounted_returns_equal_a_filter_run_backwards():
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(30, 3))
    boundary = np.zeros((30, 3), bool)
    boundary[9::10] = True
    expected = np.concatenate(
        [
            scipy.signal.lfilter([1], [1, -0.97], episode[::-1], axis=0)[::-1]
            for episode in np.split(rewards, 3)
        ]
    )
    np.testing.assert_allclose(discounted_returns(rewards, boundary, 0.97), expected)
    open_end = discounted_returns(np.ones((3, 1)), np.zeros((3, 1), bool), 0.5)
    assert open_end.ravel().tolist() == [1.75, 1.5, 1.0]


def test_every_task_gets_a_fit_of_its_own():
    row = rollout_of()
    values, successor = LinearBaseline(0.9, 2).values(row)
    returns = discounted_returns(row.reward.astype(float), row.truncated, 0.9)
    for rows in ([0], [1, 2]):
        features, targets = [], []
        for env in rows:  # the reference: normal equations, solved by least squares
            for t in range(row.length):
                o = np.clip(
                    np.r_[row.observation[t, env], row.context[t, env]].astype(float), -10, 10
                )
                tau = t % 10 / 100
                features.append(np.r_[o, o**2, tau, tau**2, tau**3, 1.0])
                targets.append(returns[t, env])
        matrix, targets = np.array(features), np.array(targets)
        system = matrix.T @ matrix + 1e-5 * np.eye(matrix.shape[1])
        coefficients = np.linalg.lstsq(system, matrix.T @ targets, rcond=-1)[0]
        expected = (matrix @ coefficients).reshape(len(rows), -1).T
        np.testing.assert_allclose(values[:, rows], expected, atol=1e-6)
    assert (successor[9::10] == 0.0).all()
    np.testing.assert_array_equal(successor[:9], values[1:10])


def test_other_tasks_do_not_move_a_fit():
    first, second = rollout_of(), rollout_of()
    second.reward[:, 0] += 100.0
    one, two = (LinearBaseline(0.9, 2).values(row)[0] for row in (first, second))
    np.testing.assert_array_equal(one[:, 1:], two[:, 1:])
    assert np.abs(one[:, 0] - two[:, 0]).min() > 1.0
    together = LinearBaseline(0.9, 0)  # no task is told apart
    one, two = (together.values(row)[0] for row in (first, second))
    assert np.abs(one[:, 1:] - two[:, 1:]).max() > 1e-3


def test_a_return_that_is_a_function_of_the_features_is_found():
    row = rollout_of(length=40, episode=20)
    row.observation *= 0.5
    assert np.abs(row.observation).max() < 10.0
    row.reward[:] = 2.0 * row.observation[..., 0]
    values, successor = LinearBaseline(0.0, 2).values(row)
    np.testing.assert_allclose(values, 2.0 * row.observation[..., 0], atol=1e-4)
    advantages = generalized_advantages(
        row.reward, values, successor, row.truncated, row.truncated, 0.0, 0.97
    )
    assert np.abs(advantages).max() < 1e-4


def test_episodes_that_end_early_may_end_by_termination():
    row = rollout_of(episode=5)
    row.terminated[4::10], row.truncated[4::10] = True, False
    ends = row.terminated | row.truncated
    assert episode_length(ends) == 5
    assert (LinearBaseline(0.9, 2).values(row)[1][ends] == 0.0).all()


def boundary_of(*columns, length=12):
    boundary = np.zeros((length, len(columns)), bool)
    for index, ends in enumerate(columns):
        boundary[list(ends), index] = True
    return boundary


def test_episode_length_of_whole_equal_episodes():
    assert episode_length(boundary_of((3, 7, 11), (3, 7, 11))) == 4
    assert episode_length(boundary_of((11,), (11,))) == 12


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (((3, 7, 11), (3, 8, 11)), "of 3 to 5 steps"),
        (((3, 7, 11), (3, 7)), "of 4 to 4 steps"),  # one has not ended
        (((4, 9),), "of 5 to 5 steps"),  # the last rows belong to no whole episode
        (((5, 11), ()), "of 6 to 6 steps"),
        (((), ()), "that have not ended"),
    ],
)
def test_unequal_episodes_are_refused(columns, found):
    with pytest.raises(UnequalEpisodes, match=f"whole episodes of equal length.*{found}"):
        episode_length(boundary_of(*columns))


def test_published_numbers_of_generalised_advantages():
    """Three steps, rewards 1, values .5 .4 .3, discount .99, lambda .97; worked out by hand."""
    values, rewards = np.array([[0.5], [0.4], [0.3]]), np.ones((3, 1))
    end = np.array([[False], [False], [True]])
    never = np.zeros_like(end)
    following = np.array([[0.4], [0.3], [0.2]])
    for terminated, truncated, expected in (
        (end, never, (2.402912, 1.56921, 0.7)),
        (never, end, (2.585503, 1.759349, 0.898)),
    ):
        found = generalized_advantages(
            rewards, values, following, terminated, truncated, 0.99, 0.97
        )
        np.testing.assert_allclose(found.ravel(), expected, atol=1e-6)
