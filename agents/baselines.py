"""What is subtracted from returns to get advantages: a value network, or a linear fit."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch

from agents.buffers import Rollout
from agents.returns import discounted_returns
from networks.heads import ValueFunction

RIDGE = 1e-5
INPUT_CLIP = 10.0
TIME_SCALE = 100.0
ROWS_AT_ONCE = (
    256  # activations of so many rows stay in the cache: 1.6 times as fast as all at once
)


class UnequalEpisodes(ValueError):
    """A rollout does not consist of whole episodes of equal length."""


class Baseline(Protocol):
    """Estimates what a full rollout's states are worth.

    Attributes:
        ends_at_timeouts: Whether a time limit is the end of all value for it.
    """

    ends_at_timeouts: bool

    def values(self, row: Rollout) -> tuple[np.ndarray, np.ndarray]:
        """Return values of the states and of their true successors, both (T, N) float64."""
        ...


class NetworkBaseline:
    """A value network that is trained beside the policy."""

    ends_at_timeouts = False

    def __init__(self, network: ValueFunction) -> None:
        self._network = network

    @torch.no_grad()
    def values(self, row: Rollout) -> tuple[np.ndarray, np.ndarray]:
        """V(o_t) and V(true successor of o_t), both (T, N) float64, with their own contexts.

        Inside an episode the successor is the next observation of the rollout; only boundaries
        and the last row need another look at the network.
        """
        boundary = row.terminated | row.truncated
        boundary[-1] = True
        ends = np.flatnonzero(boundary)
        stacked = np.concatenate(
            (
                row.observation.reshape(row.num_transitions, -1),
                row.next_observation.reshape(row.num_transitions, -1)[ends],
            )
        )
        context, following = (
            rows.reshape(row.num_transitions, -1) for rows in (row.context, row.next_context)
        )
        gates = np.concatenate((context, following[ends])) if context.shape[1] else None
        parts = [
            self._network(
                torch.from_numpy(stacked[start : start + ROWS_AT_ONCE]),
                None if gates is None else torch.from_numpy(gates[start : start + ROWS_AT_ONCE]),
            )
            for start in range(0, len(stacked), ROWS_AT_ONCE)
        ]
        values = torch.cat(parts).numpy().astype(np.float64)
        current = values[: row.num_transitions].reshape(row.length, row.num_envs)
        successor = np.concatenate((current[1:], current[-1:]))
        successor.reshape(-1)[ends] = values[row.num_transitions :]
        return current, successor


class LinearBaseline:
    """One ridge regression per task, fitted anew to the discounted returns of every rollout.

    It reads the time, so the return up to the time limit is what it predicts and nothing is worth
    anything beyond. It keeps nothing between rollouts.

    Args:
        discount: In [0, 1].
        num_tasks: Tasks that the one-hot context tells apart; 0 makes one fit for everything.

    Source: Duan et al. 2016, arXiv 1604.06778, supplement 2; fit and prediction on the same
    rollout, once per task, as the reference MTPPO of Meta-World+ (McLean et al. 2025, arXiv
    2505.11289) does it.
    Deviation: solved by a QR decomposition of the augmented system instead of normal equations,
    whose condition number is the square.
    """

    ends_at_timeouts = True

    def __init__(self, discount: float, num_tasks: int) -> None:
        self._discount, self._num_tasks = discount, num_tasks

    def values(self, row: Rollout) -> tuple[np.ndarray, np.ndarray]:
        """Predicted returns and, for the successors, the same one step later; (T, N) float64.

        Raises:
            UnequalEpisodes: Episodes of different lengths, or one that is not complete.
        """
        boundary = row.terminated | row.truncated
        length = episode_length(boundary)
        returns = discounted_returns(row.reward.astype(np.float64), boundary, self._discount)
        inputs = np.concatenate((row.observation, row.context), axis=-1)
        time = np.broadcast_to(np.arange(row.length)[:, None] % length, returns.shape)
        tasks, values = row.tasks(self._num_tasks), np.empty_like(returns)
        for task in np.unique(tasks):
            rows = tasks == task
            features = linear_features(inputs[rows], time[rows])
            values[rows] = features @ ridge_coefficients(features, returns[rows])
        successor = np.concatenate((values[1:], np.zeros_like(values[:1])))
        successor[boundary] = 0.0
        return values, successor


def episode_length(boundary: np.ndarray) -> int:
    """Length of the episodes of a rollout, which must all be equal and complete.

    Args:
        boundary: (T, N) bool, whether an episode ended with this transition. The first row starts
            an episode everywhere.

    Raises:
        UnequalEpisodes: They are not.
    """
    ends = np.flatnonzero(boundary.any(axis=1))
    length = int(ends[0]) + 1 if len(ends) else 0
    steps = np.arange(1, len(boundary) + 1)
    is_whole = length > 0 and len(boundary) % length == 0
    if is_whole and (boundary == (steps % length == 0)[:, None]).all():
        return length
    counts = [np.diff(np.flatnonzero(column), prepend=-1) for column in boundary.T]
    seen = sorted({int(count) for each in counts for count in each})
    found = f"of {seen[0]} to {seen[-1]} steps" if seen else "that have not ended"
    raise UnequalEpisodes(
        "agent.baseline=linear needs rollouts of whole episodes of equal length, but this one of "
        f"{len(boundary)} steps has episodes {found}; use agent.baseline=network, or make "
        "agent.rollout_length a multiple of the length that all episodes have"
    )


def linear_features(inputs: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Features [o, o^2, tau, tau^2, tau^3, 1] with o clipped to +-10 and tau = t / 100.

    Args:
        inputs: (n, inputs) observations with the one-hot task behind them.
        time: (n,) steps since the episode began.

    Returns:
        (n, 2 inputs + 4) float64.
    """
    o = np.clip(inputs.astype(np.float64), -INPUT_CLIP, INPUT_CLIP)
    tau = time[:, None] / TIME_SCALE
    return np.concatenate((o, o**2, tau, tau**2, tau**3, np.ones_like(tau)), axis=1)


def ridge_coefficients(
    features: np.ndarray, targets: np.ndarray, strength: float = RIDGE
) -> np.ndarray:
    """Minimise |F w - y|^2 + strength |w|^2.

    Args:
        features: F, (n, k).
        targets: y, (n,).
        strength: > 0, so that there is one solution however few rows there are.

    Returns:
        w, (k,).
    """
    size = features.shape[1]
    system = np.zeros((len(features) + size, size + 1))
    system[: len(features), :size], system[: len(features), size] = features, targets
    system[len(features) :, :size] = math.sqrt(strength) * np.eye(size)
    # With [F y] = Q R the last column of R is Q^T y: Q itself is never needed.
    triangle = np.asarray(np.linalg.qr(system, mode="r"))
    return np.linalg.solve(triangle[:size, :size], triangle[:size, size])
