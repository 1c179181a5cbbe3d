"""What is true of the world: the task, the friction, or the number of the regime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from envs.probe import probe_values

NUM_CENTRES = 8
FEATURES = ("log", "rbf")


class Source(Protocol):
    """A true statement about the world, as a vector.

    Attributes:
        dim: Its length.
        discrete: Whether it is one of `dim` one-hot vectors.
    """

    @property
    def dim(self) -> int: ...
    @property
    def discrete(self) -> bool: ...

    def current(self, envs: Any) -> np.ndarray:
        """What holds for the next transition, (N, dim) float32, a fresh array."""
        ...

    def successor(self, envs: Any, info: Mapping[str, Any], ended: np.ndarray) -> np.ndarray:
        """What accompanies the true successors of the step just taken, (N, dim) float32."""
        ...

    def probed(self, probe: Any) -> np.ndarray:
        """What is true of a fixed sample set, (M, dim) float32; zeros where that is unknown."""
        ...


class Announced:
    """Whatever the environment announces by itself: the one-hot task."""

    def __init__(self, dim: int, discrete: bool) -> None:
        self.dim, self.discrete = dim, discrete

    def current(self, envs: Any) -> np.ndarray:
        """The environment's own context."""
        return envs.context

    def successor(self, envs: Any, info: Mapping[str, Any], ended: np.ndarray) -> np.ndarray:
        """The environment's own account of it."""
        return info["next_context"]

    def probed(self, probe: Any) -> np.ndarray:
        """The tasks of the samples."""
        return np.asarray(probe.contexts, dtype=np.float32)


class _OfRegime:
    """A function of what holds in every environment, which may change as an episode ends."""

    name = ""

    def encode(self, values: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def current(self, envs: Any) -> np.ndarray:
        return self.encode(getattr(envs, self.name))

    def successor(self, envs: Any, info: Mapping[str, Any], ended: np.ndarray) -> np.ndarray:
        # A final observation belongs to the world its episode lived in, not to the one that
        # begins; within an episode the successor is what the next action answers.
        held, now = np.asarray(info[self.name]), np.asarray(getattr(envs, self.name))
        return self.encode(np.where(ended, held, now))


class Friction(_OfRegime):
    """The friction, or whatever quantity changes, on its scale and with a constant 1 behind it.

    `log`: z = (ln friction - m) / s, with mean and standard deviation of the log-uniform law, so
    that C = 2. `rbf`: eight Gaussian bumps, equally spaced over the law in ln friction and as wide
    as their spacing, so that gates can favour middle frictions and generalise between neighbours;
    C = 9. The constant lets gates differ between a context and its negative.

    Args:
        low: Lower end of the law, or the lowest value that a schedule lists.
        high: Upper end likewise.
        features: log or rbf.
        scale: log, or linear for quantities whose law is uniform; then read every ln as nothing.
        quantity: What changes.
    """

    name, discrete = "regime_value", False

    def __init__(
        self,
        low: float,
        high: float,
        features: str,
        scale: str = "log",
        quantity: str = "friction",
    ) -> None:
        if features not in FEATURES:
            raise ValueError(
                f"context.features is {features!r}; choose one of {', '.join(FEATURES)}"
            )
        if scale == "whole":
            raise ValueError(
                f"context.source=friction tells how large a quantity is, but modifier={quantity} "
                "only numbers its worlds; choose context=regime"
            )
        self._is_log, self._quantity, self._features = scale == "log", quantity, features
        self._low, self._high = (math.log(low), math.log(high)) if self._is_log else (low, high)
        self.dim = 2 if features == "log" else NUM_CENTRES + 1

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Features of values (N,), (N, dim) float32."""
        values = np.asarray(values, dtype=np.float64)[:, None]
        logs = np.log(values) if self._is_log else values
        width = self._high - self._low
        if self._features == "log":
            told = (logs - (self._low + self._high) / 2.0) / (width / math.sqrt(12.0))
        else:
            spacing = width / (NUM_CENTRES - 1)
            centres = self._low + spacing * np.arange(NUM_CENTRES)
            told = np.exp(-0.5 * ((logs - centres) / spacing) ** 2)
        return np.concatenate((told, np.ones_like(logs)), axis=1).astype(np.float32)

    def probed(self, probe: Any) -> np.ndarray:
        """The samples come from ten worlds in turn, equally many from each."""
        values = probe_values(self._quantity)
        return self.encode(np.repeat(values, len(probe.observations) // len(values)))


class Regime(_OfRegime):
    """The number of the world, one-hot.

    A world that never returns has columns of its own that nothing has trained before: every
    switch is then a partial reset of the gates. Say so beside results.

    Args:
        num_regimes: Worlds that can be told apart, at least 1.
        cyclic: World k is world k modulo `num_regimes` come again.
    """

    name, discrete = "regime", True

    def __init__(self, num_regimes: int, cyclic: bool) -> None:
        if num_regimes < 1:
            raise ValueError(f"context.num_regimes is {num_regimes}; give at least 1")
        self.dim, self._cyclic = num_regimes, cyclic

    def encode(self, values: np.ndarray) -> np.ndarray:
        """One-hot numbers of worlds (N,), (N, dim) float32.

        Raises:
            ValueError: A world beyond the last column.
        """
        values = np.asarray(values, dtype=np.int64)
        if self._cyclic:
            values = values % self.dim
        if values.max(initial=0) >= self.dim:
            raise ValueError(
                f"world {values.max()} has no column in a context of {self.dim} regimes; raise "
                "context.num_regimes"
            )
        return np.eye(self.dim, dtype=np.float32)[values]

    def probed(self, probe: Any) -> np.ndarray:
        """The samples are of no world of the run."""
        return np.zeros((len(probe.observations), self.dim), dtype=np.float32)


class Nothing:
    """A world of which nothing is said."""

    dim, discrete = 0, True

    def current(self, envs: Any) -> np.ndarray:
        """Shape (N, 0)."""
        return np.zeros((envs.num_envs, 0), dtype=np.float32)

    def successor(self, envs: Any, info: Mapping[str, Any], ended: np.ndarray) -> np.ndarray:
        """Shape (N, 0)."""
        return self.current(envs)

    def probed(self, probe: Any) -> np.ndarray:
        """Shape (M, 0)."""
        return np.zeros((len(probe.observations), 0), dtype=np.float32)
