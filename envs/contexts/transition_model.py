"""What usually follows an observation and an action, learnt over the whole life.

A model of recent data would follow the world as it changes, and its errors would say nothing. One
that is fitted to a uniform sample of everything seen answers for the average world, so that its
errors have a sign and a size in each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.contexts.running import Moments, nested, part_of
from envs.contexts.small_network import Reservoir, SmallNetwork
from envs.snapshots import Snapshot, Stored, load_generators, require, save_generators

LARGEST_RESIDUAL = 5.0
SMOOTHED_FITS = 10


@dataclass(frozen=True)
class Settings:
    """How the model learns.

    Attributes:
        hidden: Width of its two hidden layers.
        learning_rate: Of Adam.
        reservoir: Transitions in memory. Deviation: a fifth of the designed 100,000, to keep the
            memory of many runs small; every transition of the past is still equally likely.
        fit_every: Transitions between fits.
        minibatches: Per fit.
        minibatch_size: Transitions of one.
    """

    hidden: int = 64
    learning_rate: float = 1e-3
    reservoir: int = 20_000
    fit_every: int = 2_048
    minibatches: int = 16
    minibatch_size: int = 256


class TransitionModel(Stored):
    """Predicts the change of the observation, in units of its standard deviation.

    Residuals are (change - prediction) over their root mean square in every dimension, clipped to
    +-5. That root mean square is taken on the sample of the whole past, with the present model:
    taken on recent steps it would follow the world, and as a mean over all residuals ever met it
    would keep the errors of the untrained model.

    Args:
        observation_dim: Length of an observation.
        action_low: (act,) actions are clipped there, since more has no effect.
        action_high: (act,).
        settings: How it learns.
        generator: First weights, reservoir and minibatches; a stream of its own.
    """

    def __init__(
        self,
        observation_dim: int,
        action_low: np.ndarray,
        action_high: np.ndarray,
        settings: Settings,
        generator: np.random.Generator,
    ) -> None:
        self._settings, self._generator = settings, generator
        self._low, self._high = action_low, action_high
        self._obs = observation_dim
        self._inputs = observation_dim + len(action_low)
        sizes = (self._inputs, settings.hidden, settings.hidden, observation_dim)
        self._network = SmallNetwork(sizes, settings.learning_rate, generator)
        width = self._inputs + observation_dim
        self._reservoir = Reservoir(settings.reservoir, width, generator)
        self._moments = Moments(width)
        self._arrays = {
            "mean": np.zeros(width),
            "scale": np.ones(width),
            "error": np.ones(observation_dim),  # mean squared, in units of the change's deviation
            "varies": np.ones(observation_dim, dtype=bool),
            "fits": np.zeros(1, dtype=np.int64),
            "since": np.zeros(1, dtype=np.int64),
        }

    @property
    def num_fits(self) -> int:
        """Fits so far."""
        return int(self._arrays["fits"][0])

    @property
    def rows_until_fit(self) -> int:
        """Transitions until the first fit; 0 after it."""
        due = self._settings.fit_every - int(self._arrays["since"][0])
        return 0 if self.num_fits else due

    @property
    def varies(self) -> np.ndarray:
        """Dimensions of the observation that have changed at all by the last fit, (obs,) bool."""
        return self._arrays["varies"].copy()

    def rows(
        self, observation: np.ndarray, action: np.ndarray, successor: np.ndarray
    ) -> np.ndarray:
        """Transitions as rows, (N, obs + act + obs) float64: inputs, then the change."""
        clipped = np.clip(action, self._low, self._high)
        change = np.asarray(successor, dtype=np.float64) - observation
        return np.concatenate((observation, clipped, change), axis=1)

    def residuals(self, rows: np.ndarray) -> np.ndarray:
        """Scaled and clipped errors of the prediction, (N, obs); 0 where nothing ever changes."""
        normal = self._normalized(rows)
        error = normal[:, self._inputs :] - self._predicted(normal)[-1]
        scaled = np.where(self.varies, error / np.sqrt(self._arrays["error"]), 0.0)
        return np.clip(scaled, -LARGEST_RESIDUAL, LARGEST_RESIDUAL)

    def learn(self, rows: np.ndarray) -> None:
        """Remember transitions, and fit when enough are new."""
        self._moments.update(rows)
        self._reservoir.add(rows)
        state = self._arrays
        state["since"] += len(rows)
        if state["since"][0] >= self._settings.fit_every:
            state["since"][0] = 0
            self._fit()

    def _fit(self) -> None:
        state, settings = self._arrays, self._settings
        state["mean"], state["scale"] = self._moments.mean, self._moments.scale()
        state["varies"] = self._moments.variance[self._inputs :] > 1e-12
        squares = np.zeros(self._obs)
        for _ in range(settings.minibatches):
            normal = self._normalized(self._reservoir.sample(settings.minibatch_size))
            values = self._predicted(normal)
            error = values[-1] - normal[:, self._inputs :]
            squares += (error.astype(np.float64) ** 2).mean(axis=0)
            slope = (2.0 / error.size) * error
            self._network.step(self._network.gradients(values, slope)[0])
        state["fits"] += 1
        share = 1.0 / min(self.num_fits, SMOOTHED_FITS)
        found = np.maximum(squares / settings.minibatches, 1e-12)
        state["error"] = state["error"] + share * (found - state["error"])

    def _normalized(self, rows: np.ndarray) -> np.ndarray:
        return ((rows - self._arrays["mean"]) / self._arrays["scale"]).astype(np.float32)

    def _predicted(self, normal: np.ndarray) -> list[np.ndarray]:
        return self._network.forward(normal[:, : self._inputs])

    def snapshot(self) -> Snapshot:
        """Everything that later residuals depend on."""
        state = super().snapshot()
        state |= nested("network", self._network.snapshot())
        state |= nested("reservoir", self._reservoir.snapshot())
        state |= nested("moments", self._moments.snapshot())
        save_generators([self._generator], state)
        return state

    def restore(self, snapshot: Snapshot) -> None:
        """Take over a state.

        Raises:
            ValueError: It is incomplete, or of another size.
        """
        (generator,) = load_generators(snapshot, 1)
        self._load(snapshot, generator)

    def take_over(self, snapshot: Snapshot) -> None:
        """Go on from another model with what it has learnt; draws stay this one's own.

        Raises:
            ValueError: It is incomplete, or of another size.
        """
        self._load(snapshot, self._generator)

    def _load(self, snapshot: Snapshot, generator: np.random.Generator) -> None:
        require(snapshot, "reservoir_seen")
        super().restore(snapshot)
        self._generator = generator
        self._network.restore(part_of(snapshot, "network"))
        self._reservoir.restore(part_of(snapshot, "reservoir"), generator)
        self._moments.restore(part_of(snapshot, "moments"))
