"""Actuator gain: the same control gives more or less torque."""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import mujoco
import numpy as np

from envs.laws import Law
from envs.modifiers.base import OfModel, Subject

LAW = Law(low=0.5, high=2.0, nominal=1.0, scale="log", unit="times the robot's own")


class ActuatorGain(OfModel):
    """Scales gain and bias of all actuators, and with them their force."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        model = subject.models[0]
        muscles = np.asarray(model.actuator_gaintype) == mujoco.mjtGain.mjGAIN_MUSCLE
        if model.nu == 0 or muscles.any():
            raise ValueError(
                "modifier=actuator_gain scales motors and servos, but this model has "
                f"{model.nu} actuators of which {int(muscles.sum())} are muscles; choose another "
                "modifier."
            )
        self._gain, self._bias = np.array(model.actuator_gainprm), np.array(model.actuator_biasprm)

    def apply(self, model: mujoco.MjModel, value: float) -> None:
        model.actuator_gainprm[:] = value * self._gain
        model.actuator_biasprm[:] = value * self._bias


def build(subject: Subject) -> ActuatorGain:
    """Build the modifier.

    Raises:
        ValueError: The model's actuators are muscles, or it has none.
    """
    return ActuatorGain(subject)
