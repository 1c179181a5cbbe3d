"""What a robot can feel of the ground: errors of its expectations, four numbers per transition."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.base import EnvInfo
from envs.contexts.layer import Step
from envs.contexts.transition_model import Settings, TransitionModel
from envs.snapshots import Snapshot

NUM_FEATURES = 4
SLIP, TURN, ENERGY, SPEED = range(NUM_FEATURES)
# Where the observation holds the forward, the sideways and the turning velocity of the torso (in
# the plane: forward, vertical and pitching).
VELOCITIES = {
    "ant": (13, 14, 18),
    "hopper": (5, 6, 7),
    "walker2d": (8, 9, 10),
    "half_cheetah": (8, 9, 10),
    "humanoid": (22, 23, 27),
}


def velocity_places(
    given: tuple[int, int, int] | None, info: EnvInfo, settings: Any
) -> tuple[int, int, int]:
    """Where the observation holds the forward, the sideways and the turning velocity.

    Args:
        given: What the configuration says; None looks the robot up.
        info: The environments.
        settings: Their configuration.

    Raises:
        ValueError: Nobody says, or there is no such place.
    """
    places = VELOCITIES.get(str(getattr(settings, "robot", None))) if given is None else given
    if places is None:
        raise ValueError(
            f"contexts that are inferred need to know where observations of {info.name} hold the "
            "forward, the sideways and the turning velocity; set context.velocities=[i,j,k]"
        )
    if not all(0 <= place < info.observation_dim for place in places):
        raise ValueError(
            f"context.velocities is {list(places)}, but observations of {info.name} have "
            f"{info.observation_dim} numbers; give three places from 0 to "
            f"{info.observation_dim - 1}"
        )
    return places


class Residuals:
    """Features of transitions: what friction changes is not where the robot is, but what follows.

    With e the residuals of a `TransitionModel` and v velocities after the step: slip, the sum of
    e v over the forward and the sideways velocity (on slippery ground motion goes on for longer
    than expected, so that errors point along it, whatever its direction); the same for turning;
    energy, ln(mean e^2 + 1e-3) over all dimensions that ever change; and the speed over 0.1 + mean
    |action|. Only observations and actions are read.

    Errors themselves say little: their sign depends on the direction of motion. Between frictions
    of 1 and 0.1, over 50 steps of one Ant, the means of e of the two velocities differ by 0.1 and
    0.3 standard deviations, those of e v by 1.4 to 1.8.

    Args:
        info: The environments.
        velocities: Where the observation holds them; see `velocity_places`.
        settings: How the model learns.
        generator: Of the model.
    """

    def __init__(
        self,
        info: EnvInfo,
        velocities: tuple[int, int, int],
        settings: Settings,
        generator: np.random.Generator,
    ) -> None:
        self._model = TransitionModel(
            info.observation_dim, info.action_low, info.action_high, settings, generator
        )
        self._planar, self._turning = list(velocities[:2]), velocities[2]
        self._obs = info.observation_dim
        self._act, self._num_envs = info.action_dim, info.num_envs

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
        planar = successor[:, self._planar]
        return np.stack(
            (
                (errors[:, self._planar] * planar).sum(axis=1),
                errors[:, self._turning] * successor[:, self._turning],
                np.log((errors**2).sum(axis=1) / dimensions + 1e-3),
                np.sqrt((planar**2).sum(axis=1)) / (0.1 + effort),
            ),
            axis=1,
        )

    def silent_vector_steps(self) -> int:
        """Vector steps before the first one that has features: the model has to be fitted."""
        return -(-self._model.rows_until_fit // self._num_envs)

    def take_over(self, snapshot: Snapshot) -> None:
        """Go on from another one's model; see `TransitionModel.take_over`."""
        self._model.take_over(snapshot)

    def snapshot(self) -> Snapshot:
        """The model."""
        return self._model.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Take over a model."""
        self._model.restore(snapshot)
