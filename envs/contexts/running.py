"""Statistics of a stream of vectors: moments of all of it, and averages that forget."""

from __future__ import annotations

import numpy as np

from envs.snapshots import Snapshot, Stored


class Moments(Stored):
    """Mean and variance of everything seen so far; nothing is ever forgotten.

    Args:
        dim: Length of a vector.
    """

    def __init__(self, dim: int) -> None:
        self._arrays = {
            "count": np.zeros(1, dtype=np.int64),
            "mean": np.zeros(dim),
            "squares": np.zeros(dim),
        }

    @property
    def count(self) -> int:
        """Vectors seen."""
        return int(self._arrays["count"][0])

    @property
    def mean(self) -> np.ndarray:
        """Mean, (dim,)."""
        return self._arrays["mean"].copy()

    @property
    def variance(self) -> np.ndarray:
        """Mean squared deviation from the mean, (dim,); 0 before anything was seen."""
        return self._arrays["squares"] / max(self.count, 1)

    def update(self, rows: np.ndarray) -> None:
        """Take in vectors (B, dim).

        Source: Chan, Golub and LeVeque 1979, updating formulae for sample variances.
        """
        if not len(rows):
            return
        state, before, added = self._arrays, self.count, len(rows)
        mean = rows.mean(axis=0)
        distance = mean - state["mean"]
        total = before + added
        state["mean"] += distance * (added / total)
        state["squares"] += ((rows - mean) ** 2).sum(axis=0)
        state["squares"] += distance**2 * (before * added / total)
        state["count"][0] = total

    def scale(self, smallest: float = 1e-6) -> np.ndarray:
        """Standard deviation, (dim,); 1 where nothing has varied."""
        deviation = np.sqrt(self.variance)
        return np.where(deviation > smallest, deviation, 1.0)


class Averages(Stored):
    """Exponential averages over several horizons, free of the bias of their start.

    m <- m + (x - m) / horizon, divided by 1 - (1 - 1 / horizon)^n after n vectors.

    Args:
        num_rows: Streams that are averaged apart.
        dim: Length of a vector.
        horizons: In vectors, each at least 1.
    """

    def __init__(self, num_rows: int, dim: int, horizons: tuple[int, ...]) -> None:
        self._rates = 1.0 / np.asarray(horizons, dtype=np.float64)[:, None]
        self._arrays = {
            "average": np.zeros((num_rows, len(horizons), dim)),
            "weight": np.zeros((num_rows, len(horizons), 1)),
        }

    @property
    def has_begun(self) -> np.ndarray:
        """Which streams have seen anything, (num_rows,) bool."""
        return self._arrays["weight"][:, 0, 0] > 0.0

    def update(self, vectors: np.ndarray) -> None:
        """Take in one vector per stream, (num_rows, dim)."""
        state = self._arrays
        state["average"] += self._rates * (vectors[:, None, :] - state["average"])
        state["weight"] += self._rates * (1.0 - state["weight"])

    def read(self) -> np.ndarray:
        """The averages, (num_rows, horizons * dim), horizon by horizon; 0 where none has begun."""
        weight = np.where(self._arrays["weight"] > 0.0, self._arrays["weight"], 1.0)
        return (self._arrays["average"] / weight).reshape(len(weight), -1)

    def forget(self) -> None:
        """Begin anew in all streams."""
        for array in self._arrays.values():
            array[:] = 0.0


def nested(prefix: str, snapshot: Snapshot) -> Snapshot:
    """The state of a part under names of its own."""
    return {f"{prefix}_{key}": value for key, value in snapshot.items()}


def part_of(snapshot: Snapshot, prefix: str) -> Snapshot:
    """What `nested` has put there."""
    start = f"{prefix}_"
    return {key[len(start) :]: value for key, value in snapshot.items() if key.startswith(start)}
