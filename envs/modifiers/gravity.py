"""Gravity: the robot falls, and weighs, more or less."""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import mujoco
import numpy as np

from envs.laws import Law
from envs.modifiers.base import OfModel, Subject

LAW = Law(low=4.905, high=19.62, nominal=9.81, scale="log", unit="m/s^2")


class Gravity(OfModel):
    """Sets the length of the model's gravity vector and keeps its direction."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        nominal = np.array(subject.models[0].opt.gravity)
        length = float(np.linalg.norm(nominal))
        if length == 0.0:
            raise ValueError(
                "modifier=gravity needs a model with gravity, but this one has none; choose "
                "another modifier."
            )
        self._direction = nominal / length

    def apply(self, model: mujoco.MjModel, value: float) -> None:
        model.opt.gravity[:] = value * self._direction


def build(subject: Subject) -> Gravity:
    """Build the modifier.

    Raises:
        ValueError: The model has no gravity that could change.
    """
    return Gravity(subject)
