"""Joint paralysis: one joint's motor gives no torque, whatever the agent does."""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import mujoco
import numpy as np

from envs.laws import Law
from envs.modifiers.base import OfModel, Subject

LAW = Law(low=1.0, high=None, nominal=0.0, scale="whole", unit="number of the actuator, 0 = none")


class JointParalysis(OfModel):
    """Takes the gear of one actuator away: 1 is the first element of the action, 0 is none.

    The joint hangs loose. The agent still pays for the control that it gives, and is not told.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._gear = np.array(subject.models[0].actuator_gear)
        if len(self._gear) == 0:
            raise ValueError("modifier=joint_paralysis needs actuators, but this model has none.")

    def check(self, value: float) -> None:
        """Refuse numbers of actuators that do not exist."""
        LAW.check(value, "joint_paralysis")
        if value > len(self._gear):
            raise ValueError(
                f"joint_paralysis={value:g} is no actuator; they are numbered 1 to "
                f"{len(self._gear)}, and 0 is none."
            )

    def apply(self, model: mujoco.MjModel, value: float) -> None:
        self.check(value)
        model.actuator_gear[:] = self._gear
        if value:
            model.actuator_gear[int(value) - 1] = 0.0


def build(subject: Subject) -> JointParalysis:
    """Build the modifier.

    Raises:
        ValueError: The model has no actuators.
    """
    return JointParalysis(subject)
