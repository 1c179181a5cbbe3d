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
from envs.contexts.felt import Feeling, Felt, make_residuals
from envs.contexts.residuals import NUM_FEATURES, Residuals
from envs.contexts.running import Averages, Moments
from envs.schedules import at_least

is_oracle, uses_boundaries = False, False
LARGEST = 5.0


@dataclass(frozen=True)
class Config(Feeling):
    """How the context is inferred.

    Attributes:
        kind: Name of this file.
        horizons: Of the averages, in steps of one environment.
    """

    kind: str = "inferred"
    horizons: tuple[int, ...] = (50, 500)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.horizons:
            raise ValueError("context.horizons is empty; give at least one, for example [50, 500]")
        for horizon in self.horizons:
            at_least("context.horizons", horizon, 1)


class Inferred(Felt):
    """Averages of the features of `Residuals`, standardised over the whole life, and a 1.

    Args:
        config: How.
        info: The environments.
        residuals: The features.
        seed: Of the control.
    """

    learnt = ("moments",)

    def __init__(self, config: Config, info: EnvInfo, residuals: Residuals, seed: int) -> None:
        dim = NUM_FEATURES * len(config.horizons) + 1
        super().__init__(dim, False, config, info, residuals, seed)
        self._config = config
        self._averages = Averages(self._num_streams, NUM_FEATURES, config.horizons)
        self._moments = Moments(dim - 1)
        self._parts |= {"averages": self._averages, "moments": self._moments}
        self._known = self._told()

    def _take(self, features: np.ndarray) -> None:
        self._averages.update(features)
        if not self._frozen:
            self._moments.update(self._averages.read())

    def _told(self) -> np.ndarray:
        """Standardised averages, 0 where none has begun, and the 1."""
        told = self.neutral(self._num_envs)
        if self._moments.count:
            standard = (self._averages.read() - self._moments.mean) / self._moments.scale()
            standard[~self._averages.has_begun] = 0.0
            told[:, :-1] = np.clip(standard, -LARGEST, LARGEST)
        return told

    def forget(self) -> None:
        """Begin anew with what was felt, as in a world never seen; what was learnt stays."""
        super().forget()
        self._averages.forget()
        self._known = self._told()

    def _silent_vector_steps(self) -> int:
        """The first averages of a single stream are their own mean, so that they say nothing."""
        alone = self._num_streams == 1 and not self._moments.count
        return super()._silent_vector_steps() + int(alone)

    @property
    def _form(self) -> str:
        config = self._config
        return f"{config.kind}/{config.horizons}/{config.pool}"


def provide(
    config: Config, envs: Any, info: EnvInfo, settings: Any, total_steps: int, seed: int
) -> Inferred:
    """Build the provider of a run; see `given.provide`.

    Raises:
        ValueError: Nobody says where velocities are, their places change, or worlds may differ
            where environments are pooled.
    """
    return Inferred(config, info, make_residuals(config, info, settings, seed), seed)
