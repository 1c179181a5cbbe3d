"""Contexts inferred from transitions: running statistics of what surprises a model of the world.

Nobody announces the friction. A model of the average world predicts every transition; how its
errors lean and how large they are differs between frictions, and their averages over the last
seconds are the context. Friction outlives episodes, and so do the averages.

Deviation: gates by context are of Iyer et al. 2022, who announce their tasks; inferring the context
from residuals is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.base import EnvInfo
from envs.contexts.controls import own_stream
from envs.contexts.layer import Step
from envs.contexts.residuals import NUM_FEATURES, Residuals, velocity_places
from envs.contexts.running import Averages, Moments, nested, part_of
from envs.contexts.shown import Showing, Shown
from envs.contexts.transition_model import Settings
from envs.schedules import at_least
from envs.snapshots import Snapshot, require_equal

is_oracle, uses_boundaries = False, False
LARGEST = 5.0


@dataclass(frozen=True)
class Config(Showing):
    """How the context is inferred.

    Attributes:
        kind: Name of this file.
        horizons: Of the averages, in steps of one environment.
        pool: Average over all environments together, where they share one world.
        warmup_steps: Transitions before anything is shown; the model is not worth it earlier.
        hidden: Width of the model's two hidden layers.
        learning_rate: Of the model.
        reservoir: Transitions the model learns from, a uniform sample of the whole life.
        fit_every: Transitions between fits of the model.
        minibatches: Per fit.
        minibatch_size: Transitions of one.
        velocities: Where the observation holds the forward, sideways and turning velocity; null
            knows it for the walking robots.
    """

    kind: str = "inferred"
    horizons: tuple[int, ...] = (50, 500)
    pool: bool = False
    warmup_steps: int = 10_240
    hidden: int = 64
    learning_rate: float = 1e-3
    reservoir: int = 20_000
    fit_every: int = 2_048
    minibatches: int = 16
    minibatch_size: int = 256
    velocities: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_model(self)
        if not self.horizons:
            raise ValueError("context.horizons is empty; give at least one, for example [50, 500]")
        for horizon in self.horizons:
            at_least("context.horizons", horizon, 1)


def check_model(config: Any) -> None:
    """Refuse settings of the model that mean nothing.

    Raises:
        ValueError: A number is out of range.
    """
    names = ("hidden", "reservoir", "fit_every", "minibatches", "minibatch_size")
    for name in names:
        at_least(f"context.{name}", getattr(config, name), 1)
    at_least("context.warmup_steps", config.warmup_steps, 0)
    if not 0.0 < config.learning_rate < 1.0:
        raise ValueError(
            f"context.learning_rate is {config.learning_rate}; give a number between 0 and 1"
        )


def make_residuals(config: Any, info: EnvInfo, settings: Any, seed: int) -> Residuals:
    """The features of a run, with a stream of their own.

    Raises:
        ValueError: Nobody says where velocities are, or worlds may differ where
            environments are pooled.
    """
    rule = getattr(settings, "switch_rule", "exact")
    if config.pool and (info.num_tasks > 1 or rule != "exact"):
        raise ValueError(
            "context.pool=true averages over environments that may be in different worlds "
            f"(switch_rule={rule}, {info.num_tasks} tasks); set context.pool=false"
        )
    learning = Settings(
        config.hidden,
        config.learning_rate,
        config.reservoir,
        config.fit_every,
        config.minibatches,
        config.minibatch_size,
    )
    velocities = velocity_places(config.velocities, info, settings)
    return Residuals(info, velocities, learning, own_stream(seed, config.kind))


class Inferred(Shown):
    """Averages of the features of `Residuals`, standardised over the whole life, and a 1.

    Args:
        config: How.
        info: The environments.
        residuals: The features.
        seed: Of the control.
    """

    def __init__(self, config: Config, info: EnvInfo, residuals: Residuals, seed: int) -> None:
        dim = NUM_FEATURES * len(config.horizons) + 1
        super().__init__(dim, False, config, info, seed)
        self._config, self._residuals = config, residuals
        self._num_envs, self._steps = info.num_envs, 0
        streams = 1 if config.pool else info.num_envs
        self._averages = Averages(streams, NUM_FEATURES, config.horizons)
        self._moments = Moments(dim - 1)
        self._frozen = False
        self._known = self._told()

    def learn(self, step: Step) -> np.ndarray:
        """Take in a step; contexts of the true successors."""
        features = self._residuals.observe(step, learn=not self._frozen)
        self._steps += len(step.reward)
        if features is not None and self._steps > self._config.warmup_steps:
            pooled = features.mean(axis=0, keepdims=True) if self._config.pool else features
            self._averages.update(pooled)
            if not self._frozen:
                self._moments.update(self._averages.read())
        return self._told()

    def _told(self) -> np.ndarray:
        """Standardised averages, 0 where none has begun, and the 1."""
        told = self.neutral(self._num_envs)
        if self._moments.count:
            standard = (self._averages.read() - self._moments.mean) / self._moments.scale()
            standard[~self._averages.has_begun] = 0.0
            told[:, :-1] = np.clip(standard, -LARGEST, LARGEST)
        return told

    def neutral(self, count: int) -> np.ndarray:
        """0, ..., 0, 1."""
        told = super().neutral(count)
        told[:, -1] = 1.0
        return told

    def adopt(self, snapshot: Snapshot) -> None:
        """Take over what was learnt, not what was felt last, and learn no more: to be measured.

        Raises:
            ValueError: It is of other settings.
        """
        self._residuals.restore(part_of(snapshot, "residuals"))
        self._moments.restore(part_of(snapshot, "moments"))
        self._steps, self._frozen = int(snapshot["steps"]), True
        self.forget()

    def forget(self) -> None:
        """Begin anew with what was felt, as in a world never seen; what was learnt stays."""
        self._averages.forget()
        self._known = self._told()

    def snapshot(self) -> Snapshot:
        """Everything that later contexts depend on."""
        return {
            "label": self._label,
            "steps": self._steps,
            "frozen": int(self._frozen),
            **nested("control", self._control.snapshot()),
            **nested("residuals", self._residuals.snapshot()),
            **nested("averages", self._averages.snapshot()),
            **nested("moments", self._moments.snapshot()),
        }

    def restore(self, snapshot: Snapshot, envs: Any) -> None:
        """Take over a state.

        Raises:
            ValueError: It is of other settings.
        """
        require_equal(snapshot, "label", self._label)
        self._control.restore(part_of(snapshot, "control"))
        self._residuals.restore(part_of(snapshot, "residuals"))
        self._averages.restore(part_of(snapshot, "averages"))
        self._moments.restore(part_of(snapshot, "moments"))
        self._steps, self._frozen = int(snapshot["steps"]), bool(snapshot["frozen"])
        self._known = self._told()

    @property
    def _label(self) -> str:
        config = self._config
        return f"{config.kind}/{config.horizons}/{config.pool}/{config.control}"


def provide(
    config: Config, envs: Any, info: EnvInfo, settings: Any, total_steps: int, seed: int
) -> Inferred:
    """Build the provider of a run; see `given.provide`.

    Raises:
        ValueError: Nobody says where velocities are, or worlds may differ where
            environments are pooled.
    """
    return Inferred(config, info, make_residuals(config, info, settings, seed), seed)
