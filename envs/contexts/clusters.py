"""Prototypes without task labels: batches are compared with clusters by a statistical test.

Source: Iyer et al. 2022, Frontiers in Neurorobotics 16:846219 (clustering of training batches);
Hotelling 1931.
Deviation: by default the best match is taken, not the first; the threshold is .9999 instead of .9;
and the dimensions of the test are the rank of the pooled covariance instead of the number of
features. On features of full rank the published rule finds about two clusters per task.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_law

from envs.schedules import at_least, one_of
from envs.snapshots import Snapshot, require

MATCHES = ("best", "first")


def hotelling(first: np.ndarray, second: np.ndarray, use_rank: bool = True) -> tuple[float, float]:
    """Two-sample test of equal means with a common covariance.

    Args:
        first: (n, p) samples.
        second: (m, p) samples.
        use_rank: Count the rank of the pooled covariance as dimensions, instead of p.

    Returns:
        T^2, and the probability that the F statistic of equal means is smaller; 0 where there are
        too few samples to say.
    """
    first, second = (np.asarray(rows, dtype=np.float64) for rows in (first, second))
    n, m = len(first), len(second)
    centred = [rows - rows.mean(axis=0) for rows in (first, second)]
    pooled = sum(rows.T @ rows for rows in centred) / max(n + m - 2, 1)
    difference = first.mean(axis=0) - second.mean(axis=0)
    squared = n * m / (n + m) * difference @ np.linalg.pinv(pooled, hermitian=True) @ difference
    p = int(np.linalg.matrix_rank(pooled, hermitian=True)) if use_rank else first.shape[1]
    freedom = n + m - p - 1
    if p < 1 or freedom < 1:
        return float(squared), 0.0
    statistic = freedom / (p * (n + m - 2)) * squared
    return float(squared), float(f_law.cdf(statistic, p, freedom))


@dataclass(frozen=True)
class ClusterSettings:
    """How batches are matched.

    Attributes:
        match: best (the smallest probability) or first (in order of creation).
        threshold: A cluster fits if the probability of a smaller statistic is below this.
        use_rank: Dimensions of the test; see `hotelling`.
        num_exemplars: Samples that a cluster keeps for the test.
        max_clusters: No more are made; the best one is taken then.
    """

    match: str = "best"
    threshold: float = 0.9999
    use_rank: bool = True
    num_exemplars: int = 256
    max_clusters: int = 256

    def __post_init__(self) -> None:
        one_of("match", self.match, MATCHES)
        at_least("num_exemplars", self.num_exemplars, 2)
        at_least("max_clusters", self.max_clusters, 1)
        if not 0.0 < self.threshold < 1.0:
            raise ValueError(f"threshold is {self.threshold}; give a probability between 0 and 1")


PUBLISHED = ClusterSettings("first", 0.9, use_rank=False)


class Clusters:
    """Assigns every batch, taken to be of one task, to a cluster, or makes a new one.

    Args:
        settings: How.
    """

    def __init__(self, settings: ClusterSettings | None = None) -> None:
        self._settings = settings or ClusterSettings()
        self._exemplars: list[np.ndarray] = []
        self._means: list[np.ndarray] = []
        self._counts: list[int] = []

    def __len__(self) -> int:
        return len(self._means)

    @property
    def means(self) -> np.ndarray:
        """Prototypes, (clusters, dim)."""
        return np.array(self._means)

    def assign(self, batch: np.ndarray) -> int:
        """Index of the cluster of a batch (B, dim), which it then belongs to."""
        batch = np.asarray(batch, dtype=np.float64)
        index = self._match(batch)
        if index is None:
            self._exemplars.append(batch[: self._settings.num_exemplars].copy())
            self._means.append(batch.mean(axis=0))
            self._counts.append(len(batch))
            return len(self) - 1
        room = self._settings.num_exemplars - len(self._exemplars[index])
        kept = (self._exemplars[index], batch[: max(room, 0)])
        self._exemplars[index] = np.concatenate(kept)
        self._counts[index] += len(batch)
        share = len(batch) / self._counts[index]
        self._means[index] = self._means[index] + share * (batch.mean(axis=0) - self._means[index])
        return index

    def _match(self, batch: np.ndarray) -> int | None:
        settings, best, lowest = self._settings, None, (np.inf, np.inf)
        for index, exemplars in enumerate(self._exemplars):
            squared, probability = hotelling(exemplars, batch, settings.use_rank)
            if settings.match == "first" and probability < settings.threshold:
                return index
            if (probability, squared) < lowest:  # far from all, probabilities are all 1
                best, lowest = index, (probability, squared)
        if lowest[0] < settings.threshold or len(self) >= settings.max_clusters:
            return best
        return None

    def snapshot(self) -> Snapshot:
        """Exemplars and prototypes."""
        state: Snapshot = {"clusters": len(self), "counts": np.array(self._counts, dtype=np.int64)}
        for index in range(len(self)):
            state[f"exemplars_{index}"] = self._exemplars[index].copy()
            state[f"mean_{index}"] = self._means[index].copy()
        return state

    def restore(self, snapshot: Snapshot) -> None:
        """Take over a state.

        Raises:
            ValueError: Something is missing.
        """
        every = range(int(require(snapshot, "clusters")))
        self._exemplars = [np.array(require(snapshot, f"exemplars_{index}")) for index in every]
        self._means = [np.array(require(snapshot, f"mean_{index}")) for index in every]
        self._counts = [int(count) for count in np.asarray(require(snapshot, "counts"))]
