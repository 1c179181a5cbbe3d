"""What a robot can feel of the ground: errors of its expectations, four numbers per transition."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.base import EnvInfo
from envs.contexts.layer import Step
from envs.contexts.transition_model import Settings, TransitionModel
from envs.snapshots import Snapshot

NUM_FEATURES = 4
ENERGY = 2  # place of the logarithm of the squared error among the features
# Where the observation holds the velocity along x; the sideways one (in the plane: the vertical
# one) follows it.
FORWARD = {"ant": 13, "hopper": 5, "walker2d": 8, "half_cheetah": 8, "humanoid": 22}


def forward_index(given: int | None, info: EnvInfo, settings: Any) -> int:
    """Where the observation holds the forward velocity.

    Args:
        given: What the configuration says; None looks the robot up.
        info: The environments.
        settings: Their configuration.

    Raises:
        ValueError: Nobody says, or there is no such place.
    """
    robot = getattr(settings, "robot", None)
    index = FORWARD.get(str(robot)) if given is None else given
    if index is None:
        raise ValueError(
            f"contexts that are inferred need to know where observations of {info.name} hold the "
            "forward velocity; set context.forward_index"
        )
    if not 0 <= index < info.observation_dim - 1:
        raise ValueError(
            f"context.forward_index is {index}, but observations of {info.name} have "
            f"{info.observation_dim} numbers, of which the forward velocity and the one after it "
            f"are read; give 0 to {info.observation_dim - 2}"
        )
    return index


class Residuals:
    """Features of transitions: what friction changes is not where the robot is, but what follows.

    With e the residuals of a `TransitionModel`: e of the forward velocity, e of the sideways
    velocity, ln(mean e^2 + 1e-3) over all dimensions that ever change, and the forward velocity
    over 0.1 + mean |action|. Only observations and actions are read.

    Args:
        info: The environments.
        forward: Where the observation holds the forward velocity.
        settings: How the model learns.
        generator: Of the model.
    """

    def __init__(
        self, info: EnvInfo, forward: int, settings: Settings, generator: np.random.Generator
    ) -> None:
        self._model = TransitionModel(
            info.observation_dim, info.action_low, info.action_high, settings, generator
        )
        self._forward, self._obs = forward, info.observation_dim
        self._act = info.action_dim

    def observe(self, step: Step, learn: bool) -> np.ndarray | None:
        """Features of a step, (N, 4) float64, with the model of before it; None before any fit.

        Args:
            step: What has happened.
            learn: Whether the model learns from it.
        """
        successor = step.info["next_observation"]
        rows = self._model.rows(step.observation, step.action, successor)
        found = self._features(rows, successor) if self._model.num_fits else None
        if learn:
            self._model.learn(rows)
        return found

    def _features(self, rows: np.ndarray, successor: np.ndarray) -> np.ndarray:
        errors = self._model.residuals(rows)
        dimensions = max(1, int(self._model.varies.sum()))
        effort = np.abs(rows[:, self._obs : self._obs + self._act]).mean(axis=1)
        return np.stack(
            (
                errors[:, self._forward],
                errors[:, self._forward + 1],
                np.log((errors**2).sum(axis=1) / dimensions + 1e-3),
                successor[:, self._forward] / (0.1 + effort),
            ),
            axis=1,
        )

    def snapshot(self) -> Snapshot:
        """The model."""
        return self._model.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Take over a model."""
        self._model.restore(snapshot)
