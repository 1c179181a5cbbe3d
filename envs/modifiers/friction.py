"""Friction: writing it into a model, and proving that contacts really use it."""

# pyright: reportAttributeAccessIssue=false
# because MuJoCo's compiled binding ships no type stubs.

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np

from envs.laws import Law
from envs.modifiers.base import OfModel, Subject

LAW = Law(
    low=0.02,
    high=2.0,
    nominal=1.0,
    scale="log",
    unit="sliding friction coefficient",
    floor=mujoco.mjMINMU,  # contacts never have less, whatever a geom says
)


def write_friction(model: mujoco.MjModel, friction: float) -> None:
    """Give all geoms the sliding friction ``friction``.

    All geoms, because a contact uses the element-wise maximum of its two geoms: lowering only the
    floor or only the body changes nothing. Columns 1 and 2 (torsional, rolling) stay as they are.
    """
    model.geom_friction[:, 0] = friction


def contact_mismatch(data: mujoco.MjData, friction: float) -> str | None:
    """Compare every active contact with the friction that should hold.

    Returns:
        None if both tangential coefficients of every contact equal ``friction`` exactly, otherwise
        one sentence that says which contact does not.
    """
    measured = np.asarray(data.contact.friction)[:, :2]
    wrong = np.flatnonzero((measured != friction).any(axis=1))
    if wrong.size == 0:
        return None
    first = int(wrong[0])
    geoms = np.asarray(data.contact.geom)[first].tolist()
    return (
        f"contact {first} between geoms {geoms[0]} and {geoms[1]} has friction "
        f"{measured[first].tolist()}, but the schedule says {friction}"
    )


class Friction(OfModel):
    """Frictions of a batch: writes them, and checks the first contacts after every change."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._data = subject.data
        self._written = np.full(len(subject.data), np.nan)
        self.unchecked = np.zeros(len(subject.data), dtype=bool)
        """Environments that had no contact since their friction changed, shape (N,)."""

    def apply(self, model: mujoco.MjModel, value: float) -> None:
        write_friction(model, value)

    def write(self, values: np.ndarray) -> None:
        """Write one friction per environment, shape (N,)."""
        super().write(values)
        self.unchecked |= values != self._written
        self._written[:] = values

    def violation(self) -> tuple[int, str] | None:
        """Look at the first contacts since the last change; call after every step.

        Returns:
            None, or the environment and a sentence that says which contact is wrong.
        """
        if not self.unchecked.any():
            return None
        for index in np.flatnonzero(self.unchecked).tolist():
            if self._data[index].ncon == 0:
                continue
            mismatch = contact_mismatch(self._data[index], float(self._written[index]))
            if mismatch is not None:
                return index, mismatch
            self.unchecked[index] = False
        return None

    def arrays(self) -> dict[str, np.ndarray]:
        """Which environments still have to be checked."""
        return {"contacts_unchecked": self.unchecked.copy()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.unchecked[:] = arrays["contacts_unchecked"]


def build(subject: Subject) -> Friction:
    """Build the modifier."""
    return Friction(subject)
