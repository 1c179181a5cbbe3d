"""Body mass: all bodies get heavier or lighter by the same factor."""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

import mujoco
import numpy as np

from envs.laws import Law
from envs.modifiers.base import OfModel, Subject

LAW = Law(low=0.5, high=2.0, nominal=1.0, scale="log", unit="times the robot's own")


class Mass(OfModel):
    """Scales masses and inertias, and what the compiler derived from them.

    Contacts and limits are softer or harder by constants that the compiler computes from the
    masses, so these are derived again: the result equals a model that was compiled heavier.
    Joint armatures are no masses and stay.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        model = subject.models[0]
        self._mass, self._inertia = np.array(model.body_mass), np.array(model.body_inertia)
        # The derivation moves its data to the initial pose, so it gets data of its own.
        self._scratch = mujoco.MjData(model)

    def apply(self, model: mujoco.MjModel, value: float) -> None:
        model.body_mass[:] = value * self._mass
        model.body_inertia[:] = value * self._inertia
        mujoco.mj_setConst(model, self._scratch)


def build(subject: Subject) -> Mass:
    """Build the modifier."""
    return Mass(subject)
