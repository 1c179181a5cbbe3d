"""Running mean and variance of observations, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


class RunningNormalizer:
    """Standardises observations by the moments of everything seen so far.

    Statistics are float64: a float32 count stops growing at 2^24 samples. They survive world
    switches, because rebuilding them would announce the switch.

    Args:
        size: Length of an observation.
        clip: Standardised values are clipped to [-clip, clip].

    Source: Chan et al. 1979, parallel update of mean and squared deviations.
    """

    def __init__(self, size: int, clip: float = 10.0) -> None:
        self.clip = clip
        self.mean = np.zeros(size)
        self.squared_deviations = np.zeros(size)
        self.count = 0

    def update(self, observations: np.ndarray) -> None:
        """Take in a batch (B, size)."""
        batch = np.asarray(observations, dtype=np.float64)
        if not len(batch):
            return
        total = self.count + len(batch)
        shift = batch.mean(axis=0) - self.mean
        self.squared_deviations += ((batch - batch.mean(axis=0)) ** 2).sum(axis=0)
        self.squared_deviations += shift**2 * (self.count * len(batch) / total)
        self.mean = self.mean + shift * (len(batch) / total)
        self.count = total

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Standardise (..., size) observations."""
        scaled = (observations - self.mean) / self.deviation
        return np.clip(scaled, -self.clip, self.clip)

    @property
    def deviation(self) -> np.ndarray:
        """What differences from the mean are divided by, (size,); near 1 before any sample."""
        ones = np.ones_like(self.mean)
        variance = self.squared_deviations / self.count if self.count else ones
        return np.sqrt(variance + 1e-8)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the statistics."""
        return {
            "mean": self.mean.copy(),
            "squared_deviations": self.squared_deviations.copy(),
            "count": self.count,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the statistics."""
        self.mean = np.array(state["mean"])
        self.squared_deviations = np.array(state["squared_deviations"])
        self.count = int(state["count"])
