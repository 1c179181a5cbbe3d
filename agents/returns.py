"""Generalised advantage estimation with terminated and truncated kept apart."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def generalized_advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    discount: float,
    gae_lambda: float,
) -> np.ndarray:
    """Compute advantages of a rollout.

    delta_t = r_t + discount (1 - terminated_t) V(next_t) - V(o_t)
    A_t = delta_t + discount lambda (1 - boundary_t) A_{t+1}, boundary = terminated or truncated

    Args:
        rewards: (T, N).
        values: (T, N), V(o_t).
        next_values: (T, N), V of the true successor: at a boundary that of the final observation
            of the old episode, never that of the reset observation.
        terminated: (T, N) bool. Wins over truncated where both are set.
        truncated: (T, N) bool, time limit or switch: bootstraps, but cuts the trace.
        discount: In [0, 1].
        gae_lambda: In [0, 1].

    Returns:
        (T, N) float64. Value targets are `advantages + values`.

    Source: Schulman et al. 2016, equations 11 to 16; boundaries as in Pardo et al. 2018.
    """
    continues = discount * (1.0 - terminated)
    delta = rewards + continues * next_values - values
    trace = discount * gae_lambda * (1.0 - np.logical_or(terminated, truncated))
    advantages = np.empty_like(delta)
    running = np.zeros(delta.shape[1:])
    for t in range(len(delta) - 1, -1, -1):
        running = delta[t] + trace[t] * running
        advantages[t] = running
    return advantages


def discounted_returns(rewards: np.ndarray, boundaries: np.ndarray, discount: float) -> np.ndarray:
    """Sum of discounted rewards from each step to the end of its episode.

    Args:
        rewards: (T, N).
        boundaries: (T, N) bool, whether the episode ended with this transition.
        discount: In [0, 1].

    Returns:
        (T, N) float64; nothing is added beyond an episode's end or the last row.
    """
    returns, continues = np.empty(rewards.shape), discount * (1.0 - boundaries)
    running = np.zeros(rewards.shape[1:])
    for t in range(len(rewards) - 1, -1, -1):
        running = rewards[t] + continues[t] * running
        returns[t] = running
    return returns


def normalized(advantages: np.ndarray) -> np.ndarray:
    """Shift and scale a batch to mean 0 and unbiased standard deviation 1.

    A batch whose deviation is no more than rounding, or not a number (constant, or a single
    sample), is only shifted. No epsilon is added: Source: Dohare et al. 2024, reference PPO.
    """
    mean = advantages.mean()
    shifted = advantages - mean
    deviation = advantages.std(ddof=1) if advantages.size > 1 else 0.0
    noise = 1e-12 * abs(mean)
    return shifted / deviation if np.isfinite(deviation) and deviation > noise else shifted


def normalized_per_task(advantages: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """Apply `normalized` to the advantages of every task by themselves.

    Tasks whose rewards differ in scale then pull at the policy alike. A task with one transition,
    or with equal advantages, is only shifted, to 0.

    Args:
        advantages: Any shape.
        tasks: Index of the task of every advantage, in the same shape.
    """
    result = np.empty_like(advantages)
    for task in np.unique(tasks):
        rows = tasks == task
        result[rows] = normalized(advantages[rows])
    return result


def normalized_in_minibatches(advantages: Tensor, size: int) -> Tensor:
    """Shift and scale every run of `size` entries of (B,) as `normalized` does; B = k * size."""
    batches = advantages.view(-1, size)
    mean = batches.mean(dim=1, keepdim=True)
    deviation = batches.std(dim=1, keepdim=True)
    is_spread = deviation > 1e-6 * mean.abs()
    return ((batches - mean) / deviation.where(is_spread, 1.0)).view(-1)
