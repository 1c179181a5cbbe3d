"""Worlds that are recognised when they come back: means of what each of them felt like.

Source: Iyer et al. 2022, Frontiers in Neurorobotics 16:846219, for one prototype per task and the
nearest one at test; the store of worlds with covariances, merging and a limit is ours.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2

from envs.snapshots import Snapshot, Stored, load_arrays

SIGNIFICANCE = 0.99
_RIDGE = 1e-6


def nearest_means(samples: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Index of the nearest of some means (M, dim), Euclidean, of every sample (B, dim), (B,)."""
    known = np.asarray(means, dtype=np.float64)
    # |x - m|^2 without |x|^2, which is the same for all means.
    distances = (known**2).sum(1) - 2.0 * np.asarray(samples, dtype=np.float64) @ known.T
    return distances.argmin(1)


class NearestMeans:
    """One prototype per task, told when tasks begin; the nearest one where nobody tells.

    Args:
        dim: Length of a sample.
    """

    def __init__(self, dim: int) -> None:
        self.means = np.zeros((0, dim))

    def begin_task(self, samples: np.ndarray) -> np.ndarray:
        """Store the mean of a new task's samples (B, dim); returns it, (dim,)."""
        mean = np.asarray(samples, dtype=np.float64).mean(axis=0)
        self.means = np.concatenate((self.means, mean[None]))
        return mean

    def nearest(self, samples: np.ndarray) -> np.ndarray:
        """Index of the nearest prototype (Euclidean) of every sample (B, dim), int64 (B,).

        Raises:
            ValueError: There is none yet.
        """
        if not len(self.means):
            raise ValueError("no prototype exists yet; call begin_task with a task's samples first")
        return nearest_means(samples, self.means)

    def contexts(self, samples: np.ndarray) -> np.ndarray:
        """The nearest prototype itself, (B, dim)."""
        return self.means[self.nearest(samples)]

    def snapshot(self) -> Snapshot:
        """The prototypes."""
        return {"means": self.means.copy()}

    def restore(self, snapshot: Snapshot) -> None:
        """Take over prototypes."""
        means = np.array(snapshot["means"], dtype=np.float64)
        self.means = load_arrays(snapshot, {"means": means})["means"]


class Worlds(Stored):
    """Prototypes with a mean and a covariance each, found without being told.

    Samples match a prototype if their mean is within a squared Mahalanobis distance of the 99 %
    point of chi^2 with `dim` degrees of freedom (13.277 for 4). Indices are given once: one that
    was merged into another stays unused, so that what was learnt for it is never another world's.

    Args:
        capacity: Indices.
        dim: Length of a sample.
        horizon: Samples after which prototypes follow slow drift instead of averaging all.
    """

    def __init__(self, capacity: int, dim: int, horizon: int) -> None:
        self._horizon, self._dim = horizon, dim
        self.limit = float(chi2.ppf(SIGNIFICANCE, dim))
        self._arrays = {
            "mean": np.zeros((capacity, dim)),
            "covariance": np.zeros((capacity, dim, dim)),
            "count": np.zeros(capacity, dtype=np.int64),
            "merged_into": np.arange(capacity),
            "used": np.zeros(1, dtype=np.int64),
        }

    @property
    def alive(self) -> np.ndarray:
        """Indices in use, int64."""
        used = np.arange(self._arrays["used"][0])
        return used[self._arrays["merged_into"][used] == used]

    def resolve(self, index: int) -> int:
        """The index that stands for another one after merging."""
        while index != self._arrays["merged_into"][index]:
            index = int(self._arrays["merged_into"][index])
        return index

    def distances(self, mean: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distances of a point (dim,) to the prototypes in use."""
        state = self._arrays
        return np.array(
            [
                self._distance(mean - state["mean"][index], state["covariance"][index])
                for index in self.alive
            ]
        )

    def _distance(self, difference: np.ndarray, covariance: np.ndarray) -> float:
        ridge = _RIDGE * np.eye(self._dim)
        return float(difference @ np.linalg.solve(covariance + ridge, difference))

    def assign(self, samples: np.ndarray, may_spawn: bool = True) -> int:
        """Index of the best match of samples (B, dim), B at least 2, or of a new prototype.

        Args:
            samples: Of one world.
            may_spawn: Otherwise, and when all indices are given, the best match however far.
        """
        mean = samples.mean(axis=0)
        distances = self.distances(mean)
        best = int(distances.argmin()) if len(distances) else -1
        full = self._arrays["used"][0] >= len(self._arrays["count"])
        must_match = best >= 0 and (full or not may_spawn)
        if best >= 0 and (must_match or distances[best] < self.limit):
            return int(self.alive[best])
        return self._spawn(samples)

    def _spawn(self, samples: np.ndarray) -> int:
        state, index = self._arrays, int(self._arrays["used"][0])
        state["used"] += 1
        state["mean"][index] = samples.mean(axis=0)
        state["covariance"][index] = np.cov(samples.T, bias=True).reshape(self._dim, self._dim)
        state["count"][index] = len(samples)
        return index

    def update(self, index: int, sample: np.ndarray) -> None:
        """Let a prototype take in a sample (dim,) of its world."""
        state = self._arrays
        state["count"][index] += 1
        share = 1.0 / min(int(state["count"][index]), self._horizon)
        difference = sample - state["mean"][index]
        state["mean"][index] += share * difference
        spread = (1.0 - share) * np.outer(difference, difference)
        state["covariance"][index] += share * (spread - state["covariance"][index])

    def merge(self) -> None:
        """Unite prototypes that samples cannot tell apart; the older index stays."""
        state = self._arrays
        for young in self.alive[::-1].tolist():
            for old in self.alive[self.alive < young].tolist():
                pooled = (state["covariance"][old] + state["covariance"][young]) / 2.0
                difference = state["mean"][young] - state["mean"][old]
                if self._distance(difference, pooled) < self.limit:
                    self._unite(old, young)
                    break

    def _unite(self, old: int, young: int) -> None:
        state = self._arrays
        counts = state["count"][[old, young]]
        share = counts[1] / counts.sum()
        difference = state["mean"][young] - state["mean"][old]
        spread = share * (1.0 - share) * np.outer(difference, difference)
        covariance = state["covariance"]
        covariance[old] = (1.0 - share) * covariance[old] + share * covariance[young] + spread
        state["mean"][old] += share * difference
        state["count"][old] = counts.sum()
        state["merged_into"][young] = old
