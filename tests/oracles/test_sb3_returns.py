"""Advantages against stable-baselines3, against hand cases and against the defining sum."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer

from agents.returns import generalized_advantages, normalized


def sb3_advantages(rewards, values, next_values, terminated, truncated, discount, gae_lambda):
    """SB3's buffer; a truncated episode bootstraps through its reward, as `collect_rollouts` does.

    Returns advantages and returns, (T, N).
    """
    length, num_envs = rewards.shape
    unused = Box(-1.0, 1.0, (1,))
    buffer = RolloutBuffer(length, unused, unused, "cpu", gae_lambda, discount, num_envs)
    cut = truncated & ~terminated
    rewards = np.where(cut, rewards + discount * next_values, rewards)
    ended = terminated | truncated
    starts = np.concatenate((np.ones((1, num_envs), dtype=bool), ended[:-1]))
    for t in range(length):
        nothing = np.zeros((num_envs, 1))
        value = torch.from_numpy(values[t])
        buffer.add(nothing, nothing, rewards[t], starts[t], value, torch.zeros(num_envs))
    buffer.compute_returns_and_advantage(torch.from_numpy(next_values[-1]), ended[-1])
    return buffer.advantages, buffer.returns


def random_rollout(seed, length=64, num_envs=6, boundary=0.1):
    """Inside an episode the value of the successor is that of the next row."""
    rng = np.random.default_rng(seed)
    terminated = rng.random((length, num_envs)) < boundary
    truncated = rng.random((length, num_envs)) < boundary
    values = rng.normal(size=(length, num_envs)) * 3
    next_values = np.concatenate((values[1:], rng.normal(size=(1, num_envs)) * 3))
    ended = terminated | truncated
    next_values[ended] = rng.normal(size=ended.sum()) * 3
    return rng.normal(size=(length, num_envs)), values, next_values, terminated, truncated


@pytest.mark.parametrize(
    ("discount", "gae_lambda"), [(0.99, 0.95), (0.9, 0.0), (1.0, 1.0), (0.0, 0.5)]
)
@pytest.mark.parametrize("seed", range(5))
def test_advantages_and_targets_equal_sb3(seed, discount, gae_lambda):
    rollout = random_rollout(seed)
    assert (rollout[3] & rollout[4]).any()  # some episodes end both ways at once
    ours = generalized_advantages(*rollout, discount, gae_lambda)
    theirs, returns = sb3_advantages(*rollout, discount, gae_lambda)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(ours + rollout[1], returns, rtol=1e-5, atol=1e-4)


def test_without_boundaries_the_last_row_bootstraps_like_sb3():
    rollout = random_rollout(0, boundary=0.0)
    ours = generalized_advantages(*rollout, 0.99, 0.95)
    theirs, _ = sb3_advantages(*rollout, 0.99, 0.95)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


def brute_force(rewards, values, next_values, terminated, truncated, discount, gae_lambda):
    """A_t = sum over k of (discount lambda)^k delta_{t+k}, up to the first boundary."""
    length, num_envs = rewards.shape
    advantages = np.zeros((length, num_envs))
    for n in range(num_envs):
        for t in range(length):
            for k in range(t, length):
                bootstrap = 0.0 if terminated[k, n] else discount * next_values[k, n]
                delta = rewards[k, n] + bootstrap - values[k, n]
                advantages[t, n] += (discount * gae_lambda) ** (k - t) * delta
                if terminated[k, n] or truncated[k, n]:
                    break
    return advantages


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 12),
    num_envs=st.integers(1, 4),
    boundary=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    discount=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    gae_lambda=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
)
def test_advantages_equal_the_defining_sum(seed, length, num_envs, boundary, discount, gae_lambda):
    rollout = random_rollout(seed, length, num_envs, boundary)
    expected = brute_force(*rollout, discount, gae_lambda)
    advantages = generalized_advantages(*rollout, discount, gae_lambda)
    np.testing.assert_allclose(advantages, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["terminated", "truncated"])
def test_nothing_after_a_boundary_changes_earlier_advantages(kind):
    rewards, values, next_values, terminated, truncated = random_rollout(1, boundary=0.0)
    (terminated if kind == "terminated" else truncated)[20] = True
    before = generalized_advantages(rewards, values, next_values, terminated, truncated, 0.99, 0.95)
    for array in (rewards, values, next_values):
        array[21:] += 100.0
    after = generalized_advantages(rewards, values, next_values, terminated, truncated, 0.99, 0.95)
    assert np.array_equal(before[:21], after[:21])
    assert not np.allclose(before[21:], after[21:])


def column(*numbers):
    return np.array(numbers, dtype=np.float64)[:, None]


def flags(*indices):
    return np.isin(np.arange(5), indices)[:, None]


def advantages_of(rewards, values, next_values, terminated, truncated):
    arguments = (column(*rewards), column(*values), column(*next_values))
    boundaries = (flags(*terminated), flags(*truncated))
    return generalized_advantages(*arguments, *boundaries, 0.99, 0.95)[:, 0]


def test_hand_case_with_a_time_limit_in_the_middle():
    rollout = ([1] * 5, [1, 2, 3, 4, 5], [2, 3, 10, 5, 6])
    advantages = advantages_of(*rollout, terminated=[], truncated=[2])
    np.testing.assert_allclose(advantages, [10.82065297, 9.39995, 7.9, 3.77457, 1.94], atol=1e-8)
    targets = advantages + np.array(rollout[1])
    np.testing.assert_allclose(targets, [11.82065297, 11.39995, 10.9, 7.77457, 6.94], atol=1e-8)
    expected = [1.07474665, 0.69807188, 0.30038614, -0.79340012, -1.27980456]
    np.testing.assert_allclose(normalized(advantages), expected, atol=1e-8)
    as_terminal = advantages_of(*rollout, terminated=[2], truncated=[])
    np.testing.assert_allclose(as_terminal, [2.0637045, 0.089, -2, 3.77457, 1.94], atol=1e-8)


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        ([4], [2], [5.68137356825, 5.0881165, 3.393, 8.50745, 4.9]),
        ([2, 4], [], [5.068387175, 4.43635, 2.7, 8.50745, 4.9]),
        ([], [2], [5.68137356825, 5.0881165, 3.393, 9.066107, 5.494]),
        ([2, 4], [2], [5.068387175, 4.43635, 2.7, 8.50745, 4.9]),  # both at once: no bootstrap
    ],
)
def test_hand_cases_with_two_boundaries(terminated, truncated, expected):
    rollout = ([1, 2, 3, 4, 5], [0.5, 0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.7, 0.1, 0.6])
    advantages = advantages_of(*rollout, terminated, truncated)
    np.testing.assert_allclose(advantages, expected, atol=1e-11)
