"""A small perceptron with Adam in plain arrays, for what contexts learn by themselves.

Networks of agents live elsewhere and are free to change; this one is part of the world's state, so
all of it fits into a snapshot of numbers.
"""

from __future__ import annotations

import itertools

import numpy as np

from envs.snapshots import Snapshot, Stored, load_arrays

DECAYS, EPSILON = (0.9, 0.999), 1e-8


class SmallNetwork(Stored):
    """Rectified hidden layers and a linear last one, float32.

    Weights ~ N(0, 2 / inputs) (He et al. 2015), those of the last layer N(0, 1 / inputs); biases 0.

    Args:
        sizes: Widths from input to output.
        learning_rate: Of Adam (Kingma and Ba 2015).
        generator: Draws the first weights.
    """

    def __init__(
        self, sizes: tuple[int, ...], learning_rate: float, generator: np.random.Generator
    ) -> None:
        self._learning_rate, self._depth = learning_rate, len(sizes) - 1
        self._arrays: dict[str, np.ndarray] = {"steps": np.zeros(1, dtype=np.int64)}
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            gain = 1.0 if layer == self._depth - 1 else 2.0
            weight = generator.normal(0.0, np.sqrt(gain / inputs), (inputs, outputs))
            for name, value in (("weight", weight), ("bias", np.zeros(outputs))):
                self._arrays[f"{name}_{layer}"] = value.astype(np.float32)
                for moment in ("first", "second"):
                    self._arrays[f"{moment}_{name}_{layer}"] = np.zeros_like(
                        value, dtype=np.float32
                    )

    def forward(self, inputs: np.ndarray) -> list[np.ndarray]:
        """Values of all layers for (B, inputs) float32: the inputs first, the outputs last."""
        values = [inputs]
        for layer in range(self._depth):
            value = values[-1] @ self._arrays[f"weight_{layer}"]
            value += self._arrays[f"bias_{layer}"]
            if layer < self._depth - 1:
                np.maximum(value, 0.0, out=value)
            values.append(value)
        return values

    def gradients(
        self, values: list[np.ndarray], slope: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Gradients of a loss.

        Args:
            values: From `forward`.
            slope: (B, outputs) of the loss in the outputs.

        Returns:
            Gradients by the name of the array, and that of the inputs, (B, inputs).
        """
        found = {}
        for layer in reversed(range(self._depth)):
            found[f"weight_{layer}"] = values[layer].T @ slope
            found[f"bias_{layer}"] = slope.sum(axis=0)
            slope = slope @ self._arrays[f"weight_{layer}"].T
            if layer:
                slope = slope * (values[layer] > 0.0)
        return found, slope

    def step(self, gradients: dict[str, np.ndarray]) -> None:
        """One step of Adam."""
        state = self._arrays
        state["steps"] += 1
        count = int(state["steps"][0])
        first_share, second_share = (1.0 - decay**count for decay in DECAYS)
        for name, gradient in gradients.items():
            first, second = state[f"first_{name}"], state[f"second_{name}"]
            first += np.float32(1.0 - DECAYS[0]) * (gradient - first)
            second += np.float32(1.0 - DECAYS[1]) * (gradient**2 - second)
            change = first / np.float32(first_share)
            change /= np.sqrt(second / np.float32(second_share)) + np.float32(EPSILON)
            state[name] -= np.float32(self._learning_rate) * change


class Reservoir:
    """Rows of the whole past: each of them is in memory with equal probability.

    Args:
        capacity: Rows in memory.
        dim: Length of a row.
        generator: A stream of its own.
    """

    def __init__(self, capacity: int, dim: int, generator: np.random.Generator) -> None:
        self._rows = np.zeros((capacity, dim), dtype=np.float32)
        self._seen, self._generator = 0, generator

    def __len__(self) -> int:
        return min(self._seen, len(self._rows))

    def add(self, rows: np.ndarray) -> None:
        """Algorithm R (Vitter 1985): the n-th row takes a place with probability capacity / n."""
        capacity = len(self._rows)
        counts = self._seen + 1 + np.arange(len(rows))
        places = counts - 1
        full = counts > capacity
        if full.any():
            places[full] = self._generator.integers(counts[full])
        for row in np.flatnonzero(places < capacity):
            self._rows[places[row]] = rows[row]
        self._seen += len(rows)

    def sample(self, count: int) -> np.ndarray:
        """Rows drawn uniformly with replacement, (count, dim) float32, a fresh array."""
        return self._rows[self._generator.integers(len(self), size=count)]

    def snapshot(self) -> Snapshot:
        """The filled rows and how many were seen; the stream belongs to its owner."""
        return {"rows": self._rows[: len(self)].copy(), "seen": self._seen}

    def restore(self, snapshot: Snapshot, generator: np.random.Generator) -> None:
        """Take over a state and go on with a stream.

        Raises:
            ValueError: It is of another capacity or of other rows.
        """
        seen = int(snapshot["seen"])
        filled = min(seen, len(self._rows))
        like = {"rows": self._rows[:filled]}
        self._rows[:filled] = load_arrays(snapshot, like)["rows"]
        self._seen, self._generator = seen, generator
