"""Generalised advantage estimation with terminated and truncated kept apart."""

from __future__ import annotations

import numpy as np


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


def normalized(advantages: np.ndarray) -> np.ndarray:
    """Shift and scale a batch to mean 0 and unbiased standard deviation 1.

    A batch whose deviation is 0 or not a number (constant, or a single sample) is only shifted.
    No epsilon is added: Source: Dohare et al. 2024, reference PPO.
    """
    shifted = advantages - advantages.mean()
    deviation = advantages.std(ddof=1) if advantages.size > 1 else 0.0
    return shifted / deviation if np.isfinite(deviation) and deviation > 0.0 else shifted
